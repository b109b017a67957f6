"""Admission, leases, sessions, restarts and what is said of them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.core.queue.fair_queue import Accepted, Refusal
from actors.schemas import Grant, GrantRelease, GrantRequest, Priority
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
    bench = Bench(concurrency=1)
    for _ in range(11):
        bench.enqueue("ann", cost_s=10.0)
    bench.grants()
    refused = bench.refusal("ann", deadline_s=20.0)
    assert refused.reason is Refusal.DEADLINE
    assert refused.retry_after_s == pytest.approx(90.0)
    # Another user does not wait for all of that backlog, only for the run that is going on.
    assert bench.refusal("bob", deadline_s=9.0).reason is Refusal.DEADLINE
    bench.enqueue("bob", deadline_s=11.0)


@given(st.floats(0.001, 1.0), st.lists(st.floats(0.1, 100.0), max_size=10))
def test_no_deadline_is_refused_while_a_sandbox_is_idle(deadline_s: float, ann: list[float]) -> None:
    bench = Bench(sandboxes=3)
    for cost_s in ann:
        bench.enqueue("ann", cost_s=cost_s)
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
    assert (expired.grant_id, expired.sandbox_id) == (decision.granted.grant_id, "s0")
    waiting = bench.enqueue("ann")
    assert not bench.release(decision.granted)
    assert bench.grants() == []
    bench.queue.offer("s0", 2)
    assert bench.granted() == [waiting]


def test_an_unhealthy_sandbox_is_not_used_until_it_is_offered_again() -> None:
    bench = Bench()
    bench.enqueue_each("ann", "ann")
    (decision,) = bench.grants()
    bench.release(decision.granted, healthy=False)
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
    bench.release(decision.granted, healthy=False)
    assert len(bench.grants()) == 1


def test_a_withdrawn_sandbox_is_given_to_nobody_also_after_its_release() -> None:
    bench = Bench(sandboxes=2)
    bench.enqueue("ann")
    (decision,) = bench.grants()
    leased = decision.granted.sandbox_id
    idle = "s0" if leased == "s1" else "s1"
    assert bench.queue.withdraw(leased).leased
    assert not bench.queue.withdraw(idle).leased
    assert not bench.queue.withdraw("unheard-of").known
    assert bench.release(decision.granted)
    bench.enqueue("ann")
    assert bench.grants() == []
    assert bench.queue.slots() == []


def test_a_release_counts_once_and_only_in_its_epoch() -> None:
    bench = Bench(epoch=7)
    bench.enqueue_each("ann", "ann")
    (decision,) = bench.grants()
    granted = decision.granted
    assert not bench.queue.release(GrantRelease(granted.grant_id, "fake", granted.epoch - 1, 0.1))
    assert not bench.queue.release(GrantRelease("6-1", "fake", 6, 0.1))
    assert bench.grants() == []
    assert bench.release(granted)
    (second,) = bench.grants()
    assert not bench.release(granted)
    assert bench.queue.demand().running == 1
    assert second.granted.grant_id != granted.grant_id


def test_a_grant_covers_a_batch_and_costs_as_much() -> None:
    bench = Bench(quantum_s=0.1, default_cost_s=0.1, switch_cost_s=0.0)
    bench.enqueue_each("ann", "ann", programs=5)
    bench.enqueue_each(*["bob"] * 12)
    (decision,) = bench.grants()
    served_before = 0
    while decision.granted.user == "bob":
        bench.release(decision.granted, 0.1)
        served_before += 1
        (decision,) = bench.grants()
    assert (decision.programs, served_before) == (5, 4)


def test_a_pinned_sandbox_serves_only_those_who_ask_for_it() -> None:
    bench = Bench()
    assert bench.queue.pin("s0", "ann")
    assert not bench.queue.pin("s0", "bob")
    bench.enqueue_each("ann", "bob")
    assert bench.grants() == []
    assert bench.refusal("bob", sandbox_id="s0").reason is Refusal.NOT_PINNED
    mine = [bench.enqueue("ann", sandbox_id="s0") for _ in range(3)]
    assert [bench.serve() for _ in mine] == mine
    assert bench.queue.unpin("s0") == ()
    assert len(bench.grants()) == 1


def test_a_sandbox_is_pinned_while_its_user_holds_it() -> None:
    bench = Bench()
    bench.enqueue("ann")
    (decision,) = bench.grants()
    assert not bench.queue.pin("s0", "bob")
    assert bench.queue.pin("s0", "ann")
    bench.release(decision.granted)
    bench.enqueue("bob")
    assert bench.grants() == []
    assert bench.queue.demand().pinned == 1


def test_those_who_wait_for_a_sandbox_that_goes_are_told() -> None:
    bench = Bench(sandboxes=2)
    bench.queue.pin("s0", "ann")
    bench.queue.pin("s1", "ann")
    waiters = [bench.enqueue("ann", sandbox_id="s0") for _ in range(2)]
    assert bench.queue.withdraw("s0").orphans == tuple(waiters)
    last = bench.enqueue("ann", sandbox_id="s1")
    assert bench.queue.unpin("s1") == (last,)
    assert bench.queue.demand().waiting == 0


def test_neither_sessions_nor_other_runs_keep_each_other_out() -> None:
    bench = Bench(sandboxes=3, concurrency=1, per_user_concurrency=1, max_wait_s=1e6)
    for user in ("ann", "bob"):
        bench.queue.pin({"ann": "s0", "bob": "s1"}[user], user)
    served: Counter[str] = Counter()
    for _ in range(2):
        bench.enqueue("ann", sandbox_id="s0")
        bench.enqueue("bob", sandbox_id="s1")
        bench.enqueue("cid")
    for _ in range(60):
        (decision,) = bench.grants()
        user = decision.granted.user
        served[user] += 1
        bench.release(decision.granted)
        bench.enqueue(user, sandbox_id={"ann": "s0", "bob": "s1"}.get(user))
    assert all(served[user] >= 15 for user in ("ann", "bob", "cid")), served


def test_a_restarted_queue_grants_nothing_until_holders_have_spoken() -> None:
    before = Bench(sandboxes=2, epoch=1)
    before.enqueue("ann"), before.enqueue("bob")
    held, lost = before.grants()
    after = Bench(sandboxes=2, epoch=2, recovering_s=60.0)
    waiters = [after.enqueue("cid") for _ in range(2)]
    assert after.grants() == []
    assert after.queue.next_event_s() == 60.0
    assert after.queue.reregister(held.granted)
    assert after.queue.reregister(held.granted)
    after.queue.recovered()
    (decision,) = after.grants()
    assert decision.waiter_id == waiters[0]
    assert decision.granted.sandbox_id != held.granted.sandbox_id
    assert decision.granted.epoch == 2
    assert not after.queue.reregister(lost.granted)
    assert not after.release(lost.granted)
    assert after.release(held.granted)
    assert after.granted() == [waiters[1]]


def test_a_recovery_ends_by_itself_and_then_no_holder_is_heard() -> None:
    bench = Bench(epoch=2, recovering_s=5.0)
    bench.clock.advance(5.0)
    assert not bench.queue.reregister(Grant("1-1", "s0", "fake", "bob", 1, 30.0, False))
    waiter = bench.enqueue("ann")
    assert bench.granted() == [waiter]


def test_of_two_who_claim_a_sandbox_after_a_restart_one_is_refused() -> None:
    bench = Bench(epoch=2, recovering_s=5.0)
    first, second = (Grant(f"1-{number}", "s0", "fake", "bob", 1, 30.0, False) for number in (1, 2))
    assert bench.queue.reregister(first)
    assert not bench.queue.reregister(second)
    assert not bench.release(second)


def test_a_lease_recovered_before_its_sandbox_is_offered_never_makes_it_idle_by_itself() -> None:
    before = Bench(epoch=1)
    before.enqueue("ann")
    (held,) = before.grants()
    after = Bench(sandboxes=0, epoch=2, recovering_s=5.0)
    assert after.queue.reregister(held.granted)
    after.queue.recovered()
    after.enqueue("ann")
    assert after.release(held.granted)
    assert after.grants() == []
    assert after.queue.slots() == []


def test_waiters_of_an_earlier_epoch_keep_their_places_after_a_restart() -> None:
    before = Bench(sandboxes=0, epoch=1)
    arrivals = []
    for number in range(3):
        answer = before.queue.enqueue(f"old{number}", GrantRequest("fake", "ann", Priority.NORMAL, 100.0, 60.0))
        assert isinstance(answer, Accepted)
        arrivals.append(answer.arrival)
    after = Bench(epoch=2)
    after.enqueue("ann", waiter_id="new")
    for number in (2, 0, 1):
        after.enqueue("ann", waiter_id=f"old{number}", arrival=arrivals[number])
    assert [after.serve() for _ in range(4)] == ["old0", "old1", "old2", "new"]


def test_demand_says_who_waits_and_for_how_long() -> None:
    bench = Bench(sandboxes=1)
    version = bench.queue.demand().version
    bench.enqueue_each("ann", "ann", "bob")
    bench.grants()
    bench.clock.advance(3.0)
    demand = bench.queue.demand()
    assert demand.version != version
    assert (demand.waiting, demand.running, demand.idle, demand.oldest_wait_s) == (2, 1, 0, 3.0)
    assert demand.waiting_by_user == {"ann": 1, "bob": 1}
    assert bench.queue.demand().version == demand.version


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
