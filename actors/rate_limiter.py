"""The RateLimiter actor: the plan's rates, for everybody in the deployment."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from typing import Any

from actors.backends import specs
from actors.backends.specs import BackendSpec
from actors.clients.calls import was_restarted
from actors.config import Settings
from actors.core.limits.health import Outcomes
from actors.core.limits.holds import Semaphore
from actors.core.limits.rate_limits import LimitKey, Plan, RateLimits, TokenLease
from actors.core.limits.token_bucket import Decision
from actors.telemetry.logs import log_as_json

SANDBOXES = "sandboxes"
HOLD_TTL_S = 10.0
"""The places of a holder that was not heard of for so long are free; a restarted limiter waits so long for news."""


def plans(table: Iterable[BackendSpec]) -> dict[tuple[str, str], Plan]:
    """The plan of each (backend, operation) that has a quota."""
    found: dict[tuple[str, str], Plan] = {}
    for spec in table:
        quota, windows = spec.quota, spec.row.rate_limit
        if quota.operations is not None:
            found[spec.name, "operations"] = Plan(quota.operations, windows.operations_window_s)
        if quota.lifecycle is not None:
            found[spec.name, "lifecycle"] = Plan(quota.lifecycle, windows.lifecycle_window_s)
        if quota.creation_per_s is not None:
            found[spec.name, "creation"] = Plan.per_second(quota.creation_per_s)
    return found


class RateLimiter:
    """Lease tokens, in batches and in advance, so that no window ever sees more than the plan.

    In memory only. A restart issues nothing until every lease of the life before has run out, then starts empty.
    """

    def __init__(self, settings: Settings) -> None:
        log_as_json()
        table = specs.table(settings).values()
        self._limits = RateLimits(
            plans(table),
            time.monotonic,
            incarnation=uuid.uuid4().hex[:8],
            semaphores={
                (spec.name, SANDBOXES): Semaphore(spec.quota.sandboxes) for spec in table if spec.quota.sandboxes
            },
            hold_ttl_s=HOLD_TTL_S,
            lease_ttl_s=settings.rate_limit.lease_ttl_s,
            restarted=was_restarted(),
        )

    def lease(self, holder: str, backend: str, operation: str, wanted: int) -> TokenLease:
        return self._limits.lease(holder, LimitKey(backend, operation), wanted)

    def give_back(self, lease_id: str, unused: int) -> None:
        self._limits.give_back(lease_id, unused)

    def reserve(self, holder: str, backend: str) -> Decision:
        """Take a place for one more sandbox of a backend, if its plan has one left."""
        return self._limits.reserve(holder, LimitKey(backend, SANDBOXES))

    def release(self, holder: str, backend: str) -> None:
        self._limits.release(holder, LimitKey(backend, SANDBOXES))

    def renew(self, holder: str, backend: str, held: int) -> None:
        """Keep a holder's places, and learn after a restart how many they are."""
        self._limits.renew(holder, {LimitKey(backend, SANDBOXES): held})

    def report(self, backend: str, operation: str, outcomes: Outcomes) -> float:
        """Take in how calls of a backend ended; returns how well it does, from 0 to 1."""
        return self._limits.report(LimitKey(backend, operation), outcomes)

    def metrics(self) -> dict[str, Any]:
        return self._limits.snapshot()
