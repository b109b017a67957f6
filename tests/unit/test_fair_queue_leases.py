"""Admission, leases, sessions, restarts and what is said of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.core.queue.reports import Refusal, SlotReport
from actors.core.queue.slots import SlotUse, Withdrawal
from actors.schemas import Grant, GrantRelease, Priority
from tests.unit.queue_bench import Bench


def test_a_full_queue_and_a_full_user_are_refused_with_a_time_to_retry() -> None:
    bench = Bench(sandboxes=0, max_depth=3, max_depth_per_user=2)
    bench.enqueue_each("ann", "ann")
    full = bench.refusal("ann")
    assert (full.reason, full.retry_after_s > 0) == (Refusal.USER_QUEUE_FULL, True)
    bench.enqueue("bob")
    full = bench.refusal("bob")
    assert (full.reason, full.retry_after_s > 0) == (Refusal.QUEUE_FULL, True)


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    bench = Bench(concurrency=1, default_cost_s=10.0)
    for _ in range(11):
        bench.enqueue("ann")
    bench.grants()
    refused = bench.refusal("ann", deadline_s=20.0)
    assert refused.reason is Refusal.DEADLINE
    assert refused.retry_after_s == pytest.approx(90.0)
    # Another user does not wait for all of that backlog, only for the run that is going on.
    assert bench.refusal("bob", deadline_s=9.0).reason is Refusal.DEADLINE
    bench.enqueue("bob", deadline_s=11.0)


def test_a_deadline_that_the_users_own_cap_will_not_let_it_meet_is_refused_though_others_could() -> None:
    bench = Bench(sandboxes=4, concurrency=4, per_user_concurrency=1, default_cost_s=10.0)
    bench.enqueue_each(*["ann"] * 6)
    bench.grants()
    refused = bench.refusal("ann", deadline_s=30.0)
    assert (refused.reason, refused.retry_after_s) == (Refusal.DEADLINE, pytest.approx(30.0))
    bench.enqueue("ann", deadline_s=61.0)
    bench.enqueue("bob", deadline_s=0.1)


@given(st.floats(0.001, 1.0), st.lists(st.integers(1, 1000), max_size=10))
def test_no_deadline_is_refused_while_a_sandbox_is_idle(deadline_s: float, ann: list[int]) -> None:
    bench = Bench(sandboxes=3, default_cost_s=0.1)
    for programs in ann:
        bench.enqueue("ann", programs=programs)
    bench.grants()
    bench.enqueue("bob", deadline_s=deadline_s)


def test_who_waits_past_the_deadline_is_dropped() -> None:
    bench = Bench(sandboxes=0, max_wait_s=100.0)
    soon, later = bench.enqueue("ann", deadline_s=5.0), bench.enqueue("ann", deadline_s=1000.0)
    assert bench.queue.next_event_s() == 5.0
    bench.clock.advance(5.0)
    assert bench.queue.overdue() == [soon]
    assert bench.queue.next_event_s() == 95.0
    bench.clock.advance(95.0)
    assert bench.queue.overdue() == [later]
    assert bench.queue.next_event_s() is None
    assert bench.queue.snapshot()["rejected"] == 2


def test_a_short_deadline_ends_a_wait_behind_longer_ones() -> None:
    bench = Bench(sandboxes=1, max_wait_s=100.0)
    bench.enqueue("ann")
    bench.grants()
    before = bench.enqueue_each("bob", "ann", deadline_s=50.0)
    short = bench.enqueue("ann", deadline_s=2.0, priority=Priority.LOW)
    after = bench.enqueue("ann", deadline_s=50.0)
    assert bench.queue.next_event_s() == 2.0
    bench.clock.advance(1.9)
    assert bench.queue.overdue() == []
    bench.clock.advance(0.1)
    assert bench.queue.overdue() == [short]
    assert bench.queue.next_event_s() == 48.0
    bench.clock.advance(48.0)
    assert bench.queue.overdue() == [*before, after]


def test_a_cancelled_waiter_is_not_granted() -> None:
    bench = Bench()
    first, second = bench.enqueue_each("ann", "ann")
    assert bench.queue.cancel(first)
    assert not bench.queue.cancel(first)
    assert bench.granted() == [second]


def test_the_same_waiter_cannot_wait_twice() -> None:
    bench = Bench(sandboxes=0)
    bench.enqueue("ann", waiter_id="w")
    with pytest.raises(ValueError, match="waits already"):
        bench.enqueue("ann", waiter_id="w")


def test_an_expired_lease_leaves_its_sandbox_suspect_until_it_is_offered_again() -> None:
    bench = Bench()
    bench.enqueue("ann", ttl_s=10.0)
    (decision,) = bench.grants()
    assert bench.queue.next_event_s() == 10.0
    bench.clock.advance(10.0)
    (expired,) = bench.queue.expire()
    assert (expired.grant_id, expired.sandbox_id) == (decision.grant.grant_id, "s0")
    waiting = bench.enqueue("ann")
    assert not bench.release(decision.grant)
    assert bench.grants() == []
    bench.queue.offer("s0", 2)
    assert bench.granted() == [waiting]


def test_an_unhealthy_sandbox_is_not_used_until_it_is_offered_again() -> None:
    bench = Bench()
    bench.enqueue_each("ann", "ann")
    (decision,) = bench.grants()
    bench.release(decision.grant, healthy=False)
    assert bench.grants() == []
    assert bench.queue.snapshot()["suspect"] == 1
    bench.queue.offer("s0", 1)
    assert len(bench.grants()) == 1


def test_what_was_wrong_with_an_older_generation_does_not_matter() -> None:
    bench = Bench()
    bench.enqueue_each("ann", "ann")
    (decision,) = bench.grants()
    bench.queue.offer("s0", 2)
    assert bench.grants() == []
    bench.release(decision.grant, healthy=False)
    assert len(bench.grants()) == 1


def test_a_withdrawn_sandbox_is_given_to_nobody_also_after_its_release() -> None:
    bench = Bench(sandboxes=2)
    bench.enqueue("ann")
    (decision,) = bench.grants()
    leased = decision.grant.sandbox_id
    idle = "s0" if leased == "s1" else "s1"
    assert bench.queue.withdraw(leased) == Withdrawal(leased=True, pinned=False)
    assert bench.queue.withdraw(idle) == Withdrawal(leased=False, pinned=False)
    assert bench.queue.withdraw("unheard-of") == Withdrawal(leased=False, pinned=False)
    assert bench.release(decision.grant)
    bench.enqueue("ann")
    assert bench.grants() == []
    assert bench.queue.slots() == []


def test_a_release_counts_once_and_only_in_its_epoch() -> None:
    bench = Bench(epoch=7)
    bench.enqueue_each("ann", "ann")
    (decision,) = bench.grants()
    granted = decision.grant
    assert not bench.queue.release(GrantRelease(granted.grant_id, "fake", granted.epoch - 1, 0.1))
    assert not bench.queue.release(GrantRelease("6-1", "fake", 6, 0.1))
    assert bench.grants() == []
    assert bench.release(granted)
    (second,) = bench.grants()
    assert not bench.release(granted)
    assert bench.queue.demand().running == 1
    assert second.grant.grant_id != granted.grant_id


def test_a_grant_covers_a_batch_and_costs_as_much() -> None:
    bench = Bench(quantum_s=0.1, default_cost_s=0.1, switch_cost_s=0.0)
    bench.enqueue_each("ann", "ann", programs=5)
    bench.enqueue_each(*["bob"] * 12)
    (decision,) = bench.grants()
    served_before = 0
    while decision.grant.user == "bob":
        bench.release(decision.grant, 0.1)
        served_before += 1
        (decision,) = bench.grants()
    assert served_before == 4


def test_a_pinned_sandbox_is_handed_to_nobody() -> None:
    bench = Bench()
    assert bench.queue.pin("s0", "ann")
    assert bench.queue.pin("s0", "ann")
    assert not bench.queue.pin("s0", "bob")
    bench.enqueue_each("ann", "bob")
    assert bench.grants() == []
    assert bench.queue.demand().pinned == 1
    bench.queue.unpin("s0")
    bench.queue.unpin("s0")
    assert bench.queue.demand().pinned == 0
    assert len(bench.grants()) == 1


def test_a_sandbox_can_be_pinned_by_whoever_holds_it_and_stays_so_after_the_release() -> None:
    bench = Bench()
    bench.enqueue("ann")
    (decision,) = bench.grants()
    assert not bench.queue.pin("s0", "bob")
    assert bench.queue.pin("s0", "ann")
    bench.release(decision.grant)
    bench.enqueue_each("ann", "bob")
    assert bench.grants() == []


def test_a_sandbox_that_was_renewed_while_leased_can_be_pinned_by_its_holder_alone() -> None:
    bench = Bench()
    bench.enqueue("ann")
    bench.grants()
    bench.queue.offer("s0", 2)
    assert not bench.queue.pin("s0", "bob")
    assert bench.queue.pin("s0", "ann")


def test_a_sandbox_that_is_unknown_withdrawn_or_in_doubt_cannot_be_pinned() -> None:
    bench = Bench(sandboxes=2)
    bench.enqueue_each("ann", "bob")
    held = {decision.grant.user: decision.grant for decision in bench.grants()}
    bench.queue.withdraw(held["ann"].sandbox_id)
    bench.release(held["bob"], healthy=False)
    assert not bench.queue.pin("unheard-of", "ann")
    assert not bench.queue.pin(held["ann"].sandbox_id, "ann")
    assert not bench.queue.pin(held["bob"].sandbox_id, "bob")


def test_withdrawing_says_whether_sessions_are_lost_with_it() -> None:
    bench = Bench(sandboxes=2)
    bench.queue.pin("s0", "ann")
    assert bench.queue.withdraw("s0") == Withdrawal(leased=False, pinned=True)
    bench.enqueue("ann")
    bench.grants()
    bench.queue.pin("s1", "ann")
    assert bench.queue.withdraw("s1") == Withdrawal(leased=True, pinned=True)
    assert bench.queue.demand().pinned == 0
    assert bench.queue.slots() == [SlotReport("s1", SlotUse.LEASED, None)]


def test_what_a_lost_holder_had_is_in_doubt_until_it_is_offered_again() -> None:
    bench = Bench(sandboxes=2)
    bench.queue.pin("s0", "ann")
    bench.enqueue("ann")
    (held,) = bench.grants()
    waiting = bench.enqueue("ann")
    assert bench.queue.abandon() == [waiting]
    assert bench.queue.slots() == [SlotReport(name, SlotUse.SUSPECT, None) for name in ("s0", "s1")]
    assert not bench.release(held.grant)
    later = bench.enqueue("bob")
    assert bench.grants() == []
    bench.queue.offer("s0", 1)
    assert bench.granted() == [later]


def test_a_pin_is_recovered_before_its_sandbox_is_offered() -> None:
    bench = Bench(sandboxes=0, epoch=2)
    assert bench.queue.adopt_pin("s0", "ann")
    assert bench.queue.adopt_pin("s0", "ann")
    assert not bench.queue.adopt_pin("s0", "bob")
    bench.queue.offer("s0", 4)
    bench.enqueue_each("ann", "bob")
    assert bench.grants() == []
    assert bench.queue.slots() == [SlotReport("s0", SlotUse.IDLE, "ann")]
    bench.queue.unpin("s0")
    assert len(bench.grants()) == 1


def test_a_recovered_pin_that_ends_before_its_sandbox_is_offered_leaves_nothing() -> None:
    bench = Bench(sandboxes=0, epoch=2)
    bench.queue.adopt_pin("s0", "ann")
    bench.queue.unpin("s0")
    assert bench.queue.slots() == []
    bench.queue.adopt_pin("s0", "ann")
    bench.queue.abandon()
    assert bench.queue.slots() == []


def test_a_recovered_pin_and_a_recovered_lease_are_the_same_users_or_the_later_is_refused() -> None:
    bench = Bench(sandboxes=0, epoch=2, recovering_s=5.0)
    ann, bob = (Grant(f"1-{user}", "s0", "fake", user, 1, 30.0) for user in ("ann", "bob"))
    assert bench.queue.adopt_pin("s0", "ann")
    assert not bench.queue.reregister(bob)
    assert bench.queue.reregister(ann)
    assert bench.release(ann)
    assert bench.queue.slots() == [SlotReport("s0", SlotUse.IDLE, "ann")], "kept, though it was never offered"
    bench.queue.unpin("s0")
    assert bench.queue.reregister(bob)
    assert not bench.queue.adopt_pin("s0", "ann")


def test_an_idle_sandbox_is_no_waiters_any_more_once_its_pin_is_recovered() -> None:
    bench = Bench(epoch=2)
    bench.enqueue("bob")
    assert bench.queue.adopt_pin("s0", "ann")
    assert bench.grants() == []


def test_a_restarted_queue_grants_nothing_until_holders_have_spoken() -> None:
    before = Bench(sandboxes=2, epoch=1)
    before.enqueue("ann"), before.enqueue("bob")
    held, lost = before.grants()
    after = Bench(sandboxes=2, epoch=2, recovering_s=60.0)
    waiters = [after.enqueue("cid") for _ in range(2)]
    assert after.grants() == []
    assert after.queue.next_event_s() == 60.0
    assert after.queue.reregister(held.grant)
    assert after.queue.reregister(held.grant)
    after.queue.recovered()
    (decision,) = after.grants()
    assert decision.waiter_id == waiters[0]
    assert decision.grant.sandbox_id != held.grant.sandbox_id
    assert decision.grant.epoch == 2
    assert not after.queue.reregister(lost.grant)
    assert not after.release(lost.grant)
    assert after.release(held.grant)
    assert after.granted() == [waiters[1]]


def test_a_recovery_ends_by_itself_and_then_no_holder_is_heard() -> None:
    bench = Bench(epoch=2, recovering_s=5.0)
    bench.clock.advance(5.0)
    assert not bench.queue.reregister(Grant("1-1", "s0", "fake", "bob", 1, 30.0))
    waiter = bench.enqueue("ann")
    assert bench.granted() == [waiter]


def test_of_two_who_claim_a_sandbox_after_a_restart_one_is_refused() -> None:
    bench = Bench(epoch=2, recovering_s=5.0)
    first, second = (Grant(f"1-{number}", "s0", "fake", "bob", 1, 30.0) for number in (1, 2))
    assert bench.queue.reregister(first)
    assert not bench.queue.reregister(second)
    assert not bench.release(second)


def test_a_lease_recovered_before_its_sandbox_is_offered_never_makes_it_idle_by_itself() -> None:
    before = Bench(epoch=1)
    before.enqueue("ann")
    (held,) = before.grants()
    after = Bench(sandboxes=0, epoch=2, recovering_s=5.0)
    assert after.queue.reregister(held.grant)
    after.queue.recovered()
    after.enqueue("ann")
    assert after.release(held.grant)
    assert after.grants() == []
    assert after.queue.slots() == []


def test_an_unhealthy_sandbox_whose_lease_was_recovered_is_not_used_until_it_is_offered_again() -> None:
    bench = Bench(sandboxes=0, epoch=2, recovering_s=5.0)
    held = Grant("1-1", "s0", "fake", "ann", 1, 30.0)
    assert bench.queue.reregister(held)
    bench.queue.offer("s0", 3)
    bench.queue.recovered()
    assert bench.release(held, healthy=False)
    bench.enqueue("ann")
    assert bench.grants() == []
    bench.queue.offer("s0", 4)
    assert len(bench.grants()) == 1


def test_a_lease_that_is_recovered_twice_lasts_as_long_as_was_said_last() -> None:
    bench = Bench(sandboxes=0, epoch=2, recovering_s=50.0)
    for ttl_s in (5.0, 30.0):
        held = Grant("1-1", "s0", "fake", "ann", 1, ttl_s)
        assert bench.queue.reregister(held)
        if ttl_s == 5.0:
            assert bench.release(held)
    bench.clock.advance(5.0)
    assert bench.queue.expire() == []
    bench.clock.advance(25.0)
    assert [expired.grant_id for expired in bench.queue.expire()] == ["1-1"]


def test_demand_says_who_waits_and_runs() -> None:
    bench = Bench(sandboxes=1)
    bench.enqueue_each("ann", "ann", "bob")
    bench.grants()
    demand = bench.queue.demand()
    assert (demand.waiting, demand.running, demand.idle, demand.enqueued) == (2, 1, 0, 3)


def test_demand_counts_as_startable_whom_only_sandboxes_are_missing_for() -> None:
    bench = Bench(sandboxes=1, concurrency=4, per_user_concurrency=2)
    bench.enqueue_each("ann", "ann", "ann", "ann", "bob")
    assert bench.queue.demand().startable == 3, "two of ann's, who may have no more while bob waits, and bob's"
    bench.grants()
    assert bench.queue.demand().startable == 2


def test_no_more_are_startable_than_may_run_at_a_time() -> None:
    bench = Bench(sandboxes=3, concurrency=4, lone=True)
    bench.enqueue_each(*["ann"] * 9)
    bench.grants()
    demand = bench.queue.demand()
    assert (demand.running, demand.waiting, demand.startable) == (3, 6, 1)
    bench.queue.offer("one more", 1)
    bench.grants()
    assert bench.queue.demand().startable == 0, "another sandbox would stand idle"
