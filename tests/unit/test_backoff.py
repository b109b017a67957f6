from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers, lists, sampled_from

from actors.config import RetrySettings
from actors.core.backoff import Backoff, RetryBudget

SETTINGS = RetrySettings(max_attempts=3, base_s=0.05, max_s=2.0)
SEEDS = integers(0, 2**32)


@given(seed=SEEDS, attempt=integers(1, 5000))
def test_a_delay_is_below_its_doubling_cap(seed: int, attempt: int) -> None:
    delay_s = Backoff(SETTINGS, random.Random(seed)).delay(attempt)
    assert 0 <= delay_s <= min(2.0, 0.05 * 2 ** min(attempt - 1, 20))


def test_delays_spread_over_the_whole_range() -> None:
    backoff = Backoff(SETTINGS, random.Random(1))
    delays = [backoff.delay(3) for _ in range(2000)]
    assert min(delays) < 0.01
    assert max(delays) > 0.19
    assert sum(delays) / len(delays) == pytest.approx(0.1, rel=0.05)


@given(seed=SEEDS, attempt=integers(1, 10), remaining_s=floats(-1, 0.2))
def test_a_retry_fits_in_the_attempts_and_before_the_deadline(seed: int, attempt: int, remaining_s: float) -> None:
    delay_s = Backoff(SETTINGS, random.Random(seed)).next_delay(attempt, remaining_s)
    if attempt >= 3:
        assert delay_s is None
    else:
        would_wait_s = Backoff(SETTINGS, random.Random(seed)).delay(attempt)
        assert delay_s == (would_wait_s if would_wait_s < remaining_s else None)


def test_attempts_count_from_one() -> None:
    with pytest.raises(ValueError, match="from 1"):
        Backoff(SETTINGS, random.Random(1)).delay(0)


def test_an_outage_spends_the_budget_and_successes_refill_it() -> None:
    backoff = Backoff(SETTINGS, random.Random(1), RetryBudget())
    assert sum(backoff.next_delay(1, 100) is not None for _ in range(200)) == 100
    for _ in range(4):
        backoff.succeeded()
    assert backoff.next_delay(1, 100) is None
    backoff.succeeded()
    assert backoff.next_delay(1, 100) is not None


def test_a_retry_after_a_timeout_costs_twice() -> None:
    backoff = Backoff(SETTINGS, random.Random(1), RetryBudget())
    assert sum(backoff.next_delay(1, 100, timed_out=True) is not None for _ in range(200)) == 50


def test_a_retry_that_is_not_made_is_not_paid_for() -> None:
    budget = RetryBudget()
    backoff = Backoff(SETTINGS, random.Random(1), budget)
    assert backoff.next_delay(3, 100) is None
    assert backoff.next_delay(1, 0) is None
    assert budget.tokens == 500


@given(events=lists(sampled_from(["retry", "timeout", "success"]), max_size=300))
def test_the_budget_stays_between_nothing_and_its_capacity(events: list[str]) -> None:
    budget = RetryBudget(capacity=50)
    for event in events:
        before = budget.tokens
        if event == "success":
            budget.succeeded()
            assert budget.tokens == min(50, before + 1)
        else:
            cost = 10 if event == "timeout" else 5
            assert budget.spend(timed_out=event == "timeout") == (before >= cost)
            assert budget.tokens == (before - cost if before >= cost else before)
        assert 0 <= budget.tokens <= 50
