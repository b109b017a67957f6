"""What runs have cost, and so what the next ones will."""

from __future__ import annotations

from cachetools import LRUCache

from actors.core.queue.deficit_round_robin import REMEMBERED

MIN_COST_S = 0.001
"""Nothing is free: the turn of a user whose runs take no time must end too."""
_LEARNING = 0.2  # weight of the newest run in a moving average


class Costs:
    """Moving averages of sandbox-seconds per program: each user's, and all users' for whoever is new."""

    def __init__(self, default_s: float) -> None:
        self.service_s = default_s
        """Average over all users."""
        self._by_user: LRUCache[str, float] = LRUCache(REMEMBERED)

    def per_program_s(self, user: str) -> float:
        return self._by_user.get(user, self.service_s)

    def estimate_s(self, user: str, programs: int) -> float:
        """What a grant for so many programs will cost."""
        return max(self.per_program_s(user) * programs, MIN_COST_S)

    def learn(self, user: str, per_program_s: float) -> None:
        known_s = self._by_user.get(user, per_program_s)
        self._by_user[user] = known_s + _LEARNING * (per_program_s - known_s)
        self.service_s += _LEARNING * (per_program_s - self.service_s)
