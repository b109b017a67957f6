"""Grants that the Orchestrator holds, so that most runs need not ask the queue at all."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from actors.clients.singletons import QueueClient
from actors.config import QueueSettings
from actors.errors import ActorUnavailable, DeadlineUnreachable, ServiceError
from actors.schemas import Grant, GrantRelease, GrantRequest, GrantTicket

FLUSH_S = 0.005
"""A release that no acquire takes along is sent after so long."""
ANSWER_S = 5.0
"""What the queue may need beyond a wait's deadline to say that it has passed."""
ABSENCE_S = 30.0
"""How long runs wait for a queue that is restarting."""
ABSENCE_POLL_S = 0.1
"""How often they ask it again meanwhile."""


@dataclass(slots=True)
class HeldGrant:
    """A grant in this Orchestrator's hands."""

    grant: Grant
    expires_at: float
    uses: int = 0
    used_s: float = 0.0
    programs: int = 0
    revoked: bool = False
    """The queue does not know it any more: no run may start on it."""

    def next_ticket(self, ttl_s: float) -> GrantTicket:
        self.uses += 1
        return GrantTicket(self.grant.grant_id, self.grant.epoch, self.uses, self.grant.user, ttl_s)


@dataclass(eq=False, slots=True)
class _Waiter:
    request: GrantRequest
    future: asyncio.Future[HeldGrant]
    gives_up_at: float


@dataclass(eq=False, slots=True)
class _Lane:
    """Runs that any grant of the lane can serve: one backend, user and priority."""

    key: tuple[str, str, int]
    pending: deque[_Waiter] = field(default_factory=deque)
    idle: list[HeldGrant] = field(default_factory=list)
    asking: list[asyncio.Task[None]] = field(default_factory=list)
    """Each for one grant that the queue has not answered yet, the newest last."""

    def first(self, left_s: float = math.inf) -> _Waiter | None:
        """Who comes next for a grant that lasts so long; one that was just cancelled does not count."""
        waiting = (waiter for waiter in self.pending if not waiter.future.done())
        return next((waiter for waiter in waiting if waiter.request.ttl_s <= left_s), None)


class GrantKeeper:
    """Acquire and release grants, keeping one that nobody else wants for the same user's next run.

    A kept grant saves the call to the queue. It goes back after ``retain_s``, at once when another user waits, and
    before it would run out. Releases ride on the next acquire or are sent within 5 ms. A restart of the queue is
    waited for, and ``in_hand`` is what to register with it again.
    """

    def __init__(
        self,
        queue: QueueClient,
        settings: QueueSettings,
        clock: Callable[[], float] = time.monotonic,
        absence_poll_s: float = ABSENCE_POLL_S,
    ) -> None:
        self._queue, self._settings, self._clock, self._absence_poll_s = queue, settings, clock, absence_poll_s
        self._lanes: dict[tuple[str, str, int], _Lane] = {}
        self._in_hand: dict[str, HeldGrant] = {}
        self._contended: dict[str, frozenset[str]] = {}
        self._releases: list[GrantRelease] = []
        self._flush: asyncio.TimerHandle | None = None
        self.saved = 0
        """Runs served by a kept grant."""

    async def acquire(self, request: GrantRequest) -> HeldGrant:
        """Return a grant that lasts at least ``request.ttl_s``, within ``request.deadline_s``.

        Raises:
            Rejected: the queue would not have it, or it waited too long.
            ActorUnavailable: the queue is away for longer than a restart takes.
        """
        lane = self._lane(request.backend, request.user, request.priority)
        while lane.idle:
            held = lane.idle.pop()
            if held.expires_at - self._clock() >= request.ttl_s:
                self.saved += 1
                return held
            self.give_back(held)
        loop = asyncio.get_running_loop()
        waiter = _Waiter(request, loop.create_future(), self._clock() + request.deadline_s)
        lane.pending.append(waiter)
        self._ask_for_missing(lane)
        # Its own: what is asked of the queue serves whoever is first when the answer comes.
        timer = loop.call_later(request.deadline_s, self._late, lane, waiter)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter in lane.pending:
                self._leave(lane, waiter)
            elif not waiter.future.cancelled() and waiter.future.exception() is None:
                self._serve(lane, waiter.future.result())
            raise
        finally:
            timer.cancel()

    def release(self, held: HeldGrant, used_s: float, priority: int, healthy: bool = True, programs: int = 1) -> None:
        """End one use; the grant may be kept, handed to the next run of its lane, or given back."""
        held.used_s += used_s
        held.programs += programs
        if not healthy or held.revoked or not self._may_keep(held):
            self.give_back(held, healthy)
        else:
            lane = self._lane(held.grant.backend, held.grant.user, priority)
            self._serve(lane, held)
            self._tidy(lane)

    def give_back(self, held: HeldGrant, healthy: bool = True) -> None:
        """Return a grant to the queue whatever anybody here could do with it."""
        grant = held.grant
        self._in_hand.pop(grant.grant_id, None)
        self._releases.append(
            GrantRelease(grant.grant_id, grant.backend, grant.epoch, held.used_s, healthy, held.programs)
        )
        self._flush_soon()

    def contention(self, waiting: Mapping[str, tuple[str, ...]]) -> None:
        """Learn which users wait, per backend: what is kept from them goes back at once."""
        self._contended = {backend: frozenset(users) for backend, users in waiting.items()}
        for lane in list(self._lanes.values()):
            kept, lane.idle = lane.idle, []
            for held in kept:
                if self._may_keep(held):
                    lane.idle.append(held)
                else:
                    self.give_back(held)
            self._tidy(lane)

    def in_hand(self) -> list[Grant]:
        """Every grant held, kept or in use, with the time that is left of it."""
        now = self._clock()
        return [replace(held.grant, ttl_s=held.expires_at - now) for held in self._in_hand.values()]

    def revoke(self, grant_ids: Iterable[str]) -> None:
        """Start nothing more on these grants; what runs on them ends as it does."""
        for grant_id in grant_ids:
            if (held := self._in_hand.get(grant_id)) is not None:
                held.revoked = True
        for lane in list(self._lanes.values()):
            for held in [held for held in lane.idle if held.revoked]:
                lane.idle.remove(held)
                self.give_back(held)
            self._tidy(lane)

    @property
    def lanes(self) -> int:
        """Lanes in which a grant is kept, waited for or asked for."""
        return len(self._lanes)

    def close(self) -> None:
        """Give everything back that is not in use."""
        for lane in list(self._lanes.values()):
            for held in lane.idle:
                self.give_back(held)
            lane.idle.clear()
            for task in lane.asking:
                task.cancel()
            self._tidy(lane)
        self._send()

    def _lane(self, backend: str, user: str, priority: int) -> _Lane:
        key = (backend, user, priority)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key)
        return lane

    def _tidy(self, lane: _Lane) -> None:
        """Forget a lane that holds nothing: users come and go without end."""
        if not (lane.pending or lane.idle or lane.asking):
            self._lanes.pop(lane.key, None)

    def _ask_for_missing(self, lane: _Lane) -> None:
        while len(lane.asking) < len(lane.pending):
            # A grant goes to whoever is first when it comes, so it must last for any of them.
            longest = max((waiter.request for waiter in lane.pending), key=lambda request: request.ttl_s)
            left_s = max(waiter.gives_up_at for waiter in lane.pending) - self._clock()
            task = asyncio.ensure_future(self._fill(lane, replace(longest, deadline_s=left_s)))
            lane.asking.append(task)
            task.add_done_callback(lambda done: self._asked(lane, done))

    def _asked(self, lane: _Lane, task: asyncio.Task[None]) -> None:
        if task in lane.asking:
            lane.asking.remove(task)
        self._ask_for_missing(lane)
        self._tidy(lane)

    def _late(self, lane: _Lane, waiter: _Waiter) -> None:
        if waiter in lane.pending:
            self._leave(lane, waiter)
            if not waiter.future.done():
                waiter.future.set_exception(DeadlineUnreachable("no sandbox came free in time"))

    @staticmethod
    def _leave(lane: _Lane, waiter: _Waiter) -> None:
        lane.pending.remove(waiter)
        if len(lane.asking) > len(lane.pending):
            lane.asking.pop().cancel()

    async def _fill(self, lane: _Lane, request: GrantRequest) -> None:
        try:
            held = self._hold(await self._ask(request))
        except Exception as error:  # noqa: BLE001 - whoever waits for the grant hears of it
            if (waiter := lane.first()) is not None:
                lane.pending.remove(waiter)
                waiter.future.set_exception(error)
            return
        self._serve(lane, held)

    async def _ask(self, request: GrantRequest) -> Grant:
        gives_up_at = self._clock() + request.deadline_s
        absent_until = self._clock() + min(request.deadline_s, ABSENCE_S)
        # What other runs of the lane may do with the grant later must fit into its life too.
        ttl_s = request.ttl_s + self._settings.lease_margin_s
        why: ServiceError = DeadlineUnreachable("no sandbox came free in time")
        while (left_s := gives_up_at - self._clock()) > 0:
            releases = self._take_releases()
            try:
                asked = replace(request, ttl_s=ttl_s, deadline_s=left_s)
                return await self._queue.acquire(asked, releases, left_s + ANSWER_S)
            except BaseException as error:
                # Sending a release twice is harmless, losing one would idle a sandbox until its lease ends.
                self._releases += releases
                self._flush_soon()
                if not isinstance(error, ActorUnavailable) or self._clock() >= absent_until:
                    raise
                why = error
            await asyncio.sleep(self._absence_poll_s)
        raise why

    def _hold(self, granted: Grant) -> HeldGrant:
        held = self._in_hand[granted.grant_id] = HeldGrant(granted, self._clock() + granted.ttl_s)
        return held

    def _serve(self, lane: _Lane, held: HeldGrant) -> None:
        """Hand a grant to the lane's first run that it lasts for, or keep it, or give it back."""
        left_s = held.expires_at - self._clock()
        if (waiter := lane.first(left_s)) is not None:
            lane.pending.remove(waiter)
            waiter.future.set_result(held)
        elif lane.first() is not None:
            self.give_back(held)
            self._ask_for_missing(lane)
        elif self._may_keep(held) and self._settings.retain_s > 0:
            # The lane may have been forgotten while nothing was in it.
            lane = self._lane(*lane.key)
            lane.idle.append(held)
            asyncio.get_running_loop().call_later(self._settings.retain_s, self._expire, lane, held, held.uses)
        else:
            self.give_back(held)

    def _expire(self, lane: _Lane, held: HeldGrant, uses: int) -> None:
        if held in lane.idle and held.uses == uses:
            lane.idle.remove(held)
            self.give_back(held)
            self._tidy(lane)

    def _may_keep(self, held: HeldGrant) -> bool:
        others = self._contended.get(held.grant.backend, frozenset()) - {held.grant.user}
        return not others

    def _flush_soon(self) -> None:
        if self._flush is None:
            delay_s = 0.0 if any(self._contended.values()) else FLUSH_S
            self._flush = asyncio.get_running_loop().call_later(delay_s, self._send)

    def _send(self) -> None:
        if releases := self._take_releases():
            self._queue.release(releases)

    def _take_releases(self) -> list[GrantRelease]:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        releases, self._releases = self._releases, []
        return releases
