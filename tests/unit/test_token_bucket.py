from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis.strategies import floats, lists, tuples

from actors.core.limits.token_bucket import TokenBucket
from tests.unit.clock import FakeClock

RATES = floats(0.1, 50)


@given(start_s=floats(0, 1e6), rate_per_s=RATES, gap_s=floats(0, 0.5))
def test_a_caller_who_waits_as_told_is_admitted(start_s: float, rate_per_s: float, gap_s: float) -> None:
    clock = FakeClock(start_s)
    bucket = TokenBucket(rate_per_s, burst=5, clock=clock)
    assert bucket.try_acquire(5).admitted
    clock.advance(gap_s)
    decision = bucket.try_acquire(2)
    clock.advance(decision.retry_after_s)
    assert decision.admitted or bucket.try_acquire(2).admitted


@given(steps=lists(tuples(floats(0, 3), floats(0, 5), RATES), max_size=60))
def test_no_window_admits_more_than_the_burst_and_the_highest_rate(steps: list[tuple[float, float, float]]) -> None:
    clock = FakeClock()
    bucket = TokenBucket(1, burst=5, clock=clock)
    spent: list[tuple[float, float]] = []
    highest = 1.0
    for gap_s, cost, rate_per_s in steps:
        clock.advance(gap_s)
        if bucket.try_acquire(cost).admitted:
            spent.append((clock(), cost))
        bucket.set_rate(rate_per_s)
        highest = max(highest, rate_per_s)
    for i, (begin, _) in enumerate(spent):
        for end, _ in spent[i:]:
            in_window = sum(cost for at, cost in spent if begin <= at <= end)
            assert in_window <= 5 + highest * (end - begin) + 1e-4


@given(rate_per_s=RATES, debt=floats(0, 10))
def test_a_bucket_in_debt_admits_nothing_until_the_debt_is_refilled(rate_per_s: float, debt: float) -> None:
    clock = FakeClock()
    bucket = TokenBucket(rate_per_s, burst=5, clock=clock, tokens=-debt)
    clock.advance((debt + 0.99) / rate_per_s)
    assert bucket.available() == 0
    assert not bucket.try_acquire(1).admitted
    clock.advance(0.01 / rate_per_s)
    assert bucket.available() == 1
    assert bucket.try_acquire(1).admitted


def test_a_bucket_starts_with_its_burst_or_as_told() -> None:
    clock = FakeClock()
    assert TokenBucket(1, burst=5, clock=clock).available() == 5
    assert TokenBucket(1, burst=5, clock=clock, tokens=0).available() == 0
    assert TokenBucket(1, burst=5, clock=clock, tokens=99).available() == 5


def test_a_change_of_rate_does_not_touch_the_time_before_it() -> None:
    clock = FakeClock()
    bucket = TokenBucket(1, burst=10, clock=clock, tokens=0)
    clock.advance(2)
    bucket.set_rate(3)
    assert bucket.available() == 2
    clock.advance(2)
    assert bucket.available() == 8


def test_draining_forgets_savings_and_keeps_debts() -> None:
    clock = FakeClock()
    bucket = TokenBucket(1, burst=5, clock=clock)
    bucket.drain()
    assert bucket.available() == 0
    indebted = TokenBucket(1, burst=5, clock=clock, tokens=-3)
    indebted.drain()
    assert indebted.wait_s(1) == 4


def test_a_refused_cost_is_not_spent() -> None:
    clock = FakeClock()
    bucket = TokenBucket(1, burst=5, clock=clock, tokens=3)
    assert bucket.try_acquire(4).retry_after_s == 1
    assert bucket.try_acquire(3).admitted


@pytest.mark.parametrize("cost", [-1, 5.1])
def test_a_cost_that_can_never_fit_is_an_error(cost: float) -> None:
    with pytest.raises(ValueError, match="never fit"):
        TokenBucket(1, burst=5, clock=FakeClock()).try_acquire(cost)


def test_rates_and_bursts_must_be_above_zero() -> None:
    for rate_per_s, burst in [(0, 1), (1, 0)]:
        with pytest.raises(ValueError, match="above 0"):
            TokenBucket(rate_per_s, burst, clock=FakeClock())
    with pytest.raises(ValueError, match="above 0"):
        TokenBucket(1, 1, clock=FakeClock()).set_rate(0)
