from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import DataObject, data, floats, integers, sampled_from

from actors.config import PoolSettings
from actors.core.pool.demand import DemandEstimator, StartBackoff
from actors.core.pool.lifecycle import SlotState, move
from actors.core.pool.plan import Check, Command, PoolView, Refresh, Replace, SlotView, Start, Stop, plan, target_size
from tests.unit.clock import FakeClock

S = SlotState
LIMITS = PoolSettings(min_size=2, target_size=3, max_size=10, max_starting=4)
IDLE = tuple(SlotView(f"idle-{i}", S.IDLE, in_state_s=float(i)) for i in range(3))


def starts(commands: list[Command]) -> int:
    return sum(isinstance(command, Start | Replace) for command in commands)


def stops(commands: list[Command]) -> list[str]:
    return [command.sandbox_id for command in commands if isinstance(command, Stop)]


def test_an_empty_pool_is_filled_to_its_target() -> None:
    assert plan(PoolView(), LIMITS) == [Start()] * 3


def test_a_pool_at_its_target_is_left_alone() -> None:
    assert plan(PoolView(slots=IDLE), LIMITS) == []


def test_it_grows_at_once_by_those_who_wait_as_far_as_starting_is_capped() -> None:
    leased = tuple(replace(slot, state=S.LEASED) for slot in IDLE)
    assert plan(PoolView(slots=leased, waiting=2), LIMITS) == [Start()] * 2
    assert plan(PoolView(slots=leased, waiting=50), LIMITS) == [Start()] * 4


def test_it_grows_to_the_load_of_littles_law_and_never_beyond_the_maximum() -> None:
    assert target_size(PoolView(concurrency=6.2), LIMITS) == 7
    assert target_size(PoolView(concurrency=600), LIMITS) == 10


def test_what_is_starting_already_is_not_started_again() -> None:
    starting = tuple(SlotView(f"s{i}", S.STARTING) for i in range(3))
    assert plan(PoolView(slots=starting), LIMITS) == []


def test_the_longest_idle_are_stopped_first_and_only_after_being_idle_long() -> None:
    idle = tuple(SlotView(f"i{age}", S.IDLE, in_state_s=age) for age in (10.0, 130.0, 500.0, 200.0, 90.0))
    assert stops(plan(PoolView(slots=idle), LIMITS)) == ["i500.0", "i200.0"]
    assert stops(plan(PoolView(slots=idle[:1] * 5), LIMITS)) == []


def test_a_leased_slot_is_not_stopped_however_long_it_has_been() -> None:
    slots = (
        SlotView("leased", S.LEASED, in_state_s=999.0),
        *(replace(s, in_state_s=200.0 + i) for i, s in enumerate(IDLE)),
    )
    assert stops(plan(PoolView(slots=slots), LIMITS)) == ["idle-2"]


def test_a_slot_with_a_session_is_neither_stopped_nor_refreshed() -> None:
    idle = tuple(SlotView(f"i{i}", S.IDLE, 999.0, age_s=1e6, executions=99, sessions=1) for i in range(5))
    assert plan(PoolView(slots=idle), LIMITS) == []


def test_a_suspect_is_replaced_or_only_stopped_if_it_is_not_needed() -> None:
    suspect = SlotView("suspect", S.SUSPECT)
    assert plan(PoolView(slots=(*IDLE[:2], suspect)), LIMITS) == [Replace("suspect", "dead or not answering")]
    assert stops(plan(PoolView(slots=(*IDLE, suspect)), LIMITS)) == ["suspect"]


def test_a_full_pool_is_rid_of_a_suspect_before_another_is_started() -> None:
    full = tuple(SlotView(f"l{i}", S.LEASED) for i in range(9))
    suspect = SlotView("suspect", S.SUSPECT)
    assert plan(PoolView(slots=(*full, suspect), waiting=3), LIMITS) == [Stop("suspect", "dead or not answering")]
    assert plan(PoolView(slots=(*full, replace(suspect, stopping=True)), waiting=3), LIMITS) == []
    assert plan(PoolView(slots=full, waiting=3), LIMITS) == [Start()]


def test_a_slot_of_another_build_is_replaced_unless_it_is_leased() -> None:
    old = replace(IDLE[0], build_tag="old")
    view = PoolView(slots=(old, *IDLE[1:]), build_tag="new")
    assert plan(view, LIMITS) == [Replace(old.sandbox_id, "of build old, not new")]
    assert plan(replace(view, slots=(replace(old, state=S.LEASED), *IDLE[1:])), LIMITS) == []
    assert plan(replace(view, build_tag=None), LIMITS) == []


def test_a_start_that_takes_too_long_is_given_up() -> None:
    late = SlotView("late", S.STARTING, in_state_s=61.0)
    assert plan(PoolView(slots=(*IDLE[:2], late)), LIMITS) == [Replace("late", "not ready after 61 s")]
    assert plan(PoolView(slots=(*IDLE[:2], replace(late, in_state_s=59.0))), LIMITS) == []


def test_a_worn_sandbox_is_renewed_inside_its_slot() -> None:
    worn, old = replace(IDLE[0], executions=50), replace(IDLE[1], age_s=3600.0)
    commands = plan(PoolView(slots=(worn, old, IDLE[2])), LIMITS)
    assert commands == [Refresh(worn.sandbox_id, "served 50 runs"), Refresh(old.sandbox_id, "3600 s old")]


def test_serving_slots_are_checked_once_in_an_interval() -> None:
    slots = (*IDLE[:2], SlotView("leased", S.LEASED, unchecked_s=30.0))
    assert plan(PoolView(slots=slots), LIMITS) == [Check("leased")]


def test_a_suspect_of_the_queue_is_checked_at_once_and_once() -> None:
    doubted = replace(IDLE[0], suspected=True)
    assert plan(PoolView(slots=(doubted, *IDLE[1:])), LIMITS) == [Check(doubted.sandbox_id)]
    assert plan(PoolView(slots=(replace(doubted, examining=True), *IDLE[1:])), LIMITS) == []


def test_what_is_being_examined_is_neither_renewed_nor_checked_beside() -> None:
    worn = replace(IDLE[0], executions=50, unchecked_s=99.0, examining=True)
    assert plan(PoolView(slots=(worn, *IDLE[1:])), LIMITS) == []


@pytest.mark.parametrize(("health", "started"), [(1.0, 4), (0.6, 2), (0.5, 2), (0.1, 1), (0.0, 1)])
def test_the_worse_the_backend_does_the_fewer_start_at_a_time(health: float, started: int) -> None:
    assert starts(plan(PoolView(waiting=9, health=health), LIMITS)) == started


def test_nothing_is_started_while_backing_off_and_then_one_to_try_with() -> None:
    assert plan(PoolView(start_failures=2, start_wait_s=1.5), LIMITS) == []
    assert plan(PoolView(start_failures=2, start_wait_s=0.0), LIMITS) == [Start()]
    suspect = PoolView(slots=(SlotView("suspect", S.SUSPECT),), start_failures=1, start_wait_s=1.0)
    assert stops(plan(suspect, LIMITS)) == ["suspect"]


def test_a_retiring_slot_is_stopped_when_its_lease_has_ended() -> None:
    retiring = SlotView("retiring", S.RETIRING, busy=True)
    assert plan(PoolView(slots=(*IDLE, retiring)), LIMITS) == []
    assert stops(plan(PoolView(slots=(*IDLE, replace(retiring, busy=False))), LIMITS)) == ["retiring"]


@given(rate_per_s=floats(0.5, 50), run_s=floats(0.01, 5))
def test_a_steady_load_is_estimated_by_littles_law(rate_per_s: float, run_s: float) -> None:
    clock = FakeClock()
    demand = DemandEstimator(clock, half_life_s=10)
    for _ in range(int(rate_per_s * 100)):
        clock.advance(1 / rate_per_s)
        demand.arrived()
        demand.served(run_s)
    assert demand.service_s == pytest.approx(run_s)
    # Just after an arrival the estimate stands at most one run above the mean.
    assert rate_per_s * run_s * 0.98 <= demand.concurrency <= (rate_per_s + 1) * run_s


def test_demand_fades_when_nobody_comes() -> None:
    clock = FakeClock()
    demand = DemandEstimator(clock, half_life_s=10)
    demand.arrived(100)
    demand.served(100.0, runs=50)
    before = demand.concurrency
    clock.advance(10)
    assert demand.concurrency == pytest.approx(before / 2)
    clock.advance(10_000)
    assert demand.concurrency == pytest.approx(0)
    assert demand.service_s == pytest.approx(2.0)


@given(failures=integers(1, 100), seed=integers())
def test_waiting_after_failed_starts_grows_to_a_bound_and_ends_with_a_success(failures: int, seed: int) -> None:
    clock = FakeClock()
    backoff = StartBackoff(clock, random.Random(seed), base_s=1, max_s=60)
    assert backoff.wait_s == 0
    for _ in range(failures):
        backoff.failed()
    ceiling_s = min(60, 2.0 ** (failures - 1))
    assert ceiling_s / 2 <= backoff.wait_s <= ceiling_s
    clock.advance(60)
    assert backoff.wait_s == 0
    assert backoff.failures == failures
    backoff.failed()
    backoff.succeeded()
    assert (backoff.wait_s, backoff.failures) == (0, 0)


@pytest.mark.parametrize(("health", "times"), [(1.0, 1), (0.5, 2), (0.0, 10)])
def test_the_worse_the_backend_does_the_longer_the_wait_after_a_failure(health: float, times: int) -> None:
    well, badly = (StartBackoff(FakeClock(), random.Random(7), base_s=1, max_s=60) for _ in range(2))
    well.failed()
    badly.failed(health)
    assert badly.wait_s == pytest.approx(times * well.wait_s)


@dataclass
class Slot:
    state: SlotState = S.STARTING
    since: float = 0.0
    checked: float = 0.0
    born: float = 0.0
    executions: int = 0
    build_tag: str | None = None
    busy: bool = False
    stopping: bool = False


class Pool(RuleBasedStateMachine):
    """A supervisor that obeys, in a world where anything may happen between two plans."""

    @initialize(
        minimum=integers(0, 4),
        above=integers(0, 3),
        room=integers(0, 5),
        starting=integers(1, 5),
        leased=integers(0, 4),
    )
    def set_up(self, minimum: int, above: int, room: int, starting: int, leased: int) -> None:
        target = max(1, minimum + above)
        self.limits = PoolSettings(
            min_size=minimum, target_size=target, max_size=target + room, max_starting=starting, max_executions=3
        )
        self.clock = FakeClock()
        self.backoff = StartBackoff(self.clock, random.Random(0))
        self.slots: dict[str, Slot] = {}
        self.ids = (f"slot-{number}" for number in itertools.count())
        self.waiting = 0
        self.build_tag = "a"
        for _ in range(leased):
            self.obey()
            for sandbox_id in self.among(S.STARTING):
                self.slots[sandbox_id].build_tag = "a"
                self.go(sandbox_id, S.IDLE)
            for sandbox_id in self.among(S.IDLE)[:1]:
                self.go(sandbox_id, S.LEASED)

    def among(self, *states: SlotState) -> list[str]:
        return [sandbox_id for sandbox_id, slot in self.slots.items() if slot.state in states and not slot.stopping]

    def go(self, sandbox_id: str, to: SlotState) -> None:
        slot = self.slots[sandbox_id]
        slot.state, slot.since = move(slot.state, to), self.clock()
        if to is S.STOPPED:
            del self.slots[sandbox_id]

    def start(self) -> None:
        now = self.clock()
        self.slots[next(self.ids)] = Slot(since=now, checked=now, born=now)

    def view(self) -> PoolView:
        now = self.clock()
        return PoolView(
            slots=tuple(
                SlotView(
                    sandbox_id,
                    slot.state,
                    in_state_s=now - slot.since,
                    unchecked_s=now - slot.checked,
                    age_s=now - slot.born,
                    executions=slot.executions,
                    build_tag=slot.build_tag,
                    busy=slot.busy,
                    stopping=slot.stopping,
                )
                for sandbox_id, slot in self.slots.items()
            ),
            waiting=self.waiting,
            build_tag=self.build_tag,
            start_failures=self.backoff.failures,
            start_wait_s=self.backoff.wait_s,
        )

    @rule()
    def obey(self) -> None:
        view = self.view()
        commands = plan(view, self.limits)
        named = [command.sandbox_id for command in commands if not isinstance(command, Start)]
        assert len(named) == len(set(named))
        assert set(named) <= set(self.slots)
        if view.start_wait_s > 0:
            assert starts(commands) == 0
        for command in commands:
            match command:
                case Start():
                    self.start()
                case Stop(sandbox_id):
                    self.stop(sandbox_id)
                case Replace(sandbox_id):
                    self.stop(sandbox_id)
                    self.start()
                case Refresh(sandbox_id):
                    slot = self.slots[sandbox_id]
                    assert slot.state is S.IDLE
                    slot.executions, slot.build_tag = 0, self.build_tag
                    slot.born = slot.checked = self.clock()
                case Check(sandbox_id):
                    self.slots[sandbox_id].checked = self.clock()

    def stop(self, sandbox_id: str) -> None:
        slot = self.slots[sandbox_id]
        assert not slot.stopping
        assert slot.state is not S.LEASED
        assert not slot.busy
        if slot.state is S.STARTING:
            self.backoff.failed()
        slot.stopping = True

    def stopping(self) -> list[str]:
        return [sandbox_id for sandbox_id, slot in self.slots.items() if slot.stopping]

    @precondition(lambda self: self.stopping())
    @rule(data=data())
    def finish_a_stop(self, data: DataObject) -> None:
        self.go(data.draw(sampled_from(self.stopping())), S.STOPPED)

    @precondition(lambda self: self.among(S.LEASED))
    @rule(data=data())
    def a_lease_wins_against_a_stop(self, data: DataObject) -> None:
        sandbox_id = data.draw(sampled_from(self.among(S.LEASED)))
        self.go(sandbox_id, S.RETIRING)
        self.slots[sandbox_id].busy = True

    @precondition(lambda self: self.among(S.RETIRING))
    @rule(data=data())
    def the_last_lease_ends(self, data: DataObject) -> None:
        self.slots[data.draw(sampled_from(self.among(S.RETIRING)))].busy = False

    @precondition(lambda self: self.among(S.STARTING))
    @rule(data=data(), succeeds=sampled_from([True, True, False]))
    def finish_a_start(self, data: DataObject, succeeds: bool) -> None:
        sandbox_id = data.draw(sampled_from(self.among(S.STARTING)))
        if succeeds:
            self.backoff.succeeded()
            self.slots[sandbox_id].build_tag = self.build_tag
            self.go(sandbox_id, S.IDLE)
        else:
            self.stop(sandbox_id)

    @precondition(lambda self: self.among(S.IDLE))
    @rule(data=data())
    def lease(self, data: DataObject) -> None:
        self.go(data.draw(sampled_from(self.among(S.IDLE))), S.LEASED)
        self.waiting = max(0, self.waiting - 1)

    @precondition(lambda self: self.among(S.LEASED))
    @rule(data=data())
    def release(self, data: DataObject) -> None:
        sandbox_id = data.draw(sampled_from(self.among(S.LEASED)))
        self.slots[sandbox_id].executions += 1
        self.go(sandbox_id, S.IDLE)

    @precondition(lambda self: self.among(S.IDLE, S.LEASED))
    @rule(data=data())
    def die(self, data: DataObject) -> None:
        self.go(data.draw(sampled_from(self.among(S.IDLE, S.LEASED))), S.SUSPECT)

    @rule(runs=integers(0, 20))
    def arrive(self, runs: int) -> None:
        self.waiting = runs

    @rule(build_tag=sampled_from(["a", "b"]))
    def deploy(self, build_tag: str) -> None:
        self.build_tag = build_tag

    @rule(seconds=sampled_from([0.1, 10.0, 61.0, 121.0, 3600.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def settle(self) -> None:
        """When nothing more happens, starts succeed and leases end, the pool reaches its target and rests."""
        self.waiting = 0
        for sandbox_id in self.among(S.LEASED):
            self.go(sandbox_id, S.IDLE)
        for sandbox_id in self.among(S.RETIRING):
            self.slots[sandbox_id].busy = False
        for _ in range(2 * self.limits.max_size + 4):
            self.obey()
            for sandbox_id in self.stopping():
                self.go(sandbox_id, S.STOPPED)
            self.clock.advance(61)  # longer than any back-off
            for sandbox_id in self.among(S.STARTING):
                self.backoff.succeeded()
                self.slots[sandbox_id].build_tag = self.build_tag
                self.slots[sandbox_id].checked = self.clock()
                self.go(sandbox_id, S.IDLE)
        assert len(self.slots) == len(self.among(S.IDLE)) == self.limits.target_size
        assert {slot.build_tag for slot in self.slots.values()} == {self.build_tag}
        self.obey()
        assert plan(self.view(), self.limits) == []

    @invariant()
    def there_are_never_too_many(self) -> None:
        if hasattr(self, "limits"):
            assert len(self.slots) <= self.limits.max_size
            starting = [slot for slot in self.slots.values() if slot.state is S.STARTING]
            assert len(starting) <= self.limits.max_starting

    @rule()
    def shrinking_ends_at_the_target(self) -> None:
        view = self.view()
        healthy = {s.sandbox_id for s in view.slots if s.state.serving and s.build_tag == self.build_tag}
        stopped = healthy & {c.sandbox_id for c in plan(view, self.limits) if isinstance(c, Stop | Replace)}
        assert not stopped or len(healthy - stopped) >= max(self.limits.min_size, target_size(view, self.limits))


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
