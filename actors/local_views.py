"""What the orchestrator knows beforehand, so that asking costs no call: breaker snapshots and leased tokens."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from actors.core.breaker import BreakerSnapshot, BreakerState, Refusal, admit
from actors.core.rate_limits import Lease
from actors.errors import ActorUnavailable, BreakerOpen, RateLimited, ServiceError
from actors.telemetry import get_logger

log = get_logger(__name__)
FLUSH_S, GATHER_S = 0.005, 0.25
"""How long outcomes are gathered: with a failure among them, and while all is well."""
PATIENCE_S = 8.0
"""A run that has its sandbox already waits so long for its token, longer than a restarted limiter is silent, and asks
again so often:"""
POLL_S = 0.1
LEAST_LEASE, MOST_LEASE = 32, 1024


class BreakerReports(Protocol):
    async def report(self, outcomes: list[tuple[str, int, bool, float]]) -> dict[str, BreakerSnapshot]: ...


class BreakerView:
    """Permits from the last snapshots; outcomes are sent in batches, whose answers are the next snapshots.

    While the breaker's actor is away the last snapshot holds: an absent breaker stops nobody.
    """

    def __init__(
        self,
        client: BreakerReports,
        rng: random.Random | None = None,
        flush_s: float = FLUSH_S,
        gather_s: float = GATHER_S,
    ) -> None:
        self._client, self._flush_s, self._gather_s = client, flush_s, gather_s
        self._rng = rng or random.Random()
        self._snapshots: dict[str, BreakerSnapshot] = {}
        self._seen_at = time.monotonic()
        self._permitted_at: dict[str, float] = {}
        self._outcomes: list[tuple[str, int, bool, float]] = []
        self._urgent = False
        self._due: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[None] | None = None

    def permit(self, backend: str) -> int:
        """The generation that the call's outcome is to be reported with.

        Raises:
            BreakerOpen: the backend is failing.
        """
        name = f"{backend}/execute"
        snapshot = self._snapshots.get(name)
        if snapshot is None:
            return 0
        now = time.monotonic()
        idle_s = now - self._permitted_at.get(name, 0.0)
        answer = admit(snapshot, now - self._seen_at, self._rng, idle_s)
        if isinstance(answer, Refusal):
            why = f"{snapshot.failure_rate:.0%} of its last {snapshot.calls} calls failed"
            raise BreakerOpen(f"backend {backend} is given time to recover ({why})", answer.retry_after_s)
        self._permitted_at[name] = now
        return answer.generation

    def report(self, backend: str, generation: int, ok: bool, seconds: float) -> None:
        """Tell the outcome of a permitted call; a failure is sent at once, as is all that helps a breaker to close."""
        name = f"{backend}/execute"
        snapshot = self._snapshots.get(name)
        healthy = ok and snapshot is not None and snapshot.state is BreakerState.CLOSED
        self._outcomes.append((name, generation, ok, seconds))
        self._urgent = self._urgent or not healthy
        self._send_within(self._flush_s if self._urgent else self._gather_s)

    def refresh(self) -> None:
        """Ask for the state even though there is nothing to report: an open breaker closes by time."""
        self._send_within(self._flush_s)

    def _send_within(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        if self._due is not None and self._due.when() > loop.time() + seconds:
            self._due.cancel()
            self._due = None
        if self._due is None and self._sending is None:
            self._due = loop.call_later(seconds, self._start_sending)

    def _start_sending(self) -> None:
        self._due = None
        self._sending = asyncio.ensure_future(self._send())

    async def _send(self) -> None:
        outcomes, self._outcomes, self._urgent = self._outcomes, [], False
        try:
            self._snapshots = await self._client.report(outcomes)
            self._seen_at = time.monotonic()
        except ServiceError as error:
            log.warning("breaker unavailable", extra={"error": str(error), "unreported": len(outcomes)})
        finally:
            self._sending = None
        if self._outcomes:
            self._send_within(self._flush_s if self._urgent else self._gather_s)


class TokenSource(Protocol):
    async def lease(self, holder: str, backend: str, operation: str, wanted: int) -> Lease: ...
    def give_back(self, lease_id: str, unused: int) -> None: ...


@dataclass(slots=True)
class _Held:
    lease: Lease
    left: int
    expires_at: float


class _Account:
    """The leases of one backend, oldest first, and who waits for tokens."""

    def __init__(self) -> None:
        self.leases: deque[_Held] = deque()
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
        source: TokenSource,
        holder: str = "orchestrator",
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._source, self._holder, self._clock, self._sleep = source, holder, clock, sleep
        self._accounts: dict[str, _Account] = {}
        self._renewals: dict[str, asyncio.Task[Lease]] = {}

    async def spend(self, backend: str, count: int = 1) -> None:
        """Take ``count`` tokens.

        Waits a little for tokens that come soon, and for a limiter that is restarting.

        Raises:
            RateLimited: the plan is used up; says when to come back.
            ActorUnavailable: the limiter is away and no lease is left. Nothing runs without a token.
        """
        account = self._accounts.setdefault(backend, _Account())
        account.spent += count
        if account.waiting or not self._take(backend, account, count):
            account.waiting += 1
            try:
                await self._wait_for(backend, account, count)
            finally:
                account.waiting -= 1

    async def _wait_for(self, backend: str, account: _Account, count: int) -> None:
        gives_up_at = self._clock() + PATIENCE_S
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

    def _renewal(self, backend: str, account: _Account, count: int) -> asyncio.Task[Lease]:
        task = self._renewals.get(backend)
        if task is None:
            task = self._renewals[backend] = asyncio.ensure_future(self._renew(backend, account, count))
            task.add_done_callback(lambda done: self._renewed(backend, done))
        return task

    async def _renew(self, backend: str, account: _Account, count: int) -> Lease:
        # Counted from before the limiter did, so that it ends here first.
        asked_at = self._clock()
        left = account.left(asked_at)
        wanted = max(count - left, self._sized(account) - left, 1)
        account.spent = 0
        lease = await self._source.lease(self._holder, backend, "operations", wanted)
        if lease.granted:
            account.leases.append(_Held(lease, lease.granted, asked_at + lease.ttl_s))
        account.dry_until = asked_at + lease.retry_after_s if lease.granted < wanted else 0.0
        return lease

    def _renewed(self, backend: str, task: asyncio.Task[Lease]) -> None:
        del self._renewals[backend]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("tokens could not be renewed", extra={"backend": backend, "error": str(error)})
