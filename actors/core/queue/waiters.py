"""Who waits: in order of arrival within a user and a band of priority, rising a band as time passes."""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.core.lazy_heap import LazyHeap
from actors.schemas import GrantRequest, Priority

BANDS = len(Priority)


@dataclass(eq=False, slots=True)
class Waiter:
    """A request that waits."""

    waiter_id: str
    request: GrantRequest
    arrival: int
    """Its place in the order of arrival of all."""
    enqueued_at: float
    deadline_at: float
    band: int
    """Its priority at first, and one less, which is better, each time that it rises."""


@dataclass(eq=False, slots=True)
class UserLine:
    """A user's waiters by arrival, and how many programs they bring, for each band."""

    waiting: int = 0
    lanes: list[LazyHeap[float, Waiter]] = field(default_factory=lambda: [LazyHeap() for _ in range(BANDS)])
    programs: list[int] = field(default_factory=lambda: [0] * BANDS)


class Waiters:
    """All who wait. Every step takes O(log waiters), averaged over many."""

    def __init__(self, aging_s: float) -> None:
        self._aging_s = aging_s
        self.by_id: dict[str, Waiter] = {}
        self.users: dict[str, UserLine] = {}
        self.programs = [0] * BANDS
        """Programs that all of them bring, for each band."""
        self._arrivals = 0
        self._rising: LazyHeap[float, Waiter] = LazyHeap()  # by when they rise to the next band
        self._deadlines: LazyHeap[float, Waiter] = LazyHeap()

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, waiter_id: str, request: GrantRequest, now: float, deadline_at: float) -> None:
        self._arrivals += 1
        waiter = Waiter(waiter_id, request, self._arrivals, now, deadline_at, band=int(request.priority))
        self.by_id[waiter_id] = waiter
        line = self.users.get(request.user)
        if line is None:
            line = self.users[request.user] = UserLine()
        line.waiting += 1
        self._deadlines.push(deadline_at, waiter)
        self._enter_band(waiter, line, now)

    def remove(self, waiter_id: str) -> Waiter | None:
        waiter = self.by_id.pop(waiter_id, None)
        if waiter is None:
            return None
        line = self.users[waiter.request.user]
        self._leave_band(waiter, line)
        self._deadlines.discard(waiter)
        line.waiting -= 1
        if not line.waiting:
            del self.users[waiter.request.user]
        return waiter

    def head(self, user: str, band: int) -> Waiter | None:
        """The user's first in this band."""
        line = self.users.get(user)
        first = None if line is None else line.lanes[band].first()
        return None if first is None else first[1]

    def age(self, now: float) -> list[str]:
        """Raise by a band all who have waited ``aging_s`` in theirs; returns their users, who rose first first."""
        risen: dict[str, None] = {}
        for rose_at, waiter in self._rising.pop_until(now):
            user = waiter.request.user
            line = self.users[user]
            self._leave_band(waiter, line)
            waiter.band -= 1
            self._enter_band(waiter, line, rose_at)
            risen[user] = None
        return list(risen)

    def overdue(self, now: float) -> list[str]:
        """Ids of those whose deadline has passed, each told once; they stay until removed."""
        return [waiter.waiter_id for _, waiter in self._deadlines.pop_until(now)]

    def next_deadline(self) -> float | None:
        first = self._deadlines.first()
        return None if first is None else first[0]

    def _enter_band(self, waiter: Waiter, line: UserLine, entered_at: float) -> None:
        band, programs = waiter.band, waiter.request.programs
        line.lanes[band].push(waiter.arrival, waiter)
        line.programs[band] += programs
        self.programs[band] += programs
        if band > 0:
            self._rising.push(entered_at + self._aging_s, waiter)

    def _leave_band(self, waiter: Waiter, line: UserLine) -> None:
        band, programs = waiter.band, waiter.request.programs
        line.lanes[band].discard(waiter)
        line.programs[band] -= programs
        self.programs[band] -= programs
        self._rising.discard(waiter)
