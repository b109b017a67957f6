"""The FairQueue actor: who waits, who runs, and which sandbox is idle."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field, replace
from typing import Any

from cachetools import LRUCache

from actors.backends import specs
from actors.clients.calls import was_restarted
from actors.config import Settings
from actors.core.queue import fair_queue as core
from actors.core.queue.reports import Lost, QueueNews, Refusal, Refused, Watched
from actors.errors import DeadlineUnreachable, QueueFull, Rejected, StaleGrant
from actors.schemas import Grant, GrantRelease, GrantRequest
from actors.telemetry.logs import log_as_json

log = logging.getLogger(__name__)
REMEMBERED_GRANTS = 4096
REMEMBERED_LOSSES = 64
"""Lost sandboxes of sessions that ``news`` tells of; the Orchestrator hears of each within a call."""
CLOCK = time.monotonic


def rejection(refused: Refused) -> Rejected:
    """The error that a caller sees."""
    match refused.reason:
        case Refusal.DEADLINE:
            return DeadlineUnreachable("no sandbox would be free before the deadline", refused.retry_after_s)
        case Refusal.USER_QUEUE_FULL:
            return QueueFull("too many runs of this user wait already", refused.retry_after_s)
        case Refusal.QUEUE_FULL:
            return QueueFull("too many runs wait already", refused.retry_after_s)


@dataclass(slots=True)
class _Line:
    """One backend's queue, and the callers waiting in it."""

    queue: core.FairQueue
    waiting: dict[str, asyncio.Future[Grant]] = field(default_factory=dict)
    granted: LRUCache[str, Grant] = field(default_factory=lambda: LRUCache(REMEMBERED_GRANTS))
    """The grants of waiters, by waiter: ``give_up`` may have to end one."""
    pressed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when somebody waits or a sandbox is in doubt: the supervisor should look."""


class FairQueue:
    """Grant leases on idle sandboxes, fairly between users; it alone knows which are idle.

    In memory only. A restart begins a new epoch and grants nothing until the orchestrator has registered the leases it
    holds again, or their time has passed; the calls of those who waited fail, and they enqueue again.
    """

    def __init__(self, settings: Settings) -> None:
        log_as_json()
        self._settings, self._specs = settings, specs.table(settings)
        # Later than every epoch before it, also of another process; compared for order alone.
        self._epoch = time.time_ns() // 1_000_000
        self._recovering_s = settings.queue.lease_margin_s if was_restarted() else 0.0
        self._lines: dict[str, _Line] = {}
        self._news = QueueNews()
        self._news_changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(self, waiter_id: str, wanted: GrantRequest, releases: list[GrantRelease]) -> Grant:
        """Take ``releases`` in, then wait for a grant.

        Raises:
            Rejected: the queue is full, or the deadline cannot be met or has passed.
        """
        for release in releases:
            self._line(release.backend).queue.release(release)
        line = self._line(wanted.backend)
        refused = line.queue.enqueue(waiter_id, wanted)
        if refused is not None:
            self._settle(line)
            raise rejection(refused)
        granted: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        line.waiting[waiter_id] = granted
        self._settle(line)
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                lease = granted.result()
                line.queue.release(GrantRelease(lease.grant_id, lease.backend, lease.epoch, 0.0, programs=0))
            else:
                line.queue.cancel(waiter_id)
            self._settle(line)
            raise
        finally:
            line.waiting.pop(waiter_id, None)

    async def give_up(self, backend: str, waiter_id: str) -> None:
        """End a wait, or the lease that came of it and never reached the caller."""
        line = self._line(backend)
        if (granted := line.granted.pop(waiter_id, None)) is not None:
            line.queue.release(GrantRelease(granted.grant_id, granted.backend, granted.epoch, 0.0, programs=0))
        elif (waiter := line.waiting.get(waiter_id)) is not None:
            waiter.cancel()
        self._settle(line)

    async def release(self, releases: list[GrantRelease]) -> None:
        """End leases; stale ones are ignored."""
        for release in releases:
            self._line(release.backend).queue.release(release)
        for backend in {release.backend for release in releases}:
            self._settle(self._line(backend))

    async def news(self, known: QueueNews, wait_s: float) -> QueueNews:
        """What a holder of grants should know; answers when that is not what it knows."""
        try:
            async with asyncio.timeout(wait_s):
                while self._news == known:
                    self._news_changed.clear()
                    await self._news_changed.wait()
        except TimeoutError:
            pass  # nothing changed: the same answer again shows that this actor lives
        return self._news

    async def reregister(self, grants: list[Grant], pins: list[tuple[str, str, str]]) -> Lost:
        """After a restart: recover the leases and pins that a holder has; returns those that it must not use any more.

        Pins are given as backend, sandbox and user. There is one holder, the Orchestrator, so recovery ends with its
        word.
        """
        lost = Lost(
            tuple(grant.grant_id for grant in grants if not self._line(grant.backend).queue.reregister(grant)),
            tuple(
                sandbox_id
                for backend, sandbox_id, user in pins
                if not self._line(backend).queue.adopt_pin(sandbox_id, user)
            ),
        )
        self._recovering_s = 0.0
        for line in self._lines.values():
            line.queue.recovered()
            self._settle(line)
        return lost

    async def abandon(self) -> None:
        """End every lease and every wait: their holder was restarted and remembers none."""
        for line in self._lines.values():
            self._reject(line, line.queue.abandon(), Rejected("whoever asked is gone"))
            self._settle(line)

    async def offer(self, backend: str, sandbox_id: str, generation: int) -> None:
        line = self._line(backend)
        line.queue.offer(sandbox_id, generation)
        self._settle(line)

    async def withdraw(self, backend: str, sandbox_id: str) -> bool:
        """Give a sandbox to nobody any more; returns whether a lease on it is still running."""
        line = self._line(backend)
        withdrawal = line.queue.withdraw(sandbox_id)
        if withdrawal.pinned:
            self._announce(replace(self._news, lost=(*self._news.lost, sandbox_id)[-REMEMBERED_LOSSES:]))
        self._settle(line)
        return withdrawal.leased

    async def resize(self, backend: str, concurrency: int) -> None:
        """Allow so many grants of a backend at a time: the cluster has grown or shrunk."""
        line = self._line(backend)
        line.queue.resize(concurrency)
        self._settle(line)

    async def pin(self, backend: str, sandbox_id: str, user: str) -> None:
        """Keep a sandbox for this user's session.

        Raises:
            StaleGrant: it was lost before the session could have it; another may be had.
        """
        if not self._line(backend).queue.pin(sandbox_id, user):
            raise StaleGrant(f"sandbox {sandbox_id} was lost before the session could have it")

    async def unpin(self, backend: str, sandbox_id: str, healthy: bool) -> None:
        line = self._line(backend)
        line.queue.unpin(sandbox_id, healthy=healthy)
        self._settle(line)

    async def watch(self, backend: str, wait_s: float) -> Watched:
        """What the supervisor sizes the pool by; answers early when runs wait or a sandbox is in doubt."""
        line = self._line(backend)
        try:
            async with asyncio.timeout(wait_s):
                await line.pressed.wait()
        except TimeoutError:
            pass  # nobody waits: the supervisor looks all the same
        line.pressed.clear()
        return Watched(self._epoch, line.queue.demand(), line.queue.slots())

    async def metrics(self) -> dict[str, Any]:
        """The figures of all backends together, and those of each."""
        by_backend = {backend: line.queue.snapshot() for backend, line in self._lines.items()}
        first = next(iter(by_backend.values()), {})
        if len(by_backend) == 1:
            return dict(first)
        total = {
            name: sum(snapshot[name] for snapshot in by_backend.values())
            for name in first
            if name not in ("success_rate", "mean_wait_s", "p95_wait_s", "epoch")
        }
        return total | {"backends": by_backend}

    def _line(self, backend: str) -> _Line:
        line = self._lines.get(backend)
        if line is None:
            spec = self._specs[backend]
            queue = core.FairQueue(
                self._settings.queue,
                # The least, until the supervisor has seen the cluster; it has offered nothing before.
                spec.concurrency(cpus=1),
                CLOCK,
                lone_user_may_use_idle=self._settings.queue.lone_user_may_use_idle and spec.local,
                epoch=self._epoch,
                recovering_s=self._recovering_s,
            )
            line = self._lines[backend] = _Line(queue)
        return line

    def _settle(self, line: _Line) -> None:
        """After every event: hand out what can be had, and tell those who watch."""
        for decision in line.queue.next_grants():
            waiter = line.waiting[decision.waiter_id]
            if waiter.done():
                # Its caller gave up in this very moment; the cancellation releases the grant.
                grant = decision.grant
                line.queue.release(GrantRelease(grant.grant_id, grant.backend, grant.epoch, 0.0, programs=0))
            else:
                waiter.set_result(decision.grant)
                line.granted[decision.waiter_id] = decision.grant
        if line.waiting or line.queue.has_suspects:
            line.pressed.set()
        contenders = {
            name: tuple(sorted(users)) for name, other in self._lines.items() if (users := other.queue.contenders())
        }
        if contenders != self._news.contenders:
            self._announce(replace(self._news, contenders=contenders))
        self._schedule()

    def _announce(self, news: QueueNews) -> None:
        self._news = news
        self._news_changed.set()

    def _schedule(self) -> None:
        """Wake when time alone changes something: a lease runs out, a waiter is late."""
        if self._timer is not None:
            self._timer.cancel()
        instants = [after_s for line in self._lines.values() if (after_s := line.queue.next_event_s()) is not None]
        self._timer = asyncio.get_running_loop().call_later(min(instants), self._on_time) if instants else None

    def _on_time(self) -> None:
        for line in list(self._lines.values()):
            for expired in line.queue.expire():
                fields = {"sandbox_id": expired.sandbox_id, "user": expired.user}
                log.warning("a lease ran out, its sandbox is in doubt", extra=fields)
            self._reject(line, line.queue.overdue(), DeadlineUnreachable("no sandbox came free in time"))
            self._settle(line)

    def _reject(self, line: _Line, waiter_ids: list[str], error: Rejected) -> None:
        for waiter_id in waiter_ids:
            waiter = line.waiting.get(waiter_id)
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)
