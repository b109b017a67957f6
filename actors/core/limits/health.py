"""How well a backend does, as a figure."""

from __future__ import annotations

from dataclasses import dataclass

from actors.core.clock import Clock

WEIGHT = 0.1
"""Weight of one outcome: the score remembers about ten."""
HALF_LIFE_S = 60.0
"""The time without news after which half of what is missing to 1 has come back: a quiet backend recovers."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How some calls of a backend ended."""

    succeeded: int = 0
    failed: int = 0
    """Calls that failed, or took too long."""
    throttled: int = 0
    """Calls that the backend refused because there were too many; they say nothing of its health."""

    def __add__(self, other: Outcomes) -> Outcomes:
        return Outcomes(self.succeeded + other.succeeded, self.failed + other.failed, self.throttled + other.throttled)


class Health:
    """A moving average, from 0 to 1, of the share of a backend's calls that did not fail."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._missing, self._seen_at = 0.0, clock()

    @property
    def score(self) -> float:
        left: float = 0.5 ** ((self._clock() - self._seen_at) / HALF_LIFE_S)
        return 1.0 - self._missing * left

    def observe(self, outcomes: Outcomes) -> None:
        """Weigh outcomes in; a batch counts as if each of its calls had the batch's average outcome."""
        total = outcomes.succeeded + outcomes.failed
        missing = 1.0 - self.score
        if total:
            weight = 1 - (1 - WEIGHT) ** total
            missing += weight * (outcomes.failed / total - missing)
        self._missing, self._seen_at = missing, self._clock()
