"""The CircuitBreaker actor: which backend is failing."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from typing import Any

from actors.clients.calls import was_restarted
from actors.config import Settings
from actors.core.breaker import BreakerState
from actors.core.breakers import BackendBreakers, BackendSnapshot, CallOutcome
from actors.telemetry.logs import log_as_json

log = logging.getLogger(__name__)


class CircuitBreaker:
    """The breakers of each backend, fed by batched reports and read by snapshots.

    In memory only. A restart begins in a cautious ramp, with generations beyond all that were given out before.
    """

    def __init__(self, settings: Settings) -> None:
        log_as_json()
        self._settings = settings.breaker
        self._cautious = was_restarted()
        # Generations only have to differ from those of the life before.
        self._generation = time.time_ns() // 1_000_000 if self._cautious else 0
        self._backends: dict[str, BackendBreakers] = {}
        self._trips: Counter[str] = Counter()

    def report(self, outcomes: list[CallOutcome]) -> dict[str, BackendSnapshot]:
        """Count outcomes; returns the state of every backend's breakers."""
        for outcome in outcomes:
            name = outcome.permit.backend
            breakers = self._breakers(name)
            before = breakers.shared.state
            breakers.report(outcome)
            after = breakers.shared.state
            if after is not before:
                self._trips[name] += after is BreakerState.OPEN
                log.warning("breaker %s: %s → %s", name, before.value, after.value)
        return {name: breakers.snapshot() for name, breakers in self._backends.items()}

    def metrics(self) -> dict[str, Any]:
        """The worst of the breakers that users share, and each one's state; of users' own, how many stop one."""
        snapshots = {name: breakers.shared.snapshot() for name, breakers in self._backends.items()}
        states = [snapshot.state for snapshot in snapshots.values()]
        worst = next((state for state in (BreakerState.OPEN, BreakerState.HALF_OPEN) if state in states), None)
        return {
            "state": (worst or BreakerState.CLOSED).value,
            "failure_rate": max((snapshot.failure_rate for snapshot in snapshots.values()), default=0.0),
            "stopped_users": sum(breakers.stopped_users for breakers in self._backends.values()),
            "breakers": {
                name: {
                    "state": snapshot.state.value,
                    "failure_rate": snapshot.failure_rate,
                    "slow_rate": snapshot.slow_rate,
                    "calls": snapshot.calls,
                    "admit_probability": snapshot.admit_probability,
                    "retry_after_s": snapshot.retry_after_s,
                    "trips": self._trips[name],
                }
                for name, snapshot in snapshots.items()
            },
        }

    def _breakers(self, name: str) -> BackendBreakers:
        breakers = self._backends.get(name)
        if breakers is None:
            breakers = self._backends[name] = BackendBreakers(
                self._settings,
                time.monotonic,
                random.Random(),
                cautious=self._cautious,
                generation=self._generation,
            )
        return breakers
