"""A token bucket: a rate, and a burst saved up while nobody spends."""

from __future__ import annotations

import time
from dataclasses import dataclass

from actors.core.clock import Clock

_ROUNDING = 1e-6  # tokens; without it a caller who waits exactly as told can be refused


@dataclass(frozen=True, slots=True)
class Decision:
    admitted: bool
    retry_after_s: float = 0.0


class TokenBucket:
    """Admit ``rate_per_s`` tokens per second, saving up at most ``burst`` of them.

    In any window of t seconds at most ``burst + rate_per_s * t`` tokens are admitted, with the highest rate that was in
    force. It starts with ``tokens``: a full burst unless told, 0 to start empty, less than 0 to start in debt.
    Source: RFC 2697 (CIR is ``rate_per_s``, CBS is ``burst``).
    """

    def __init__(
        self, rate_per_s: float, burst: float, clock: Clock = time.monotonic, tokens: float | None = None
    ) -> None:
        if rate_per_s <= 0 or burst <= 0:
            raise ValueError("rate_per_s and burst must be above 0")
        self._rate_per_s, self._burst, self._clock = rate_per_s, burst, clock
        self._tokens = burst if tokens is None else min(burst, tokens)
        self._refilled_at = clock()

    @property
    def rate_per_s(self) -> float:
        return self._rate_per_s

    def set_rate(self, rate_per_s: float) -> None:
        """Refill at another rate from now on; the time until now counts at the old one."""
        if rate_per_s <= 0:
            raise ValueError("rate_per_s must be above 0")
        self._refill()
        self._rate_per_s = rate_per_s

    def available(self) -> int:
        """Whole tokens that could be spent now."""
        self._refill()
        return max(0, int(self._tokens + _ROUNDING))

    def try_acquire(self, cost: float) -> Decision:
        """Spend ``cost`` tokens, or say how long until that many could be spent.

        Raises:
            ValueError: ``cost`` is negative, or exceeds ``burst``, so no wait would ever be enough.
        """
        retry_after_s = self.wait_s(cost)
        if retry_after_s > 0:
            return Decision(admitted=False, retry_after_s=retry_after_s)
        self._tokens -= cost
        return Decision(admitted=True)

    def wait_s(self, cost: float) -> float:
        """How long until ``cost`` tokens could be spent if nobody else spends; 0 is now.

        Raises:
            ValueError: as ``try_acquire``.
        """
        if not 0 <= cost <= self._burst:
            raise ValueError(f"cost {cost} can never fit burst {self._burst}")
        self._refill()
        missing = cost - self._tokens
        return 0.0 if missing <= _ROUNDING else missing / self._rate_per_s

    def drain(self) -> None:
        """Forget what was saved up; a debt stays."""
        self._refill()
        self._tokens = min(self._tokens, 0.0)

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._refilled_at) * self._rate_per_s)
        self._refilled_at = now
