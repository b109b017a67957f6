"""How much of the planned rate a service bears at present."""

from __future__ import annotations

from actors.core.clock import Clock

LOWEST = 0.05  # never nothing: without calls there is no news of recovery
LOWEST_HEALTH = 0.1
RECOVERY_PER_S = 0.02  # of the plan; half of it comes back in 25 s


class AdaptiveRate:
    """A share of the plan in (0, 1]: halved when the service throttles, regained gradually, scaled by its health.

    Answers to calls made before a cut say nothing about the rate after it, so there is at most one cut in
    ``cut_interval_s``. Source: AIMD as in TCP congestion avoidance (RFC 5681).
    """

    def __init__(self, clock: Clock, cut_interval_s: float) -> None:
        self._clock, self._cut_interval_s = clock, cut_interval_s
        self._share, self._cut_at = 1.0, float("-inf")

    def factor(self, health: float) -> float:
        """The share for a service of this health, a score from 0 to 1."""
        return max(LOWEST, self._recovered() * max(LOWEST_HEALTH, health))

    def cut(self) -> None:
        now = self._clock()
        if now - self._cut_at >= self._cut_interval_s:
            self._share, self._cut_at = max(LOWEST, self._recovered() / 2), now

    def _recovered(self) -> float:
        if self._share == 1.0:
            return 1.0
        return min(1.0, self._share + (self._clock() - self._cut_at) * RECOVERY_PER_S)
