"""The RateLimiter actor: the plan's rates, for everybody in the deployment."""

from __future__ import annotations

import time
import uuid
from typing import Any

from actors.backends import LOCAL
from actors.clients.calls import was_restarted
from actors.config import RateLimitSettings, Settings
from actors.core.limits.holds import Semaphore
from actors.core.limits.rate_limits import LimitKey, Plan, RateLimits, TokenLease
from actors.telemetry.logs import log_as_json

OPERATIONS, LIFECYCLE = 40_000, 20_000
CREATIONS_PER_S = {"hobby": 1.0, "pro": 5.0}
CONCURRENT_SANDBOXES = {"hobby": 20, "pro": 100}


def plans(settings: RateLimitSettings, e2b_plan: str) -> dict[tuple[str, str], Plan]:
    """The plan of each (backend, operation); a local backend has one only where it is set.

    Source of the numbers: E2B's documentation, "Rate limits".
    """
    found: dict[tuple[str, str], Plan] = {}
    for backend in (*LOCAL, "e2b"):
        theirs = backend not in LOCAL
        operations = settings.operations or (OPERATIONS if theirs else None)
        lifecycle = settings.lifecycle or (LIFECYCLE if theirs else None)
        creation_per_s = settings.creation_per_s or (CREATIONS_PER_S[e2b_plan] if theirs else None)
        if operations is not None:
            found[backend, "operations"] = Plan(operations, settings.operations_window_s)
        if lifecycle is not None:
            found[backend, "lifecycle"] = Plan(lifecycle, settings.lifecycle_window_s)
        if creation_per_s is not None:
            found[backend, "creation"] = Plan.per_second(creation_per_s)
    return found


class RateLimiter:
    """TokenLease tokens, in batches and in advance, so that no window ever sees more than the plan.

    In memory only. A restart issues nothing until every lease of the life before has run out, then starts empty.
    """

    def __init__(self, settings: Settings) -> None:
        log_as_json()
        self._limits = RateLimits(
            plans(settings.rate_limit, settings.e2b.plan),
            time.monotonic,
            incarnation=uuid.uuid4().hex[:8],
            semaphores={("e2b", "sandboxes"): Semaphore(CONCURRENT_SANDBOXES[settings.e2b.plan])},
            lease_ttl_s=settings.rate_limit.lease_ttl_s,
            restarted=was_restarted(),
        )

    def lease(self, holder: str, backend: str, operation: str, wanted: int) -> TokenLease:
        return self._limits.lease(holder, LimitKey(backend, operation), wanted)

    def give_back(self, lease_id: str, unused: int) -> None:
        self._limits.give_back(lease_id, unused)

    def report(self, backend: str, succeeded: int, failed: int, throttled: int) -> None:
        """Tell how a backend's operations ended: throttled ones halve the rate."""
        key = LimitKey(backend, "operations")
        self._limits.report(key, succeeded=succeeded, failed=failed, throttled=throttled)

    def metrics(self) -> dict[str, Any]:
        return self._limits.snapshot()
