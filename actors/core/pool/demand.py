"""How many sandboxes the load keeps busy, and how long to wait after a start that failed."""

from __future__ import annotations

import math
import random

from actors.core.clock import Clock

LOWEST_HEALTH = 0.1
"""A health below this makes no pause longer."""


class DemandEstimator:
    """Estimate how many runs are in flight at a time: arrivals per second times seconds per run.

    Both are exponentially weighted, so that what happened ``half_life_s`` ago counts half.
    Source: Little's law, L = λW (Operations Research 9(3), 1961).
    """

    def __init__(self, clock: Clock, half_life_s: float = 30.0) -> None:
        self._clock, self._decay_s = clock, half_life_s / math.log(2)
        self._read_at = clock()
        self._arrivals = 0.0
        self._served = 0.0
        self._served_s = 0.0

    def arrived(self, runs: int = 1) -> None:
        self._fade()
        self._arrivals += runs

    def served(self, seconds: float, runs: int = 1) -> None:
        """Take in ``runs`` that kept a sandbox busy for ``seconds`` together."""
        self._fade()
        self._served += runs
        self._served_s += seconds

    @property
    def arrivals_per_s(self) -> float:
        self._fade()
        return self._arrivals / self._decay_s

    @property
    def service_s(self) -> float:
        """Mean seconds of a run; 0 before the first one ended."""
        return self._served_s / self._served if self._served > 0 else 0.0

    @property
    def concurrency(self) -> float:
        return self.arrivals_per_s * self.service_s

    def _fade(self) -> None:
        now = self._clock()
        kept = math.exp((self._read_at - now) / self._decay_s)
        self._read_at = now
        self._arrivals *= kept
        # The mean outlives a quiet spell: old runs say more about the next one than nothing does.
        if self._served * kept > 1e-9:
            self._served *= kept
            self._served_s *= kept


class StartBackoff:
    """Say how long to start nothing: after each failure in a row up to twice as long, drawn with equal jitter.

    The worse the backend's health, the longer: starts that fail every other time are no failures in a row.
    """

    def __init__(self, clock: Clock, rng: random.Random, base_s: float = 1.0, max_s: float = 60.0) -> None:
        self._clock, self._rng, self._base_s, self._max_s = clock, rng, base_s, max_s
        self._until = -math.inf
        self.failures = 0

    def failed(self, health: float = 1.0) -> None:
        ceiling_s = min(self._max_s, self._base_s * 2.0 ** min(self.failures, 64) / max(health, LOWEST_HEALTH))
        self.failures += 1
        self._until = self._clock() + ceiling_s * self._rng.uniform(0.5, 1.0)

    def succeeded(self) -> None:
        self.failures, self._until = 0, -math.inf

    @property
    def wait_s(self) -> float:
        return max(0.0, self._until - self._clock())
