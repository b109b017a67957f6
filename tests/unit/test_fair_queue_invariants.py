"""What holds after any events in any order."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.config import QueueSettings
from actors.core.queue.fair_queue import Accepted, FairQueue, Refused, SlotUse
from actors.schemas import Grant, GrantRelease, GrantRequest, Priority
from tests.unit.clock import FakeClock

USERS = ["ann", "bob", "cid"]
SANDBOXES = ["s0", "s1", "s2", "s3", "s4"]
CAP = 2
users = st.sampled_from(USERS)
sandboxes = st.sampled_from(SANDBOXES)
seconds = st.sampled_from([0.0, 0.01, 0.3, 2.0, 15.0])


class AnyEvents(RuleBasedStateMachine):
    """A model of sets and dicts beside the queue: what was offered, who waits, what is leased to whom."""

    @initialize(lone=st.booleans(), concurrency=st.integers(1, 4))
    def start(self, lone: bool, concurrency: int) -> None:
        self.lone, self.concurrency, self.epoch = lone, concurrency, 1
        self.clock = FakeClock()
        self.count = 0
        self.offered: set[str] = set()
        self.pins: dict[str, str] = {}
        self.waiting: dict[str, GrantRequest] = {}
        self.arrivals: dict[str, int] = {}
        self.leases: dict[str, tuple[Grant, float]] = {}
        self.ended: list[Grant] = []
        self.queue = self.new_queue(0.0)

    def new_queue(self, recovering_s: float) -> FairQueue:
        options: dict[str, Any] = {"lone_user_may_use_idle": self.lone, "epoch": self.epoch}
        limits = QueueSettings(per_user_concurrency=CAP, max_depth=12, max_depth_per_user=8, aging_s=5.0)
        return FairQueue(limits, self.concurrency, self.clock, recovering_s=recovering_s, **options)

    def forget(self, waiter_ids: tuple[str, ...] | list[str]) -> None:
        for waiter_id in waiter_ids:
            del self.waiting[waiter_id]

    @rule(sandbox_id=sandboxes, generation=st.integers(1, 3))
    def offer(self, sandbox_id: str, generation: int) -> None:
        self.queue.offer(sandbox_id, generation)
        self.offered.add(sandbox_id)

    @rule(sandbox_id=sandboxes)
    def withdraw(self, sandbox_id: str) -> None:
        leased = any(granted.sandbox_id == sandbox_id for granted, _ in self.leases.values())
        withdrawal = self.queue.withdraw(sandbox_id)
        assert withdrawal.leased == leased
        assert withdrawal.known == (leased or sandbox_id in self.offered)
        self.offered.discard(sandbox_id)
        self.pins.pop(sandbox_id, None)
        self.forget(withdrawal.orphans)

    @rule(
        user=users,
        priority=st.sampled_from(Priority),
        cost_s=st.none() | seconds,
        deadline_s=st.sampled_from([0.5, 20.0, 500.0]),
        sandbox_id=st.none() | sandboxes,
    )
    def enqueue(
        self, user: str, priority: Priority, cost_s: float | None, deadline_s: float, sandbox_id: str | None
    ) -> None:
        self.count += 1
        waiter_id = f"w{self.count}"
        wanted = GrantRequest("fake", user, priority, deadline_s, 10.0, 1, cost_s, sandbox_id)
        answer = self.queue.enqueue(waiter_id, wanted)
        if isinstance(answer, Accepted):
            assert sandbox_id is None or self.pins[sandbox_id] == user
            self.waiting[waiter_id], self.arrivals[waiter_id] = wanted, answer.arrival
        else:
            assert isinstance(answer, Refused)
            assert answer.retry_after_s >= 0

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiter_id = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.queue.cancel(waiter_id)
        del self.waiting[waiter_id]

    @rule()
    def grant(self) -> None:
        for waiter_id in self.queue.overdue():
            del self.waiting[waiter_id]
        for expired in self.queue.expire():
            granted, expires_at = self.leases.pop(expired.grant_id)
            assert expires_at <= self.clock()
            self.ended.append(granted)
        for decision in self.queue.next_grants():
            self.check(decision.waiter_id, decision.granted)
            del self.waiting[decision.waiter_id]
            self.leases[decision.granted.grant_id] = decision.granted, self.clock() + decision.granted.ttl_s
        self.nothing_is_left_undone()

    def check(self, waiter_id: str, granted: Grant) -> None:
        wanted, sandbox_id, user = self.waiting[waiter_id], granted.sandbox_id, granted.user
        held = [other for other, _ in self.leases.values()]
        assert user == wanted.user
        assert sandbox_id in self.offered
        assert sandbox_id not in {other.sandbox_id for other in held}, "one lease for each sandbox at a time"
        assert self.pins.get(sandbox_id) == (None if wanted.sandbox_id is None else user)
        assert wanted.sandbox_id in (None, sandbox_id)
        assert len(held) < self.concurrency
        alone = all(other.user == user for other in self.waiting.values())
        assert sum(other.user == user for other in held) < CAP or (self.lone and alone)
        assert granted.grant_id not in {other.grant_id for other in self.ended}
        if wanted.sandbox_id is None:
            alike = (
                self.arrivals[other_id]
                for other_id, other in self.waiting.items()
                if (other.user, other.priority, other.sandbox_id) == (user, wanted.priority, None)
            )
            assert self.arrivals[waiter_id] == min(alike), "first come, first served within a user and a priority"

    def nothing_is_left_undone(self) -> None:
        """No waiter is left that could have run."""
        now = {report.sandbox_id: report for report in self.queue.slots()}
        free = any(report.use is SlotUse.IDLE and report.pinned_to is None for report in now.values())
        if len(self.leases) >= self.concurrency:
            return
        for wanted in self.waiting.values():
            below_cap = sum(granted.user == wanted.user for granted, _ in self.leases.values()) < CAP
            there = free if wanted.sandbox_id is None else now[wanted.sandbox_id].use is SlotUse.IDLE
            assert not (below_cap and there)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), used_s=seconds, healthy=st.booleans(), stale=st.booleans())
    def release(self, data: st.DataObject, used_s: float, healthy: bool, stale: bool) -> None:
        granted, _ = self.leases[data.draw(st.sampled_from(sorted(self.leases)))]
        epoch = granted.epoch - 1 if stale else granted.epoch
        assert self.queue.release(GrantRelease(granted.grant_id, "fake", epoch, used_s, healthy)) != stale
        if not stale:
            del self.leases[granted.grant_id]
            self.ended.append(granted)

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def release_again(self, data: st.DataObject) -> None:
        granted = data.draw(st.sampled_from(self.ended))
        assert not self.queue.release(GrantRelease(granted.grant_id, "fake", granted.epoch, 0.1))

    @rule(sandbox_id=sandboxes, user=users)
    def pin(self, sandbox_id: str, user: str) -> None:
        if self.queue.pin(sandbox_id, user):
            assert self.pins.get(sandbox_id, user) == user
            assert all(held.user == user for held, _ in self.leases.values() if held.sandbox_id == sandbox_id)
            self.pins[sandbox_id] = user

    @rule(sandbox_id=sandboxes)
    def unpin(self, sandbox_id: str) -> None:
        self.forget(self.queue.unpin(sandbox_id))
        self.pins.pop(sandbox_id, None)

    @rule(concurrency=st.integers(1, 6))
    def resize(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.queue.resize(concurrency)

    @rule(passed_s=seconds)
    def time_passes(self, passed_s: float) -> None:
        self.clock.advance(passed_s)

    @rule(speaking=st.sets(st.integers(0, 3)))
    def restart(self, speaking: set[int]) -> None:
        """Some holders register again, every waiter enqueues again; what is left of the rest must do no harm."""
        self.epoch += 1
        self.queue = self.new_queue(10.0)
        held = list(self.leases.values())
        self.leases = {}
        for number, (granted, expires_at) in enumerate(held):
            if number in speaking and expires_at > self.clock():
                assert self.queue.reregister(granted)
                self.leases[granted.grant_id] = granted, self.clock() + granted.ttl_s
            else:
                self.ended.append(granted)
        # The supervisor offers again what is not in the hands of a holder who has not spoken.
        silent = {granted.sandbox_id for granted, _ in held} - {
            granted.sandbox_id for granted, _ in self.leases.values()
        }
        self.offered -= silent
        for sandbox_id in self.offered:
            self.queue.offer(sandbox_id, 1)
        self.pins = {}
        again = sorted(self.waiting.items(), reverse=True)
        self.waiting = {}
        for waiter_id, wanted in again:
            if wanted.sandbox_id is None:
                answer = self.queue.enqueue(waiter_id, wanted, self.arrivals[waiter_id])
                if isinstance(answer, Accepted):
                    assert answer.arrival == self.arrivals[waiter_id]
                    self.waiting[waiter_id] = wanted
        assert self.queue.next_grants() == []
        self.queue.recovered()

    @invariant()
    def no_sandbox_is_lost(self) -> None:
        reports = {report.sandbox_id: report for report in self.queue.slots()}
        leased = {granted.sandbox_id for granted, _ in self.leases.values()}
        assert reports.keys() == self.offered | leased
        assert {name for name, report in reports.items() if report.use is SlotUse.LEASED} == leased
        assert {name: report.pinned_to for name, report in reports.items() if report.pinned_to} == self.pins
        free = [
            report
            for name, report in reports.items()
            if report.use is SlotUse.IDLE and name in self.offered and report.pinned_to is None
        ]
        assert self.queue.demand().idle == len(free)

    @invariant()
    def the_queue_counts_as_the_model_does(self) -> None:
        demand = self.queue.demand()
        assert demand.waiting == len(self.waiting) == sum(demand.waiting_by_user.values())
        assert demand.running == len(self.leases)
        assert 0 <= demand.startable <= max(0, min(demand.waiting, self.concurrency - demand.running))
        below_cap = {user for user in USERS if sum(held.user == user for held, _ in self.leases.values()) < CAP}
        assert self.queue.contenders() == below_cap & {wanted.user for wanted in self.waiting.values()}


TestAnyEvents = AnyEvents.TestCase
TestAnyEvents.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
