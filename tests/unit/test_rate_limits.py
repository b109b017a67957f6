from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from hypothesis.strategies import DataObject, data, floats, integers, sampled_from

from actors.core.limits.health import Outcomes
from actors.core.limits.holds import Semaphore
from actors.core.limits.rate_limits import LimitKey, Plan, RateLimits
from tests.unit.clock import FakeClock

KEY = LimitKey("e2b", "operation", "192.0.2.1")
PLANS = [Plan(1, 1.0), Plan(5, 1.0), Plan(3, 10.0), Plan(40, 4.0), Plan(200, 8.0), Plan(7, 0.25)]
TTL_S = 1.0
TICK_S = 1 / 64  # a power of two: instants that should coincide do


def new_limits(plan: Plan, clock: FakeClock, *, incarnation: str = "a", restarted: bool = False) -> RateLimits:
    return RateLimits(
        {(KEY.backend, KEY.operation): plan}, clock, incarnation=incarnation, lease_ttl_s=TTL_S, restarted=restarted
    )


@dataclass
class HeldGrant:
    lease_id: str
    left: int
    expires_at: float
    returned: bool = False


class Account:
    """A service that remembers every token spent, and holders that spend what they were leased whenever they like."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.clock = plan, FakeClock(1000.0)
        self.limits = new_limits(plan, self.clock)
        self.held: list[HeldGrant] = []
        self.spent: list[tuple[float, int]] = []
        self.incarnations = 1

    def lease(self, wanted: int) -> int:
        lease = self.limits.lease("holder", KEY, wanted)
        assert 0 <= lease.granted <= wanted
        assert (lease.retry_after_s > 0) == (lease.granted < wanted)
        if lease.granted:
            self.held.append(HeldGrant(lease.lease_id, lease.granted, self.clock() + lease.ttl_s))
        return lease.granted

    def usable(self) -> list[HeldGrant]:
        self.held = [held for held in self.held if held.expires_at > self.clock() and not held.returned]
        return [held for held in self.held if held.left]

    def spend(self, held: HeldGrant, count: int) -> None:
        held.left -= count
        self.spent.append((self.clock(), count))

    def give_back(self, held: HeldGrant) -> None:
        held.returned = True
        self.limits.give_back(held.lease_id, held.left)

    def restart(self) -> None:
        self.incarnations += 1
        self.limits = new_limits(self.plan, self.clock, incarnation=str(self.incarnations), restarted=True)

    def in_window(self) -> int:
        since = self.clock() - self.plan.window_s
        self.spent = [(at, count) for at, count in self.spent if at > since]
        return sum(count for _, count in self.spent)

    def check(self) -> None:
        assert self.in_window() + sum(held.left for held in self.usable()) <= self.plan.limit


class AnyUse(RuleBasedStateMachine):
    """Whatever holders do, however late they spend, whatever is reported and whenever the limiter restarts."""

    plan: Plan

    def __init__(self) -> None:
        super().__init__()
        self.account = Account(self.plan)

    @rule(wanted=integers(1, 300))
    def lease(self, wanted: int) -> None:
        self.account.lease(wanted)

    @rule(ticks=integers(1, 600))
    def wait(self, ticks: int) -> None:
        self.account.clock.advance(ticks * TICK_S)

    @rule(wanted=integers(1, 300))
    def wait_as_told(self, wanted: int) -> None:
        if self.account.lease(wanted) == 0:
            self.account.clock.advance(self.account.limits.lease("holder", KEY, wanted).retry_after_s)
            assert self.account.lease(1) == 1

    @rule()
    def spend_at_the_last_instant(self) -> None:
        if usable := self.account.usable():
            self.account.clock.advance(max(0.0, usable[0].expires_at - self.account.clock() - TICK_S))
            for held in self.account.usable():
                self.account.spend(held, held.left)

    @precondition(lambda self: self.account.usable())
    @rule(choice=data())
    def spend(self, choice: DataObject) -> None:
        held = choice.draw(sampled_from(self.account.usable()))
        self.account.spend(held, choice.draw(integers(1, held.left)))

    @precondition(lambda self: self.account.usable())
    @rule(choice=data())
    def give_back(self, choice: DataObject) -> None:
        self.account.give_back(choice.draw(sampled_from(self.account.usable())))

    @rule(succeeded=integers(0, 20), failed=integers(0, 20), throttled=integers(0, 2))
    def report(self, succeeded: int, failed: int, throttled: int) -> None:
        self.account.limits.report(KEY, Outcomes(succeeded, failed, throttled))

    @rule()
    def restart(self) -> None:
        self.account.restart()

    @invariant()
    def no_window_exceeds_the_plan(self) -> None:
        self.account.check()
        rate_per_s = self.account.limits.snapshot()["limits"].get(str(KEY), {}).get("rate_per_s", 0)
        assert rate_per_s <= self.plan.limit / self.plan.window_s


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_no_window_exceeds_the_plan_whatever_holders_do(plan: Plan) -> None:
    machine: type[AnyUse] = type("AnyUseOfPlan", (AnyUse,), {"plan": plan})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)
    )


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("ticks_before_crash", [0, 1, 64, 200])
def test_a_greedy_holder_who_spends_late_never_exceeds_the_plan_across_restarts(
    plan: Plan, ticks_before_crash: int
) -> None:
    account = Account(plan)
    spent = 0
    for tick in range(int(6 * (plan.window_s + TTL_S) / TICK_S)):
        account.lease(plan.limit)
        for held in account.usable():
            if held.expires_at - account.clock() <= TICK_S:
                spent += held.left
                account.spend(held, held.left)
        if tick == 3 * 64 + ticks_before_crash:
            account.restart()
        account.check()
        account.clock.advance(TICK_S)
    assert spent > plan.limit


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_holder_who_gives_back_what_it_has_spent_gets_nearly_the_whole_plan(plan: Plan) -> None:
    account = Account(plan)
    windows = 20
    spent = 0
    while account.clock() < 1000 + windows * plan.window_s:
        account.lease(plan.limit)
        for held in account.usable():
            spent += held.left
            account.spend(held, held.left)
            account.give_back(held)
        account.check()
        account.clock.advance(TICK_S)
    # An instant of this simulation is a good part of the shortest window.
    assert spent >= 0.9 * plan.limit * windows


def test_a_lease_that_is_kept_is_charged_for_its_time_and_the_window() -> None:
    account = Account(Plan(1, 1.0))
    assert account.lease(1) == 1
    account.clock.advance(TTL_S + 1.0 - TICK_S)
    assert account.lease(1) == 0
    account.clock.advance(TICK_S)
    assert account.lease(1) == 1


def test_what_is_unused_frees_the_window_at_once() -> None:
    account = Account(Plan(5, 100.0))
    assert account.lease(5) == 5
    account.limits.give_back(account.held[0].lease_id, 5)
    account.clock.advance(20)
    assert account.lease(1) == 1


def test_giving_back_twice_or_late_changes_nothing() -> None:
    account = Account(Plan(4, 100.0))
    account.lease(4)
    lease_id = account.held[0].lease_id
    account.clock.advance(TTL_S)
    account.limits.give_back(lease_id, 4)
    account.limits.give_back("unknown", 9)
    account.clock.advance(50)
    assert account.lease(1) == 0


def test_a_lease_from_before_a_restart_ends_none_of_those_after_it() -> None:
    account = Account(Plan(4, 100.0))
    account.lease(1)
    account.restart()
    account.clock.advance(250)
    account.lease(1)
    before, after = account.held
    account.limits.give_back(before.lease_id, 1)
    assert account.limits.snapshot()["outstanding"] == {str(KEY): 1}
    account.limits.give_back(after.lease_id, 1)
    assert account.limits.snapshot()["outstanding"] == {str(KEY): 0}


def test_no_more_than_was_granted_can_be_given_back() -> None:
    account = Account(Plan(4, 100.0))
    account.lease(4)
    for unused in (-1, 5):
        with pytest.raises(ValueError, match="not a part"):
            account.limits.give_back(account.held[0].lease_id, unused)


def test_a_key_without_a_plan_is_unlimited() -> None:
    limits = new_limits(Plan(1, 1.0), FakeClock(), restarted=True)
    local = LimitKey("jail", "operation")
    lease = limits.lease("holder", local, 10_000)
    assert (lease.granted, lease.retry_after_s) == (10_000, 0)
    limits.give_back(lease.lease_id, 3)
    limits.report(local, Outcomes(1, 0, 9))
    assert limits.snapshot()["limits"] == {}


def test_every_egress_address_has_its_own_limit() -> None:
    limits = new_limits(Plan(1, 1.0), FakeClock())
    other = LimitKey(KEY.backend, KEY.operation, "192.0.2.2")
    assert limits.lease("holder", KEY, 1).granted == 1
    assert limits.lease("holder", KEY, 1).granted == 0
    assert limits.lease("holder", other, 1).granted == 1


@given(rate=floats(0.01, 1000))
def test_a_plan_per_second_has_that_rate_in_whole_tokens(rate: float) -> None:
    plan = Plan.per_second(rate)
    assert plan.limit / plan.window_s == pytest.approx(rate)
    assert plan.window_s < 2 or plan.limit == 1


def test_a_restarted_limiter_says_when_it_will_issue_again() -> None:
    clock = FakeClock()
    limits = new_limits(Plan(40_000, 60.0), clock, restarted=True)
    retry_after_s = limits.lease("holder", KEY, 1).retry_after_s
    assert TTL_S < retry_after_s < TTL_S + 60 / 10 + 0.01
    clock.advance(retry_after_s)
    assert limits.lease("holder", KEY, 1).granted == 1


def test_a_key_first_used_long_after_a_restart_does_not_wait() -> None:
    clock = FakeClock()
    limits = new_limits(Plan(1, 1.0), clock, restarted=True)
    clock.advance(60)
    assert limits.lease("holder", KEY, 1).granted == 1


def test_throttling_empties_the_burst_and_halves_the_rate_which_comes_back() -> None:
    clock = FakeClock()
    limits = new_limits(Plan(600, 60.0), clock)

    def rate_per_s() -> float:
        value = limits.snapshot()["limits"][str(KEY)]["rate_per_s"]
        assert isinstance(value, float)
        return value

    limits.report(KEY, Outcomes(0, 0, 3))
    assert rate_per_s() == 5
    assert limits.lease("holder", KEY, 1).granted == 0
    rates = [rate_per_s()]
    for _ in range(30):
        clock.advance(1)
        rates.append(rate_per_s())
    assert rates == sorted(rates)
    assert rates[10] < 10 == rates[-1]


def test_failures_of_any_operation_lower_the_backends_health_and_with_it_every_rate() -> None:
    limits = new_limits(Plan(600, 60.0), FakeClock())
    limits.lease("holder", KEY, 1)
    health = limits.report(LimitKey(KEY.backend, "creation"), Outcomes(failed=1000))
    assert health == pytest.approx(0, abs=1e-9)
    snapshot = limits.snapshot()
    assert snapshot["health_score"] == pytest.approx(0, abs=1e-9)
    assert snapshot["limits"][str(KEY)]["rate_per_s"] == pytest.approx(1)


def test_a_backend_without_a_plan_has_a_health_too_and_each_its_own() -> None:
    limits = new_limits(Plan(600, 60.0), FakeClock())
    assert limits.report(LimitKey("jail", "operations"), Outcomes(failed=1)) == pytest.approx(0.9)
    limits.report(KEY, Outcomes(succeeded=1))
    assert limits.snapshot()["health"] == {"jail": pytest.approx(0.9), KEY.backend: 1.0}
    assert limits.snapshot()["health_score"] == pytest.approx(0.9)


def test_the_snapshot_counts_what_is_leased_and_what_is_left() -> None:
    clock = FakeClock()
    limits = new_limits(Plan(100, 10.0), clock)
    limits.lease("holder", KEY, 4)
    limits.report(KEY, Outcomes(1, 0, 2))
    clock.advance(1 - TICK_S)
    snapshot = limits.snapshot()
    assert snapshot["outstanding"] == {str(KEY): 4}
    assert snapshot["throttled"] == 2
    assert snapshot["available_tokens"] == {str(KEY): math.floor(5 * (1 - TICK_S))}
    clock.advance(TICK_S)
    assert limits.snapshot()["outstanding"] == {str(KEY): 0}


def test_permits_are_counted_by_backend_and_operation() -> None:
    sandboxes = LimitKey("e2b", "sandbox")
    limits = RateLimits(
        {}, FakeClock(), incarnation="a", semaphores={("e2b", "sandbox"): Semaphore(20)}, restarted=False
    )
    assert limits.reserve("supervisor", sandboxes, 20).admitted
    assert not limits.reserve("supervisor", sandboxes).admitted
    assert limits.reserve("supervisor", LimitKey("jail", "sandbox"), 50).admitted
    limits.release("supervisor", sandboxes, 2)
    assert limits.snapshot()["semaphores"] == {"e2b/sandbox": {"permits": 20, "held": 18}}
    limits.renew("supervisor", {sandboxes: 3})
    assert limits.snapshot()["semaphores"] == {"e2b/sandbox": {"permits": 20, "held": 3}}
