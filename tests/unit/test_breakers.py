"""The breakers of one backend: no user's calls, however they end, have another user's refused."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis.strategies import booleans, builds, floats, integers, lists, sampled_from, tuples

from actors.config import BreakerSettings
from actors.core import breakers
from actors.core.breaker import BreakerState
from actors.core.breakers import BackendBreakers, CallOutcome, CallPermit, first_refusal
from tests.unit.clock import FakeClock

SETTINGS = BreakerSettings()
ANY_SETTINGS = builds(
    BreakerSettings,
    min_calls=integers(1, 20),
    min_users=integers(2, 5),
    failure_rate=floats(0, 1),
    slow_rate=floats(0, 1),
    ramp_calls=integers(1, 5),
)
SLOW_S = SETTINGS.slow_call_s


def call(
    found: BackendBreakers, user: str, ok: bool = True, seconds: float = 0.1, rng: random.Random | None = None
) -> bool:
    """Make one call, if it is permitted, and report how it went; return whether it was."""
    snapshot = found.snapshot()
    if first_refusal(snapshot.of(user), 0.0, random.Random(0), 99.0) is not None:
        return False
    found.report(CallOutcome(snapshot.permit("fake", user), ok, seconds))
    return True


@given(
    settings=ANY_SETTINGS,
    cautious=booleans(),
    calls=lists(
        tuples(sampled_from(["mallory", "bob", "carol"]), booleans(), floats(0, 3 * SLOW_S), floats(0, 20)),
        max_size=150,
    ),
)
def test_no_user_has_another_users_calls_refused(
    settings: BreakerSettings, cautious: bool, calls: list[tuple[str, bool, float, float]]
) -> None:
    clock = FakeClock()
    found = BackendBreakers(settings, clock, random.Random(1), cautious=cautious)
    for user, ok, seconds, gap_s in calls:
        if user == "mallory":
            call(found, user, ok, seconds)
        else:
            assert call(found, user), "the backend served this user well, always"
        clock.advance(gap_s)
        assert found.shared.state is not BreakerState.OPEN


@given(mallory=lists(tuples(booleans(), floats(0, 3 * SLOW_S), floats(0, 5)), min_size=1, max_size=60))
def test_no_user_keeps_a_backend_that_has_recovered_from_the_others(mallory: list[tuple[bool, float, float]]) -> None:
    clock = FakeClock()
    found = BackendBreakers(SETTINGS, clock, random.Random(1))
    for user in ("a", "b", "c"):
        for _ in range(SETTINGS.min_calls):
            call(found, user, ok=False)
    assert found.shared.state is BreakerState.OPEN
    clock.advance(SETTINGS.open_max_s)
    served = 0
    for ok, seconds, gap_s in mallory:
        call(found, "mallory", ok, seconds)
        served += call(found, "bob")
        clock.advance(gap_s)
    assert served == len(mallory), "bob asks no more than once a second"
    if served >= SETTINGS.ramp_calls * len(SETTINGS.ramp):
        assert found.shared.state is BreakerState.CLOSED


def test_a_backend_that_fails_for_several_users_is_given_time_by_all() -> None:
    found = BackendBreakers(SETTINGS, FakeClock(), random.Random(1))
    for _ in range(SETTINGS.min_calls):
        for user in ("a", "b", "c"):
            call(found, user, ok=False)
    assert not call(found, "bob")


def test_a_backend_that_serves_most_users_well_stays_open_to_them() -> None:
    found = BackendBreakers(SETTINGS, FakeClock(), random.Random(1))
    for _ in range(SETTINGS.min_calls):
        for user in "abc":
            call(found, user, ok=False)
            for other in "defgh":
                call(found, other + user)
    assert call(found, "bob")


def test_a_lone_user_is_spared_a_backend_that_fails_and_let_back_to_it() -> None:
    clock = FakeClock()
    found = BackendBreakers(SETTINGS, clock, random.Random(1))
    made = sum(call(found, "ann", ok=False) for _ in range(100))
    assert made == SETTINGS.min_calls
    assert (found.shared.state, found.stopped_users) == (BreakerState.CLOSED, 1)
    clock.advance(SETTINGS.open_s)
    for _ in range(SETTINGS.ramp_calls * len(SETTINGS.ramp)):
        assert call(found, "ann")
    assert found.stopped_users == 0


def test_a_users_many_calls_have_one_voice() -> None:
    found = BackendBreakers(SETTINGS, FakeClock(), random.Random(1))
    for _ in range(1000):
        call(found, "busy")
    for user in ("a", "b", "c"):
        for _ in range(SETTINGS.min_calls):
            call(found, user, ok=False)
    assert not call(found, "busy"), "three users of four cannot be served"


def test_late_outcomes_do_not_count_against_what_has_moved_on() -> None:
    found = BackendBreakers(SETTINGS, FakeClock(), random.Random(1))
    for _ in range(SETTINGS.min_calls):
        call(found, "ann", ok=False)
    before = found.snapshot()
    for _ in range(5):
        found.report(CallOutcome(CallPermit("fake", "ann"), True, 0.1))
    assert found.snapshot().users == before.users


def test_only_so_many_users_are_remembered() -> None:
    found = BackendBreakers(SETTINGS, FakeClock(), random.Random(1))
    for _ in range(SETTINGS.min_calls):
        call(found, "first", ok=False)
    assert found.stopped_users == 1
    for number in range(breakers.MAX_USERS):
        found.report(CallOutcome(CallPermit("fake", f"u{number}"), True, 0.1))
    assert found.stopped_users == 0
    assert found.snapshot().users == {}
