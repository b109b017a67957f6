"""The CircuitBreaker actor: which backend is failing."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from typing import Any

from actors.clients.calls import was_restarted
from actors.config import Settings
from actors.core.breaker import Breaker, BreakerSnapshot, BreakerState
from actors.telemetry.logs import log_as_json

log = logging.getLogger(__name__)


class CircuitBreaker:
    """One breaker for each backend, fed by batched reports and read by snapshots.

    In memory only. A restart begins in a cautious ramp, with generations beyond all that were given out before.
    """

    def __init__(self, settings: Settings) -> None:
        log_as_json()
        self._settings = settings.breaker
        self._cautious = was_restarted()
        # Generations only have to differ from those of the life before.
        self._generation = time.time_ns() // 1_000_000 if self._cautious else 0
        self._breakers: dict[str, Breaker] = {}
        self._trips: Counter[str] = Counter()

    def report(self, outcomes: list[tuple[str, int, bool, float]]) -> dict[str, BreakerSnapshot]:
        """Count outcomes, given as (backend, generation, ok, seconds); returns every breaker's state."""
        for name, generation, ok, seconds in outcomes:
            breaker = self._breaker(name)
            before = breaker.snapshot().state
            breaker.report(generation, ok, seconds)
            after = breaker.snapshot().state
            if after is not before:
                self._trips[name] += after is BreakerState.OPEN
                log.warning("breaker %s: %s → %s", name, before.value, after.value)
        return {name: breaker.snapshot() for name, breaker in self._breakers.items()}

    def metrics(self) -> dict[str, Any]:
        """The worst breaker's state, and each one's."""
        snapshots = {name: breaker.snapshot() for name, breaker in self._breakers.items()}
        states = [snapshot.state for snapshot in snapshots.values()]
        worst = next((state for state in (BreakerState.OPEN, BreakerState.HALF_OPEN) if state in states), None)
        return {
            "state": (worst or BreakerState.CLOSED).value,
            "failure_rate": max((snapshot.failure_rate for snapshot in snapshots.values()), default=0.0),
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

    def _breaker(self, name: str) -> Breaker:
        breaker = self._breakers.get(name)
        if breaker is None:
            breaker = self._breakers[name] = Breaker(
                self._settings,
                time.monotonic,
                random.Random(),
                cautious=self._cautious,
                generation=self._generation,
            )
        return breaker
