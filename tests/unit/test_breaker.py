from __future__ import annotations

import pickle
import random

import pytest
from hypothesis import given
from hypothesis.strategies import booleans, floats, integers, lists, tuples

from actors.config import BreakerSettings
from actors.core.breaker import TRIAL_GAP_S, Breaker, BreakerRefusal, BreakerSnapshot, BreakerState, Permit, admit
from tests.unit.clock import FakeClock

SETTINGS = BreakerSettings()
RAMP = SETTINGS.ramp


def new_breaker(clock: FakeClock, seed: int = 1, *, cautious: bool = False, generation: int = 0) -> Breaker:
    return Breaker(SETTINGS, clock, random.Random(seed), cautious=cautious, generation=generation)


class Caller:
    """Someone who asks for leave from the latest snapshot."""

    def __init__(self, breaker: Breaker, clock: FakeClock) -> None:
        self._breaker, self._clock, self._rng = breaker, clock, random.Random(1)
        self._permitted_at = float("-inf")

    def ask(self) -> Permit | BreakerRefusal:
        answer = admit(self._breaker.snapshot(), 0.0, self._rng, self._clock() - self._permitted_at)
        if isinstance(answer, Permit):
            self._permitted_at = self._clock()
        return answer


def report(breaker: Breaker, ok: bool, times: int = 1, duration_s: float = 0.1) -> None:
    for _ in range(times):
        breaker.report(breaker.snapshot().generation, ok, duration_s)


def open_s(breaker: Breaker) -> float:
    snapshot = breaker.snapshot()
    assert snapshot.state is BreakerState.OPEN
    return snapshot.retry_after_s


def climb_to(breaker: Breaker, clock: FakeClock, step: int) -> None:
    """Trip it, wait, and succeed until the ramp is at ``step``."""
    report(breaker, ok=False, times=SETTINGS.min_calls)
    clock.advance(open_s(breaker))
    for _ in range(step):
        report(breaker, ok=True, times=SETTINGS.ramp_calls)
    assert breaker.snapshot().admit_probability == RAMP[step]


def test_a_breaker_trips_at_its_failure_rate_and_not_before_enough_calls() -> None:
    clock = FakeClock()
    breaker = new_breaker(clock)
    report(breaker, ok=False, times=SETTINGS.min_calls - 1)
    assert breaker.snapshot().state is BreakerState.CLOSED
    report(breaker, ok=False)
    assert breaker.snapshot().state is BreakerState.OPEN
    refusal = Caller(breaker, clock).ask()
    assert isinstance(refusal, BreakerRefusal)
    assert refusal.retry_after_s == open_s(breaker)


def test_a_breaker_below_its_failure_rate_stays_closed() -> None:
    clock = FakeClock()
    breaker = new_breaker(clock)
    for _ in range(100):
        report(breaker, ok=True)
        report(breaker, ok=True)
        report(breaker, ok=False)
    snapshot = breaker.snapshot()
    assert snapshot.state is BreakerState.CLOSED
    assert snapshot.calls == 300
    assert snapshot.failure_rate == pytest.approx(1 / 3)
    assert isinstance(Caller(breaker, clock).ask(), Permit)


def test_slow_calls_trip_it_though_they_succeed() -> None:
    breaker = new_breaker(FakeClock())
    report(breaker, ok=True, times=2)
    report(breaker, ok=True, times=7, duration_s=SETTINGS.slow_call_s)
    assert breaker.snapshot().state is BreakerState.CLOSED
    report(breaker, ok=True, duration_s=SETTINGS.slow_call_s)
    assert breaker.snapshot().state is BreakerState.OPEN
    assert breaker.snapshot().slow_rate == 0.8


def test_failures_older_than_the_window_are_forgotten() -> None:
    clock = FakeClock()
    breaker = new_breaker(clock)
    report(breaker, ok=False, times=SETTINGS.min_calls - 1)
    clock.advance(SETTINGS.window_s)
    assert breaker.snapshot().calls == 0
    report(breaker, ok=False, times=SETTINGS.min_calls - 1)
    assert breaker.snapshot().state is BreakerState.CLOSED


def test_failures_spread_over_the_window_count_together() -> None:
    clock = FakeClock()
    breaker = new_breaker(clock)
    for _ in range(SETTINGS.min_calls):
        report(breaker, ok=False)
        clock.advance(SETTINGS.window_s / SETTINGS.min_calls * 0.9)
    assert breaker.snapshot().state is not BreakerState.CLOSED


def test_a_limit_of_zero_does_not_trip_on_successes() -> None:
    settings = BreakerSettings(failure_rate=0, slow_rate=0)
    breaker = Breaker(settings, FakeClock(), random.Random(1))
    report(breaker, ok=True, times=50)
    assert breaker.snapshot().state is BreakerState.CLOSED


def test_it_closes_through_every_step_of_the_ramp() -> None:
    clock = FakeClock()
    breaker = new_breaker(clock)
    climb_to(breaker, clock, 0)
    for probability in RAMP:
        snapshot = breaker.snapshot()
        assert (snapshot.state, snapshot.admit_probability) == (BreakerState.HALF_OPEN, probability)
        report(breaker, ok=True, times=SETTINGS.ramp_calls)
    snapshot = breaker.snapshot()
    assert (snapshot.state, snapshot.admit_probability, snapshot.calls) == (BreakerState.CLOSED, 1.0, 0)


@pytest.mark.parametrize(("ok", "duration_s"), [(False, 0.1), (True, SETTINGS.slow_call_s)])
def test_a_failed_or_slow_trial_steps_back_once_and_below_the_first_step_opens(ok: bool, duration_s: float) -> None:
    clock = FakeClock()
    breaker = new_breaker(clock)
    climb_to(breaker, clock, 2)
    generation = breaker.snapshot().generation
    for _ in range(3):  # of one generation: only the first counts
        breaker.report(generation, ok, duration_s)
    assert breaker.snapshot().admit_probability == RAMP[1]
    report(breaker, ok=ok, duration_s=duration_s)
    assert breaker.snapshot().admit_probability == RAMP[0]
    report(breaker, ok=ok, duration_s=duration_s)
    assert breaker.snapshot().state is BreakerState.OPEN


@given(seed=integers(0, 1000))
def test_each_trip_in_a_row_opens_for_twice_as_long_up_to_the_cap(seed: int) -> None:
    clock = FakeClock()
    breaker = new_breaker(clock, seed)
    report(breaker, ok=False, times=SETTINGS.min_calls)
    for trip in range(40):
        longest_s = min(SETTINGS.open_max_s, SETTINGS.open_s * 2**trip)
        assert longest_s / 2 <= open_s(breaker) <= longest_s
        clock.advance(open_s(breaker) + 0.001)
        report(breaker, ok=False)


def test_the_open_time_is_short_again_once_it_was_closed() -> None:
    clock = FakeClock()
    breaker = new_breaker(clock)
    climb_to(breaker, clock, 0)
    report(breaker, ok=False)
    clock.advance(open_s(breaker))
    report(breaker, ok=True, times=SETTINGS.ramp_calls * len(RAMP))
    assert breaker.snapshot().state is BreakerState.CLOSED
    report(breaker, ok=False, times=SETTINGS.min_calls)
    assert open_s(breaker) <= SETTINGS.open_s


def test_open_times_of_different_breakers_differ() -> None:
    times = set()
    for seed in range(10):
        breaker = new_breaker(FakeClock(), seed)
        report(breaker, ok=False, times=SETTINGS.min_calls)
        times.add(open_s(breaker))
    assert len(times) == 10


@given(outcomes=lists(tuples(integers(-5, 5), booleans(), floats(0, 40), floats(0, 10)), max_size=200))
def test_late_answers_change_nothing(outcomes: list[tuple[int, bool, float, float]]) -> None:
    clock = FakeClock()
    breaker, control = new_breaker(clock), new_breaker(clock)
    for offset, ok, duration_s, gap_s in outcomes:
        generation = breaker.snapshot().generation
        breaker.report(generation + offset, ok, duration_s)
        if offset == 0:
            control.report(generation, ok, duration_s)
        assert breaker.snapshot() == control.snapshot()
        clock.advance(gap_s)


@given(outcomes=lists(tuples(booleans(), floats(0, 40), floats(0, 10)), max_size=200))
def test_generations_only_grow_and_states_agree_with_their_probability(
    outcomes: list[tuple[bool, float, float]],
) -> None:
    clock = FakeClock()
    breaker = new_breaker(clock)
    last = breaker.snapshot()
    for ok, duration_s, gap_s in outcomes:
        breaker.report(last.generation, ok, duration_s)
        clock.advance(gap_s)
        now = breaker.snapshot()
        assert now.generation >= last.generation
        assert (now.state is BreakerState.OPEN) == (now.admit_probability == 0.0) == (now.retry_after_s > 0)
        assert now.state is not BreakerState.CLOSED or now.admit_probability == 1.0
        if now.generation == last.generation and now.state is not last.state:
            assert (last.state, now.state) == (BreakerState.OPEN, BreakerState.HALF_OPEN)
        last = now


@pytest.mark.parametrize("step", range(len(RAMP)))
def test_each_step_admits_its_share(step: int) -> None:
    clock = FakeClock()
    breaker = new_breaker(clock)
    climb_to(breaker, clock, step)
    caller = Caller(breaker, clock)
    admitted = sum(isinstance(caller.ask(), Permit) for _ in range(4000))
    assert admitted / 4000 == pytest.approx(RAMP[step], abs=0.03)


@given(seed=integers(0, 1000), start_s=floats(0, 1e6))
def test_a_caller_who_waits_until_it_is_half_open_makes_the_first_trial(seed: int, start_s: float) -> None:
    clock = FakeClock(start_s)
    breaker = new_breaker(clock, seed)
    report(breaker, ok=False, times=SETTINGS.min_calls)
    caller = Caller(breaker, clock)
    refusal = caller.ask()
    assert isinstance(refusal, BreakerRefusal)
    clock.advance(refusal.retry_after_s)
    assert isinstance(caller.ask(), Permit)


def test_a_lone_caller_recovers_though_its_trials_never_answer() -> None:
    clock = FakeClock()
    breaker = new_breaker(clock)
    climb_to(breaker, clock, 0)
    caller = Caller(breaker, clock)
    for _ in range(50):
        assert isinstance(caller.ask(), Permit)
        clock.advance(TRIAL_GAP_S)


@given(seed=integers(0, 1000))
def test_a_half_open_caller_who_waits_as_told_is_admitted(seed: int) -> None:
    clock = FakeClock()
    breaker = new_breaker(clock, seed)
    climb_to(breaker, clock, 0)
    caller = Caller(breaker, clock)
    for _ in range(20):
        answer = caller.ask()
        if isinstance(answer, BreakerRefusal):
            clock.advance(answer.retry_after_s)
            assert isinstance(caller.ask(), Permit)
        clock.advance(0.3)


def test_a_cautious_breaker_admits_all_and_steps_back_at_the_first_failure() -> None:
    clock = FakeClock()
    breaker = new_breaker(clock, cautious=True, generation=70)
    caller = Caller(breaker, clock)
    assert all(caller.ask() == Permit(70) for _ in range(20))
    report(breaker, ok=False)
    snapshot = breaker.snapshot()
    assert (snapshot.admit_probability, snapshot.generation) == (RAMP[-2], 71)
    report(breaker, ok=True, times=2 * SETTINGS.ramp_calls)
    assert breaker.snapshot().state is BreakerState.CLOSED


def test_a_snapshot_that_was_open_for_its_time_admits_as_the_first_step_and_its_generation_counts() -> None:
    clock = FakeClock()
    breaker = new_breaker(clock)
    report(breaker, ok=False, times=SETTINGS.min_calls)
    snapshot: BreakerSnapshot = pickle.loads(pickle.dumps(breaker.snapshot()))
    rng = random.Random(1)
    wait_s = snapshot.retry_after_s
    refusal = admit(snapshot, wait_s - 1, rng, idle_s=99)
    assert isinstance(refusal, BreakerRefusal)
    assert refusal.retry_after_s == pytest.approx(1)
    answers = [admit(snapshot, wait_s, rng) for _ in range(4000)]
    permits = [answer for answer in answers if isinstance(answer, Permit)]
    assert len(permits) / 4000 == pytest.approx(RAMP[0], abs=0.015)
    clock.advance(wait_s)
    for permit in permits[: SETTINGS.ramp_calls]:
        breaker.report(permit.generation, True, 0.1)
    assert breaker.snapshot().admit_probability == RAMP[1]


def test_a_closed_snapshot_always_admits() -> None:
    snapshot = new_breaker(FakeClock(), generation=3).snapshot()
    assert admit(snapshot, 1e6, random.Random(1)) == Permit(3)


def test_a_ramp_must_have_a_step() -> None:
    with pytest.raises(ValueError, match="ramp"):
        Breaker(BreakerSettings(ramp=()), FakeClock(), random.Random(1))
