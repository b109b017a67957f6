"""Who runs: the leases that are out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from actors.core.lazy_heap import LazyHeap
from actors.schemas import Grant


@dataclass(eq=False, slots=True)
class Lease:
    """A grant that is out, and what it was given for."""

    grant: Grant
    generation: int | None
    """What was in the sandbox when it was leased; None when only the holder could tell."""
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
        self._expiries: LazyHeap[float, Lease] = LazyHeap()

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, lease: Lease) -> None:
        self.by_id[lease.grant.grant_id] = lease
        self.running[lease.grant.user] += 1
        self._expiries.push(lease.expires_at, lease)

    def remove(self, lease: Lease) -> None:
        del self.by_id[lease.grant.grant_id]
        self._expiries.discard(lease)
        user = lease.grant.user
        self.running[user] -= 1
        if not self.running[user]:
            del self.running[user]

    def next_expiry(self) -> float | None:
        first = self._expiries.first()
        return None if first is None else first[0]

    def expired(self, now: float) -> list[Lease]:
        """Leases that ran out, each told once; they stay until removed."""
        return [lease for _, lease in self._expiries.pop_until(now)]

    def soonest_end_s(self, now: float) -> float:
        """Seconds until the first running lease should end, by what it was expected to cost."""
        return min((max(0.0, lease.since + lease.estimate_s - now) for lease in self.by_id.values()), default=0.0)
