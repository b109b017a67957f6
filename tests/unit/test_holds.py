from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers, lists, sampled_from, tuples

from actors.core.limits.holds import Holds, Semaphore
from tests.unit.clock import FakeClock

KEY, TTL_S, PERMITS = "sandboxes", 30.0, Semaphore(5)


def new_holds(clock: FakeClock, *, restarted: bool = False) -> Holds[str]:
    return Holds(clock, TTL_S, restarted)


@given(
    steps=lists(
        tuples(sampled_from(["reserve", "release", "renew"]), sampled_from("abc"), integers(1, 5), floats(0, 20)),
        max_size=80,
    )
)
def test_never_are_more_held_than_there_are(steps: list[tuple[str, str, int, float]]) -> None:
    clock = FakeClock()
    holds = new_holds(clock)
    for action, holder, count, gap_s in steps:
        before = holds.held()[KEY]
        if action == "reserve":
            decision = holds.reserve(holder, KEY, count, PERMITS)
            assert decision.admitted == (before + count <= 5)
            assert decision.admitted or decision.retry_after_s > 0
        elif action == "release":
            holds.release(holder, KEY, count)
            assert before - count <= holds.held()[KEY] <= before
        else:
            holds.renew(holder)
        assert 0 <= holds.held()[KEY] <= 5
        clock.advance(gap_s)


def test_a_holder_that_dies_loses_its_permits_and_one_that_renews_keeps_them() -> None:
    clock = FakeClock()
    holds = new_holds(clock)
    holds.reserve("dead", KEY, 2, PERMITS)
    holds.reserve("alive", KEY, 3, PERMITS)
    clock.advance(TTL_S - 1)
    holds.renew("alive")
    assert not holds.reserve("alive", KEY, 1, PERMITS).admitted
    clock.advance(1)
    assert holds.held()[KEY] == 3
    assert holds.reserve("alive", KEY, 2, PERMITS).admitted


def test_after_a_restart_nothing_is_reserved_until_living_holders_have_said_what_they_hold() -> None:
    clock = FakeClock()
    holds = new_holds(clock, restarted=True)
    decision = holds.reserve("new", KEY, 1, PERMITS)
    assert (decision.admitted, decision.retry_after_s) == (False, TTL_S)
    clock.advance(TTL_S / 2)
    holds.renew("old", {KEY: 7})
    clock.advance(TTL_S / 2)
    assert not holds.reserve("new", KEY, 1, PERMITS).admitted
    holds.release("old", KEY, 3)
    assert holds.reserve("new", KEY, 1, PERMITS).admitted


def test_what_a_holder_says_it_holds_replaces_what_was_known() -> None:
    holds = new_holds(FakeClock())
    holds.reserve("a", KEY, 5, PERMITS)
    holds.renew("a", {KEY: 1})
    assert holds.held()[KEY] == 1


def test_releasing_what_was_never_known_changes_nothing() -> None:
    holds = new_holds(FakeClock())
    holds.release("stranger", KEY, 3)
    holds.reserve("a", KEY, 1, PERMITS)
    holds.release("a", KEY, 3)
    assert holds.held()[KEY] == 0


def test_without_a_semaphore_there_is_no_limit() -> None:
    holds = new_holds(FakeClock(), restarted=True)
    assert holds.reserve("a", KEY, 1000, None).admitted


@pytest.mark.parametrize("count", [0, 6])
def test_a_count_that_can_never_fit_is_an_error(count: int) -> None:
    with pytest.raises(ValueError, match=r"at least|never fit"):
        new_holds(FakeClock()).reserve("a", KEY, count, PERMITS)
