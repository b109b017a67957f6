"""Who waits: in order of arrival within a user and a band of priority, rising a band as time passes."""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from actors.schemas import GrantRequest, Priority

BANDS = len(Priority)


@dataclass(eq=False, slots=True)
class Waiter:
    waiter_id: str
    wanted: GrantRequest
    arrival: int
    enqueued_at: float
    deadline_at: float
    band: int
    gone: bool = False


class _Heap:
    """Waiters, smallest key first. Outdated ones are dropped when met, and all at once when they are the most."""

    def __init__(self, outdated: Callable[[Waiter], bool] = lambda waiter: waiter.gone) -> None:
        self._outdated = outdated
        self._entries: list[tuple[float, int, Waiter]] = []
        self._ties = count()
        self._sweep_at = 64

    def push(self, key: float, waiter: Waiter) -> None:
        heapq.heappush(self._entries, (key, next(self._ties), waiter))
        if len(self._entries) > self._sweep_at:
            self._entries = [entry for entry in self._entries if not self._outdated(entry[2])]
            heapq.heapify(self._entries)
            self._sweep_at = 2 * len(self._entries) + 64

    def first(self) -> tuple[float, Waiter] | None:
        while self._entries and self._outdated(self._entries[0][2]):
            heapq.heappop(self._entries)
        return (self._entries[0][0], self._entries[0][2]) if self._entries else None

    def pop_until(self, key: float) -> Iterator[tuple[float, Waiter]]:
        """Take out, in order, all whose key is at most ``key``."""
        while (entry := self.first()) is not None and entry[0] <= key:
            heapq.heappop(self._entries)
            yield entry

    def in_order(self) -> list[Waiter]:
        return [waiter for _, _, waiter in sorted(self._entries) if not self._outdated(waiter)]


def _lane(band: int) -> _Heap:
    return _Heap(lambda waiter: waiter.gone or waiter.band != band)


@dataclass(slots=True)
class Backlog:
    """Work that waits: what callers estimated, and programs of unknown cost."""

    declared_s: float = 0.0
    unknown: int = 0

    def add(self, wanted: GrantRequest, sign: int = 1) -> None:
        if wanted.cost_s is None:
            self.unknown += sign * wanted.programs
        else:
            self.declared_s += sign * wanted.cost_s

    def cost_s(self, per_program_s: float) -> float:
        # Sums of floats that come and go may end a little below zero.
        return max(0.0, self.declared_s) + self.unknown * per_program_s


@dataclass(slots=True)
class UserLine:
    waiting: int = 0
    lanes: list[_Heap] = field(default_factory=lambda: [_lane(band) for band in range(BANDS)])
    backlogs: list[Backlog] = field(default_factory=lambda: [Backlog() for _ in range(BANDS)])


class Waiters:
    """All who wait. Every step takes O(log waiters), averaged over many."""

    def __init__(self, aging_s: float) -> None:
        self._aging_s = aging_s
        self.by_id: OrderedDict[str, Waiter] = OrderedDict()
        self.users: dict[str, UserLine] = {}
        self.backlogs = [Backlog() for _ in range(BANDS)]
        self._pinned: dict[str, _Heap] = {}
        self._pinned_waiting: Counter[str] = Counter()
        self._rising = [_lane(band) for band in range(BANDS)]  # by when they rise to the next band
        self._deadlines = _Heap()

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, waiter: Waiter) -> None:
        self.by_id[waiter.waiter_id] = waiter
        line = self.users.setdefault(waiter.wanted.user, UserLine())
        line.waiting += 1
        if (sandbox_id := waiter.wanted.sandbox_id) is not None:
            self._pinned.setdefault(sandbox_id, _Heap()).push(waiter.arrival, waiter)
            self._pinned_waiting[sandbox_id] += 1
        self._deadlines.push(waiter.deadline_at, waiter)
        self._enter(waiter, line, waiter.enqueued_at)

    def remove(self, waiter_id: str) -> Waiter | None:
        waiter = self.by_id.pop(waiter_id, None)
        if waiter is None:
            return None
        waiter.gone = True
        line = self.users[waiter.wanted.user]
        self._leave(waiter, line)
        line.waiting -= 1
        if not line.waiting:
            del self.users[waiter.wanted.user]
        if (sandbox_id := waiter.wanted.sandbox_id) is not None:
            self._pinned_waiting[sandbox_id] -= 1
            if not self._pinned_waiting[sandbox_id]:
                del self._pinned_waiting[sandbox_id], self._pinned[sandbox_id]
        return waiter

    def head(self, user: str, band: int) -> Waiter | None:
        """The user's first in this band, of those who take any sandbox."""
        line = self.users.get(user)
        entry = None if line is None else line.lanes[band].first()
        return None if entry is None else entry[1]

    def pinned_heads(self) -> Iterator[Waiter]:
        """For each pinned sandbox, the first of those who want it."""
        for lane in self._pinned.values():
            if (entry := lane.first()) is not None:
                yield entry[1]

    def wanting(self, sandbox_id: str) -> list[str]:
        """Ids of those who want this very sandbox, in order."""
        lane = self._pinned.get(sandbox_id)
        return [] if lane is None else [waiter.waiter_id for waiter in lane.in_order()]

    def age(self, now: float) -> set[str]:
        """Raise by a band all who have waited ``aging_s`` in theirs; returns their users."""
        risen: set[str] = set()
        for band in range(BANDS - 1, 0, -1):
            for rose_at, waiter in list(self._rising[band].pop_until(now)):
                line = self.users[waiter.wanted.user]
                self._leave(waiter, line)
                waiter.band -= 1
                self._enter(waiter, line, rose_at)
                risen.add(waiter.wanted.user)
        return risen

    def overdue(self, now: float) -> list[str]:
        """Ids of those whose deadline has passed."""
        return [waiter.waiter_id for _, waiter in self._deadlines.pop_until(now)]

    def next_deadline(self) -> float | None:
        entry = self._deadlines.first()
        return None if entry is None else entry[0]

    def _enter(self, waiter: Waiter, line: UserLine, entered_at: float) -> None:
        if waiter.wanted.sandbox_id is None:
            line.lanes[waiter.band].push(waiter.arrival, waiter)
        if waiter.band:
            self._rising[waiter.band].push(entered_at + self._aging_s, waiter)
        line.backlogs[waiter.band].add(waiter.wanted)
        self.backlogs[waiter.band].add(waiter.wanted)

    def _leave(self, waiter: Waiter, line: UserLine) -> None:
        line.backlogs[waiter.band].add(waiter.wanted, -1)
        self.backlogs[waiter.band].add(waiter.wanted, -1)
