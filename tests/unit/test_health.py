from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers, lists, tuples

from actors.core.limits.health import HALF_LIFE_S, Health, Outcomes
from tests.unit.clock import FakeClock


@given(steps=lists(tuples(integers(0, 50), integers(0, 50), floats(0, 600)), max_size=100))
def test_the_score_stays_between_nothing_and_one(steps: list[tuple[int, int, float]]) -> None:
    clock = FakeClock()
    health = Health(clock)
    for succeeded, failed, gap_s in steps:
        before = health.score
        health.observe(Outcomes(succeeded, failed))
        assert 0 <= health.score <= 1
        if not failed:
            assert health.score >= before
        if not succeeded:
            assert health.score <= before
        clock.advance(gap_s)


def test_it_follows_the_last_outcomes() -> None:
    health = Health(FakeClock())
    health.observe(Outcomes(failed=1))
    assert health.score == pytest.approx(0.9)
    health.observe(Outcomes(failed=500))
    assert health.score == pytest.approx(0)
    health.observe(Outcomes(succeeded=500))
    assert health.score == pytest.approx(1)
    health.observe(Outcomes(succeeded=500, failed=500))
    assert health.score == pytest.approx(0.5)


def test_a_quiet_backend_is_taken_to_recover() -> None:
    clock = FakeClock()
    health = Health(clock)
    health.observe(Outcomes(failed=500))
    clock.advance(HALF_LIFE_S)
    assert health.score == pytest.approx(0.5)
    health.observe(Outcomes())
    clock.advance(HALF_LIFE_S)
    assert health.score == pytest.approx(0.75)


def test_being_throttled_says_nothing_of_health() -> None:
    health = Health(FakeClock())
    health.observe(Outcomes(throttled=100))
    assert health.score == 1


def test_outcomes_add_up() -> None:
    assert Outcomes(1, 2, 3) + Outcomes(failed=1) == Outcomes(1, 3, 3)
