"""Operation tokens that the orchestrator holds in advance, so that spending one costs no call."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from actors.clients.singletons import LimiterClient
from actors.core.limits.health import Outcomes
from actors.core.limits.rate_limits import TokenLease
from actors.errors import ActorUnavailable, RateLimited, ServiceError

log = logging.getLogger(__name__)
PATIENCE_S = 8.0
"""How long a run that has its sandbox waits for its token: longer than a restarted limiter is silent."""
POLL_S = 0.1
"""How often it asks again meanwhile."""
LEAST_LEASE, MOST_LEASE = 32, 1024


@dataclass(slots=True)
class _HeldLease:
    lease: TokenLease
    left: int
    expires_at: float


class _Account:
    """The leases of one backend, oldest first, and who waits for tokens."""

    def __init__(self) -> None:
        self.leases: deque[_HeldLease] = deque()
        self.turn = asyncio.Lock()  # whoever waits is served in order, so that one who wants many is not starved
        self.waiting = 0
        self.spent = 0
        """Since the last lease."""
        self.dry_until = 0.0
        """The limiter had less than was wanted, and will have no more before."""

    def left(self, now: float) -> int:
        while self.leases and self.leases[0].expires_at <= now:
            self.leases.popleft()
        return sum(held.left for held in self.leases)


class TokenLeases:
    """Operation tokens held in advance: a run spends one without asking anybody.

    More are leased in the background when half of a lease's time or of its tokens is gone, sized by what was spent
    lately. Only the first run after a quiet time, or beyond the plan, waits for the limiter. What is leased is kept
    until it is spent or expires, since tokens that are given back are lost to the limiter's pace.
    """

    def __init__(
        self,
        source: LimiterClient,
        holder: str = "orchestrator",
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._source, self._holder, self._clock, self._sleep = source, holder, clock, sleep
        self._accounts: dict[str, _Account] = {}
        self._renewals: dict[str, asyncio.Task[TokenLease]] = {}

    async def spend(self, backend: str, count: int = 1, within_s: float = math.inf) -> None:
        """Take ``count`` tokens.

        Waits a little for tokens that come soon, and for a limiter that is restarting, but no longer than ``within_s``.

        Raises:
            RateLimited: the plan is used up; says when to come back.
            ActorUnavailable: the limiter is away and no lease is left. Nothing runs without a token.
        """
        account = self._accounts.setdefault(backend, _Account())
        account.spent += count
        if account.waiting or not self._take(backend, account, count):
            account.waiting += 1
            try:
                await self._wait_for(backend, account, count, min(within_s, PATIENCE_S))
            finally:
                account.waiting -= 1

    def throttled(self, backend: str) -> None:
        """Tell the limiter that the backend refused a call because there were too many."""
        self._source.tell(backend, "operations", Outcomes(throttled=1))

    async def _wait_for(self, backend: str, account: _Account, count: int, patience_s: float) -> None:
        gives_up_at = self._clock() + patience_s
        async with account.turn:
            while not self._take(backend, account, count):
                try:
                    lease = await asyncio.shield(self._renewal(backend, account, count))
                    if account.left(self._clock()) >= count:
                        continue
                    delay_s = max(lease.retry_after_s, POLL_S)
                    error: ServiceError = RateLimited(f"the plan's operations on {backend} are used up", delay_s)
                except ActorUnavailable as away:
                    delay_s, error = POLL_S, away
                if self._clock() + delay_s > gives_up_at:
                    raise error
                await self._sleep(delay_s)

    def _take(self, backend: str, account: _Account, count: int) -> bool:
        now = self._clock()
        left = account.left(now)
        if left < count:
            return False
        missing = count
        while missing:
            oldest = account.leases[0]
            taken = min(missing, oldest.left)
            oldest.left -= taken
            missing -= taken
            if not oldest.left:
                self._source.give_back(oldest.lease.lease_id, 0)
                account.leases.popleft()
        newest = account.leases[-1] if account.leases else None
        low = left - count < self._sized(account) / 2
        if now >= account.dry_until and (low or not newest or newest.expires_at - now < newest.lease.ttl_s / 2):
            self._renewal(backend, account, 1)
        return True

    @staticmethod
    def _sized(account: _Account) -> int:
        return min(max(2 * account.spent, LEAST_LEASE), MOST_LEASE)

    def _renewal(self, backend: str, account: _Account, count: int) -> asyncio.Task[TokenLease]:
        task = self._renewals.get(backend)
        if task is None:
            task = self._renewals[backend] = asyncio.ensure_future(self._renew(backend, account, count))
            task.add_done_callback(lambda done: self._renewed(backend, done))
        return task

    async def _renew(self, backend: str, account: _Account, count: int) -> TokenLease:
        # Counted from before the limiter did, so that it ends here first.
        asked_at = self._clock()
        left = account.left(asked_at)
        wanted = max(count - left, self._sized(account) - left, 1)
        account.spent = 0
        lease = await self._source.lease(self._holder, backend, "operations", wanted)
        if lease.granted:
            account.leases.append(_HeldLease(lease, lease.granted, asked_at + lease.ttl_s))
        account.dry_until = asked_at + lease.retry_after_s if lease.granted < wanted else 0.0
        return lease

    def _renewed(self, backend: str, task: asyncio.Task[TokenLease]) -> None:
        del self._renewals[backend]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("tokens could not be renewed", extra={"backend": backend, "error": str(error)})
