"""When to try again, and when to stop trying."""

from __future__ import annotations

import random

from actors.config import RetrySettings

_MAX_DOUBLINGS = 60  # far beyond any cap, and short of overflowing a float


class RetryBudget:
    """Let retries through only while enough calls succeed, so that an outage is not multiplied by retrying it.

    Shared by all the calls to one service. A retry costs 5 tokens, one after a timeout 10; a success gives 1 back.
    Source: AWS SDK standard retry mode (retry quota: capacity 500, costs 5 and 10, refund 1).
    """

    def __init__(
        self, capacity: int = 500, retry_cost: int = 5, timeout_cost: int = 10, success_refund: int = 1
    ) -> None:
        self._capacity, self._tokens = capacity, capacity
        self._retry_cost, self._timeout_cost, self._success_refund = retry_cost, timeout_cost, success_refund

    @property
    def tokens(self) -> int:
        return self._tokens

    def spend(self, timed_out: bool = False) -> bool:
        """Pay for one retry; False, and nothing is paid, if there is not enough left."""
        cost = self._timeout_cost if timed_out else self._retry_cost
        if cost > self._tokens:
            return False
        self._tokens -= cost
        return True

    def succeeded(self) -> None:
        """Tell of a call that succeeded, at its first attempt or a later one."""
        self._tokens = min(self._capacity, self._tokens + self._success_refund)


class Backoff:
    """Say how long to wait before each new attempt: exponentially longer, with full jitter, at most so many times.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog: of the variants it measures, full jitter makes the
    fewest calls.
    """

    def __init__(self, settings: RetrySettings, rng: random.Random, budget: RetryBudget | None = None) -> None:
        self._settings, self._rng, self._budget = settings, rng, budget

    def delay(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number ``attempt``, the first being 1: uniform up to a doubling cap."""
        if attempt < 1:
            raise ValueError("attempts count from 1")
        doublings = min(attempt - 1, _MAX_DOUBLINGS)
        return self._rng.uniform(0.0, min(self._settings.max_s, self._settings.base_s * 2.0**doublings))

    def next_delay(self, attempt: int, remaining_s: float, timed_out: bool = False) -> float | None:
        """Seconds to wait after failed attempt number ``attempt``, or None to give up.

        It gives up after the last attempt, when the wait would use up the ``remaining_s`` until the deadline, and when
        the budget is spent. ``timed_out`` says that the attempt did, which makes a retry dearer.
        """
        if attempt >= self._settings.max_attempts:
            return None
        delay_s = self.delay(attempt)
        if delay_s >= remaining_s:
            return None
        # Last, so that only a retry that will be made is paid for.
        if self._budget is not None and not self._budget.spend(timed_out):
            return None
        return delay_s

    def succeeded(self) -> None:
        """Tell of a call that succeeded; refills the budget."""
        if self._budget is not None:
            self._budget.succeeded()
