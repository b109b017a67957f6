"""Who runs: leases that are out, and what runs have cost."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass

from cachetools import LRUCache

from actors.core.queue.deficit_round_robin import REMEMBERED
from actors.schemas import Grant, GrantRequest

MIN_COST_S = 0.001
"""Nothing is free: the turn of a user whose runs take no time must end too."""
_LEARNING = 0.2  # weight of the newest run in a moving average


@dataclass(eq=False, slots=True)
class Lease:
    granted: Grant
    generation: int
    band: int
    estimate_s: float
    """What it was expected to cost."""
    since: float
    expires_at: float


class Leases:
    """Leases by grant id, in order of expiry and counted by user."""

    def __init__(self) -> None:
        self.by_id: dict[str, Lease] = {}
        self.running: Counter[str] = Counter()
        self._expiries: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, lease: Lease) -> None:
        self.by_id[lease.granted.grant_id] = lease
        self.running[lease.granted.user] += 1
        heapq.heappush(self._expiries, (lease.expires_at, lease.granted.grant_id))
        if len(self._expiries) > 2 * len(self.by_id) + 64:
            self._expiries = [(lease.expires_at, grant_id) for grant_id, lease in self.by_id.items()]
            heapq.heapify(self._expiries)

    def remove(self, lease: Lease) -> None:
        del self.by_id[lease.granted.grant_id]
        user = lease.granted.user
        self.running[user] -= 1
        if not self.running[user]:
            del self.running[user]

    def next_expiry(self) -> float | None:
        while self._expiries and self._expiries[0][1] not in self.by_id:
            heapq.heappop(self._expiries)
        return self._expiries[0][0] if self._expiries else None

    def expired(self, now: float) -> list[Lease]:
        """Leases that ran out; they stay until removed."""
        late: list[Lease] = []
        while (expires_at := self.next_expiry()) is not None and expires_at <= now:
            late.append(self.by_id[heapq.heappop(self._expiries)[1]])
        return late

    def soonest_end_s(self, now: float) -> float:
        """When the first running lease should end, by what it was expected to cost."""
        return min((max(0.0, lease.since + lease.estimate_s - now) for lease in self.by_id.values()), default=0.0)


class Costs:
    """What a run will cost, in sandbox-seconds, by what the same user's runs have cost."""

    def __init__(self, default_s: float) -> None:
        self.service_s = default_s
        """Moving average over all users, per program."""
        self._by_user: LRUCache[str, float] = LRUCache(REMEMBERED)

    def per_program_s(self, user: str) -> float:
        return self._by_user.get(user, self.service_s)

    def of(self, wanted: GrantRequest) -> float:
        """The caller's own estimate, else the average; corrected afterwards, so a wrong one gains nothing."""
        cost_s = self.per_program_s(wanted.user) * wanted.programs if wanted.cost_s is None else wanted.cost_s
        return max(cost_s, MIN_COST_S)

    def learn(self, user: str, per_program_s: float) -> None:
        known_s = self._by_user.get(user, per_program_s)
        self._by_user[user] = known_s + _LEARNING * (per_program_s - known_s)
        self.service_s += _LEARNING * (per_program_s - self.service_s)
