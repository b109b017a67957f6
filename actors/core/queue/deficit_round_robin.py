"""Whose turn it is, when turns are measured in what they cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count

from cachetools import LRUCache

from actors.core.lazy_heap import LazyHeap

REMEMBERED = 10_000
"""Users who left and whose debts are still known."""
_ROUNDING = 1e-9  # without it a quantum that exactly covers a cost can be one short


@dataclass(slots=True)
class _Turn:
    """A user's account, and its place in the ring."""

    deficit_s: float
    """What the user may still spend; below zero, its debt."""
    credited: int
    """The last round whose quantum is in the deficit."""
    place: int = 0
    cost_s: float = 0.0
    """What the user's next run costs."""


class DeficitRoundRobin:
    """Give every user in the ring one quantum a round, to spend on as many runs as it covers.

    Between users who stay in the ring, what they were charged differs by at most a quantum and the dearest run of each.
    Nobody waits longer for a dear run than its share allows, and a user's debt outlives its leaving the ring.

    Rounds in which nobody could afford anything are skipped at once, so a call takes O(log users) whatever the costs.
    Source: M. Shreedhar, G. Varghese, "Efficient fair queueing using deficit round robin", SIGCOMM 1995.
    """

    def __init__(self, quantum_s: float) -> None:
        self._quantum_s = quantum_s
        self._ring: dict[str, _Turn] = {}
        self._away: LRUCache[str, _Turn] = LRUCache(REMEMBERED)
        self._due: LazyHeap[tuple[int, int], str] = LazyHeap()  # by round and place in the ring
        self._round = 0
        self._places = count()

    def __contains__(self, user: str) -> bool:
        return user in self._ring

    def join(self, user: str, cost_s: float) -> None:
        """Enter the ring at its tail, or change what the user's next run costs."""
        turn = self._ring.get(user)
        if turn is None:
            turn = self._ring[user] = self._returning(user)
            turn.place = next(self._places)
        elif turn.cost_s == cost_s:
            return
        turn.cost_s = cost_s
        self._schedule(user, turn)

    def leave(self, user: str) -> None:
        """Leave the ring, keeping the debt and at most one quantum of credit. Idempotent."""
        turn = self._ring.pop(user, None)
        if turn is not None:
            self._due.discard(user)
            turn.deficit_s = min(turn.deficit_s, self._quantum_s)
            self._away[user] = turn

    def head(self) -> str | None:
        """The user whose turn it is; None when the ring is empty."""
        first = self._due.first()
        if first is None:
            return None
        (self._round, _), user = first
        turn = self._ring[user]
        turn.deficit_s += self._quantum_s * (self._round - turn.credited)
        turn.credited = self._round
        return user

    def charge(self, user: str, cost_s: float) -> None:
        """Take ``cost_s`` from the user, in the ring or not; a negative cost is a refund."""
        turn = self._ring.get(user)
        if turn is not None:
            turn.deficit_s -= cost_s
            self._schedule(user, turn)
        else:
            turn = self._returning(user)
            turn.deficit_s = min(turn.deficit_s - cost_s, self._quantum_s)
            self._away[user] = turn

    def _returning(self, user: str) -> _Turn:
        """Rounds that pass while a user is away pay its debt, and give nothing beyond that."""
        turn = self._away.pop(user, None)
        if turn is None:
            return _Turn(deficit_s=0.0, credited=self._round - 1)
        missed = self._round - 1 - turn.credited
        if missed > 0:
            turn.deficit_s = min(turn.deficit_s + missed * self._quantum_s, max(turn.deficit_s, 0.0))
            turn.credited = self._round - 1
        return turn

    def _schedule(self, user: str, turn: _Turn) -> None:
        missing_s = turn.cost_s - turn.deficit_s
        rounds = math.ceil(missing_s / self._quantum_s - _ROUNDING)
        self._due.push((max(self._round, turn.credited + rounds), turn.place), user)
