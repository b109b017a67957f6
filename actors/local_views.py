"""What the orchestrator knows beforehand, so that asking costs no call: breaker snapshots and leased tokens."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from actors.core.breaker import BreakerSnapshot, Refusal, admit
from actors.core.rate_limits import Lease
from actors.errors import ActorUnavailable, BreakerOpen, RateLimited, ServiceError
from actors.telemetry import get_logger

log = get_logger(__name__)
FLUSH_S = 0.005
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

    def __init__(self, client: BreakerReports, rng: random.Random | None = None, flush_s: float = FLUSH_S) -> None:
        self._client, self._flush_s = client, flush_s
        self._rng = rng or random.Random()
        self._snapshots: dict[str, BreakerSnapshot] = {}
        self._seen_at = time.monotonic()
        self._permitted_at: dict[str, float] = {}
        self._outcomes: list[tuple[str, int, bool, float]] = []
        self._flush: asyncio.Task[None] | None = None

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
        """Tell the outcome of a permitted call; sent within 5 ms."""
        self._outcomes.append((f"{backend}/execute", generation, ok, seconds))
        self._send_soon()

    def refresh(self) -> None:
        """Ask for the state even though there is nothing to report: an open breaker closes by time."""
        self._send_soon()

    def _send_soon(self) -> None:
        if self._flush is None:
            self._flush = asyncio.ensure_future(self._send())

    async def _send(self) -> None:
        await asyncio.sleep(self._flush_s)
        outcomes, self._outcomes = self._outcomes, []
        try:
            self._snapshots = await self._client.report(outcomes)
            self._seen_at = time.monotonic()
        except ServiceError as error:
            log.warning("breaker unavailable", extra={"error": str(error), "unreported": len(outcomes)})
        finally:
            self._flush = None
        if self._outcomes:
            self._send_soon()


class TokenSource(Protocol):
    async def lease(self, holder: str, backend: str, operation: str, wanted: int) -> Lease: ...
    def give_back(self, lease_id: str, unused: int) -> None: ...


@dataclass(slots=True)
class _Held:
    lease: Lease
    left: int
    expires_at: float


class TokenLeases:
    """Operation tokens held in advance: a run spends one without asking anybody.

    A lease is renewed in the background at half its life or half its tokens, sized by what the last one needed, and
    what it leaves is given back. Only the first run after a quiet time, or beyond the plan, waits for the limiter.
    """

    def __init__(self, source: TokenSource, holder: str = "orchestrator") -> None:
        self._source, self._holder = source, holder
        self._held: dict[str, _Held] = {}
        self._renewals: dict[str, asyncio.Task[None]] = {}
        self._spent: Counter[str] = Counter()

    async def spend(self, backend: str, count: int = 1) -> None:
        """Take ``count`` tokens.

        Waits a little for tokens that come soon, and for a limiter that is restarting.

        Raises:
            RateLimited: the plan is used up; says when to come back.
            ActorUnavailable: the limiter is away and no lease is left. Nothing runs without a token.
        """
        self._spent[backend] += count
        gives_up_at = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await self._spend(backend, count)
            except RateLimited as error:
                delay_s = max(error.retry_after_s, POLL_S)
                if time.monotonic() + delay_s > gives_up_at:
                    raise
            except ActorUnavailable:
                delay_s = POLL_S
                if time.monotonic() + delay_s > gives_up_at:
                    raise
            await asyncio.sleep(delay_s)

    async def _spend(self, backend: str, count: int) -> None:
        held = self._held.get(backend)
        now = time.monotonic()
        if held is None or held.left < count or now >= held.expires_at:
            await asyncio.shield(self._renewal(backend, count))
            held = self._held[backend]
            if held.left < count:
                raise RateLimited(f"the plan's operations on {backend} are used up", held.lease.retry_after_s)
        held.left -= count
        if held.left < held.lease.granted / 2 or held.expires_at - now < held.lease.ttl_s / 2:
            self._renewal(backend, count)

    def _renewal(self, backend: str, count: int) -> asyncio.Task[None]:
        task = self._renewals.get(backend)
        if task is None:
            task = self._renewals[backend] = asyncio.ensure_future(self._renew(backend, count))
            task.add_done_callback(lambda done: self._renewed(backend, done))
        return task

    async def _renew(self, backend: str, count: int) -> None:
        wanted = max(count, min(max(2 * self._spent[backend], LEAST_LEASE), MOST_LEASE))
        self._spent[backend] = 0
        # Counted from before the limiter did, so that it ends here first.
        asked_at = time.monotonic()
        lease = await self._source.lease(self._holder, backend, "operations", wanted)
        old = self._held.get(backend)
        if old is not None and time.monotonic() < old.expires_at:
            self._source.give_back(old.lease.lease_id, old.left)
        self._held[backend] = _Held(lease, lease.granted, asked_at + lease.ttl_s)

    def _renewed(self, backend: str, task: asyncio.Task[None]) -> None:
        del self._renewals[backend]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("tokens could not be renewed", extra={"backend": backend, "error": str(error)})
