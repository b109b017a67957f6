"""What the orchestrator knows of the breakers beforehand, so that a permit costs no call."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from actors.clients.singletons import BreakerClient, LimiterClient
from actors.core.breaker import TRIAL_GAP_S, BreakerRefusal, BreakerSnapshot, BreakerState
from actors.core.breakers import BackendSnapshot, CallOutcome, CallPermit, first_refusal
from actors.core.limits.health import Outcomes
from actors.errors import BreakerOpen, ServiceError

log = logging.getLogger(__name__)
FLUSH_S, GATHER_S = 0.005, 0.25
"""How long outcomes are gathered: with a failure among them, and while all is well."""


class BreakerView:
    """Permits from the last snapshots; outcomes are sent in batches, whose answers are the next snapshots.

    While the breaker's actor is away the last snapshot holds: an absent breaker stops nobody. The limiter is told of
    the same batches, since it lets less through to a backend that fails.
    """

    def __init__(
        self,
        client: BreakerClient,
        limiter: LimiterClient,
        rng: random.Random | None = None,
        flush_s: float = FLUSH_S,
        gather_s: float = GATHER_S,
    ) -> None:
        self._client, self._limiter, self._flush_s, self._gather_s = client, limiter, flush_s, gather_s
        self._rng = rng or random.Random()
        self._snapshots: dict[str, BackendSnapshot] = {}
        self._seen_at = time.monotonic()
        self._permitted_at: dict[tuple[str, str], float] = {}
        self._outcomes: list[CallOutcome] = []
        self._urgent = False
        self._due: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[None] | None = None

    def permit(self, backend: str, user: str) -> CallPermit:
        """Leave for one call, which is asked for once, before the call waits for anything.

        While it recovers, a backend serves each user that asks at least once a second.

        Raises:
            BreakerOpen: the backend is failing, or fails for this user.
        """
        snapshot = self._snapshots.get(backend)
        if snapshot is None:
            return CallPermit(backend, user)
        concerned = snapshot.of(user)
        if all(each.state is BreakerState.CLOSED for each in concerned):
            return snapshot.permit(backend, user)
        now = time.monotonic()
        idle_s = now - self._permitted_at.get((backend, user), 0.0)
        refused = first_refusal(concerned, now - self._seen_at, self._rng, idle_s)
        if refused is not None:
            raise _open(backend, *refused)
        self._permitted_at[backend, user] = now
        return snapshot.permit(backend, user)

    def confirm(self, permit: CallPermit) -> CallPermit:
        """The same leave after its call has waited, with the generations that its outcome is to be told with.

        Raises:
            BreakerOpen: a breaker has opened meanwhile.
        """
        snapshot = self._snapshots.get(permit.backend)
        if snapshot is None:
            return permit
        for each in snapshot.of(permit.user):
            if each.state is BreakerState.OPEN:
                left_s = each.retry_after_s - (time.monotonic() - self._seen_at)
                if left_s > 0:
                    raise _open(permit.backend, each, BreakerRefusal(left_s))
        return snapshot.permit(permit.backend, permit.user)

    def report(self, permit: CallPermit, ok: bool, seconds: float) -> None:
        """Tell the outcome of a permitted call; a failure is sent at once, as is all that helps a breaker to close."""
        snapshot = self._snapshots.get(permit.backend)
        healthy = ok and snapshot is not None
        if healthy and snapshot is not None:
            healthy = all(each.state is BreakerState.CLOSED for each in snapshot.of(permit.user))
        self._outcomes.append(CallOutcome(permit, ok, seconds))
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
            for backend, told in summed(outcomes).items():
                self._limiter.tell(backend, "operations", told)
        except ServiceError as error:
            log.warning("breaker or limiter unavailable", extra={"error": str(error), "unreported": len(outcomes)})
        finally:
            self._sending = None
        self._permitted_at = {who: at for who, at in self._permitted_at.items() if self._seen_at - at < TRIAL_GAP_S}
        if self._outcomes:
            self._send_within(self._flush_s if self._urgent else self._gather_s)


def _open(backend: str, breaker: BreakerSnapshot, refusal: BreakerRefusal) -> BreakerOpen:
    why = f"{breaker.failure_rate:.0%} of its last {breaker.calls} calls failed"
    return BreakerOpen(f"backend {backend} is given time to recover ({why})", refusal.retry_after_s)


def summed(outcomes: list[CallOutcome]) -> dict[str, Outcomes]:
    """How many of these calls went well and how many did not, by backend."""
    found: dict[str, Outcomes] = {}
    for permit, ok, _ in outcomes:
        told = Outcomes(succeeded=1) if ok else Outcomes(failed=1)
        found[permit.backend] = found.get(permit.backend, Outcomes()) + told
    return found
