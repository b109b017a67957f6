from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis.strategies import booleans, floats, lists, tuples

from actors.core.limits.adaptive_rate import LOWEST, LOWEST_HEALTH, RECOVERY_PER_S, AdaptiveRate
from tests.unit.clock import FakeClock


@given(steps=lists(tuples(booleans(), floats(0, 1), floats(0, 60)), max_size=100))
def test_the_rate_is_never_nothing_and_never_above_the_plan(steps: list[tuple[bool, float, float]]) -> None:
    clock = FakeClock()
    rate = AdaptiveRate(clock, 1.0)
    for throttled, health, gap_s in steps:
        if throttled:
            rate.cut()
        assert LOWEST <= rate.factor(health) <= 1
        clock.advance(gap_s)


def test_a_cut_halves_the_rate_and_time_gives_it_back_in_equal_steps() -> None:
    clock = FakeClock()
    rate = AdaptiveRate(clock, 1.0)
    rate.cut()
    assert rate.factor(1.0) == 0.5
    clock.advance(10)
    assert rate.factor(1.0) == pytest.approx(0.5 + 10 * RECOVERY_PER_S)
    rate.cut()
    assert rate.factor(1.0) == pytest.approx(0.25 + 5 * RECOVERY_PER_S)
    clock.advance(1 / RECOVERY_PER_S)
    assert rate.factor(1.0) == 1


def test_throttled_answers_to_calls_of_one_burst_cut_once() -> None:
    clock = FakeClock()
    rate = AdaptiveRate(clock, 1.0)
    for _ in range(20):
        rate.cut()
        clock.advance(0.04)
    assert rate.factor(1.0) == pytest.approx(0.5, abs=0.02)


def test_bad_health_scales_the_rate_down_to_a_floor() -> None:
    rate = AdaptiveRate(FakeClock(), 1.0)
    assert rate.factor(0.9) == pytest.approx(0.9)
    assert rate.factor(0.0) == pytest.approx(LOWEST_HEALTH)
    rate.cut()
    assert rate.factor(0.5) == pytest.approx(0.25)
