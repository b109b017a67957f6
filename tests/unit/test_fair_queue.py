"""Who goes first, and with which sandbox."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.schemas import Grant, Priority
from tests.unit.queue_bench import Bench


def test_an_idle_sandbox_goes_to_the_one_who_waits() -> None:
    bench = Bench()
    waiter_id = bench.enqueue("ann")
    (decision,) = bench.grants()
    assert (decision.waiter_id, decision.grant.sandbox_id) == (waiter_id, "s0")
    assert (decision.grant.ttl_s, decision.grant.user) == (60.0, "ann")
    assert bench.grants() == []


def test_runs_of_a_user_and_band_are_first_come_first_served() -> None:
    bench = Bench()
    waiters = [bench.enqueue("ann") for _ in range(20)]
    assert [bench.serve() for _ in waiters] == waiters


def test_a_newcomer_does_not_barge_in_front_of_those_who_wait() -> None:
    bench = Bench(sandboxes=1)
    bench.enqueue("ann")
    (running,) = bench.grants()
    waiting = bench.enqueue("ann")
    bench.release(running.grant)
    bench.enqueue("ann")
    assert bench.granted() == [waiting]


def test_no_more_leases_than_the_global_concurrency() -> None:
    bench = Bench(sandboxes=5, concurrency=3, per_user_concurrency=5)
    for _ in range(5):
        bench.enqueue("ann")
    assert len(bench.grants()) == 3


def test_a_cluster_that_grows_or_shrinks_changes_how_many_run() -> None:
    bench = Bench(sandboxes=9, concurrency=2, lone=True)
    bench.enqueue_each(*["ann"] * 8)
    first = bench.grants()
    bench.queue.resize(4)
    more = bench.grants()
    assert (len(first), len(more), bench.queue.demand().startable) == (2, 2, 0)
    bench.queue.resize(1)
    for decision in first + more[:1]:
        bench.release(decision.grant)
        assert bench.grants() == [], "those that are too many end before another starts"
    bench.release(more[1].grant)
    assert len(bench.grants()) == 1


def test_somebody_may_always_run() -> None:
    bench = Bench(concurrency=2)
    with pytest.raises(ValueError, match="at least 1"):
        bench.queue.resize(0)
    bench.enqueue("ann")
    assert len(bench.grants()) == 1


def test_a_capped_user_blocks_nobody_behind_it() -> None:
    bench = Bench(sandboxes=4, per_user_concurrency=2)
    for _ in range(5):
        bench.enqueue("ann")
    bench.enqueue("bob")
    assert Counter(decision.grant.user for decision in bench.grants()) == {"ann": 2, "bob": 1}


def test_a_lone_user_uses_what_is_idle_and_gives_it_back_when_another_waits() -> None:
    bench = Bench(sandboxes=4, concurrency=4, lone=True, per_user_concurrency=1)
    for _ in range(8):
        bench.enqueue("ann")
    first = bench.grants()
    assert len(first) == 4
    assert bench.queue.contenders() == frozenset()
    bob = bench.enqueue("bob")
    assert bench.queue.contenders() == {"bob"}
    bench.release(first[0].grant)
    assert bench.granted() == [bob]
    # Alone again: nobody else waits.
    bench.release(first[1].grant)
    assert len(bench.grants()) == 1


def test_a_second_user_who_waits_ends_the_privilege_at_once_even_if_capped_itself() -> None:
    bench = Bench(sandboxes=3, concurrency=9, lone=True, per_user_concurrency=1)
    bench.enqueue("bob")
    bench.enqueue_each(*["ann"] * 4)
    assert len(bench.grants()) == 3
    bob = bench.enqueue("bob")
    bench.queue.offer("more", 1)
    assert bench.grants() == []
    bench.queue.cancel(bob)
    assert [decision.grant.user for decision in bench.grants()] == ["ann"]


def test_without_the_privilege_a_lone_user_keeps_to_its_cap() -> None:
    bench = Bench(sandboxes=4, per_user_concurrency=1)
    bench.enqueue("ann")
    bench.enqueue("ann")
    assert len(bench.grants()) == 1


def test_those_who_wait_and_are_below_their_cap_contend_for_what_others_retain() -> None:
    bench = Bench(sandboxes=2)
    bench.enqueue("ann")
    bench.grants()
    assert bench.queue.contenders() == frozenset()
    bench.enqueue_each("bob", "bob", "bob", "cid")
    assert len(bench.grants()) == 1
    assert bench.queue.contenders() == {"bob", "cid"}


def test_a_user_keeps_the_sandbox_that_served_it_last() -> None:
    bench = Bench(sandboxes=2)
    bench.enqueue_each("ann", "bob")
    first = {decision.grant.user: decision.grant for decision in bench.grants()}
    bench.release(first["bob"])
    bench.release(first["ann"])
    bench.enqueue_each("ann", "bob")
    again = {decision.grant.user: decision.grant for decision in bench.grants()}
    assert {user: grant.sandbox_id for user, grant in again.items()} == {
        user: grant.sandbox_id for user, grant in first.items()
    }


def test_a_new_user_takes_an_unused_sandbox_before_the_longest_idle_one() -> None:
    bench = Bench(sandboxes=0, concurrency=9)
    for user in ("ann", "bob"):
        bench.queue.offer(f"of-{user}", 1)
        bench.enqueue(user)
        bench.serve()
    bench.queue.offer("unused", 1)
    bench.enqueue_each("cid", "dan", "eve")
    assert [decision.grant.sandbox_id for decision in bench.grants()] == ["unused", "of-ann", "of-bob"]


def test_several_runs_of_a_user_share_a_turn() -> None:
    bench = Bench(quantum_s=0.25, switch_cost_s=0.0, default_cost_s=0.05)
    for _ in range(10):
        bench.enqueue_each("ann", "bob")
    order = "".join(bench.serve()[0] for _ in range(20))
    assert order == "aaaaabbbbb" * 2


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 1.0), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_backlogged_users_get_equal_sandbox_seconds_whatever_their_runs_cost(
    ann_s: float, bob_s: float, quantum_s: float
) -> None:
    bench = Bench(quantum_s=quantum_s, switch_cost_s=0.0, max_wait_s=1e9, aging_s=1e9)
    run_s = {"ann": ann_s, "bob": bob_s}
    used: dict[str, float] = defaultdict(float)
    for user in run_s:
        for _ in range(200):
            bench.enqueue(user, deadline_s=1e9)
    for _ in range(150):
        (decision,) = bench.grants()
        user = decision.grant.user
        bench.clock.advance(run_s[user])
        bench.release(decision.grant, run_s[user])
        used[user] += run_s[user]
    # Nobody's estimates are known at first, so that a turn may be longer than it should have been once.
    slack_s = quantum_s + 2 * (ann_s + bob_s) + max(1.0, quantum_s / 0.05) * max(ann_s, bob_s)
    if 150 * min(ann_s, bob_s) > slack_s:
        assert abs(used["ann"] - used["bob"]) <= slack_s


def test_a_run_that_cost_more_than_estimated_is_paid_for_afterwards() -> None:
    bench = Bench(quantum_s=0.1, switch_cost_s=0.0, default_cost_s=0.1)
    for _ in range(40):
        bench.enqueue_each("ann", "bob")
    # It was given up, so that nothing is learned of its cost: what follows is the debt's doing alone.
    assert bench.serve(used_s=2.0, programs=0).startswith("ann")
    assert all(bench.serve(used_s=0.1).startswith("bob") for _ in range(18))


def test_what_a_users_runs_have_cost_is_expected_of_the_next_ones() -> None:
    bench = Bench(sandboxes=6, per_user_concurrency=6, quantum_s=0.25, switch_cost_s=0.0)
    for user, used_s in (("ann", 0.25), ("bob", 0.05)):
        bench.enqueue(user)
        bench.serve(used_s)
    bench.enqueue_each(*["ann", "bob"] * 10)
    assert Counter(decision.grant.user for decision in bench.grants()) == {"ann": 1, "bob": 5}


def test_replacing_a_sandbox_for_another_user_is_paid_by_the_one_it_is_replaced_for() -> None:
    bench = Bench(quantum_s=1.0, switch_cost_s=0.9, default_cost_s=0.3, max_wait_s=1e6)
    for _ in range(10):
        bench.enqueue_each("ann", "bob")
    # Unused at first, so that nothing is replaced; later turns have room for the switch and one run.
    assert "".join(bench.serve(used_s=0.3)[0] for _ in range(6)) == "aaabab"


def test_jain_fairness_holds_with_one_flooding_tenant() -> None:
    bench = Bench(sandboxes=4, concurrency=4, per_user_concurrency=2, lone=True, max_wait_s=1e6)
    rng = random.Random(7)
    users = ["flood", "b", "c", "d", "e"]
    for _ in range(4000):
        bench.enqueue("flood")
    for user in users[1:]:
        for _ in range(3):
            bench.enqueue(user)
    used: dict[str, float] = defaultdict(float)
    ends: list[tuple[float, int, Grant, float]] = []
    for step in range(3000):
        for decision in bench.grants():
            run_s = rng.expovariate(1 / {"flood": 0.02, "b": 0.2}.get(decision.grant.user, 0.05))
            ends.append((bench.clock() + run_s, step, decision.grant, run_s))
        ends.sort(key=lambda end: (end[0], end[1]))
        at, _, granted, run_s = ends.pop(0)
        bench.clock.advance(at - bench.clock())
        bench.release(granted, run_s)
        used[granted.user] += run_s
        bench.enqueue(granted.user)
    shares = [used[user] for user in users]
    assert sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares)) >= 0.95


def test_higher_bands_go_first() -> None:
    bench = Bench()
    low, normal, high = (bench.enqueue("ann", priority=priority) for priority in (2, 1, 0))
    assert [bench.serve() for _ in range(3)] == [high, normal, low]


def test_waiting_raises_the_band() -> None:
    bench = Bench(aging_s=30.0)
    low = bench.enqueue("low", priority=Priority.LOW)
    bench.clock.advance(59.0)
    high = bench.enqueue("high", priority=Priority.HIGH)
    bench.clock.advance(1.0)
    # Both are in the highest band now. There users take turns, in the order in which they came into it.
    assert {bench.serve(), bench.serve()} == {low, high}
    assert bench.queue.snapshot()["waiting"] == 0


def test_users_whose_runs_rise_at_once_take_turns_in_the_order_in_which_they_rose() -> None:
    bench = Bench(aging_s=30.0)
    waiters = []
    for number in range(10):
        waiters.append(bench.enqueue(f"user{number}", priority=Priority.LOW))
        bench.clock.advance(1.0)
    bench.clock.advance(30.0)
    assert [bench.serve(used_s=1.0) for _ in waiters] == waiters


def test_a_run_that_rose_goes_before_later_ones_of_its_user() -> None:
    bench = Bench(aging_s=10.0)
    old = bench.enqueue("ann", priority=Priority.LOW)
    bench.clock.advance(20.0)
    new = bench.enqueue("ann", priority=Priority.HIGH)
    assert [bench.serve(), bench.serve()] == [old, new]


def test_one_grant_in_ten_is_the_lowest_bands() -> None:
    bench = Bench(aging_s=1e6)
    for _ in range(40):
        bench.enqueue("high", priority=Priority.HIGH)
    for _ in range(4):
        bench.enqueue("low", priority=Priority.LOW)
    order = [bench.serve().split("-")[0] for _ in range(40)]
    assert [place for place, user in enumerate(order) if user == "low"] == [9, 19, 29, 39]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2), st.sampled_from([1, 20, 600]), st.integers(1, 3), st.randoms(use_true_random=False))
def test_nobody_starves_under_endless_load_of_higher_priority(
    priority: int, programs: int, flooders: int, rng: random.Random
) -> None:
    bench = Bench(aging_s=10.0, max_wait_s=1e6)
    bench.enqueue("victim")
    bench.serve(used_s=0.005)  # each of its programs costs as much: 5 ms, 0.1 s or 3 s in all
    for flooder in range(flooders):
        for _ in range(20):
            bench.enqueue(f"flood{flooder}", priority=Priority.HIGH)
    victim = bench.enqueue("victim", priority=priority, programs=programs)
    for _ in range(300):
        (decision,) = bench.grants()
        if decision.waiter_id == victim:
            return
        used_s = rng.choice([0.01, 0.1, 0.3])
        bench.clock.advance(used_s)
        bench.release(decision.grant, used_s)
        bench.enqueue(decision.grant.user, priority=Priority.HIGH)
    pytest.fail("the victim was not granted within 300 grants")


def test_the_snapshot_counts_what_happened() -> None:
    bench = Bench(sandboxes=1, max_depth=2)
    bench.enqueue_each("ann", "ann")
    bench.refusal("ann")
    bench.serve()
    bench.clock.advance(2.0)
    bench.serve()
    snapshot = bench.queue.snapshot()
    assert (snapshot["enqueued"], snapshot["completed"], snapshot["rejected"]) == (2, 2, 1)
    assert snapshot["success_rate"] == pytest.approx(2 / 3)
    assert snapshot["mean_wait_s"] == 1.0


def test_ten_thousand_waiters_of_many_users_cost_no_more_each_than_a_few() -> None:
    def seconds_per_run(waiters: int) -> float:
        bench = Bench(sandboxes=4, concurrency=4, max_wait_s=1e6, max_depth=20_000)
        started = time.process_time()
        for number in range(waiters):
            bench.enqueue(f"user{number % 1000}", priority=number % 3)
        served = 0
        while served < waiters:
            for decision in bench.grants():
                bench.release(decision.grant, 0.3)
                served += 1
        return (time.process_time() - started) / waiters

    few = min(seconds_per_run(500) for _ in range(2))
    assert seconds_per_run(10_000) < 5 * few
