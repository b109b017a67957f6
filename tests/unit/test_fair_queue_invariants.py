"""What holds after any events in any order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.config import QueueSettings
from actors.core.queue.fair_queue import FairQueue
from actors.core.queue.reports import SlotReport
from actors.core.queue.slots import SlotUse, Withdrawal
from actors.schemas import Grant, GrantRelease, GrantRequest, Priority
from tests.unit.clock import FakeClock

USERS = ["ann", "bob", "cid"]
SANDBOXES = ["s0", "s1", "s2", "s3", "s4"]
CAP = 2
MAX_WAIT_S = 100.0
users = st.sampled_from(USERS)
sandboxes = st.sampled_from(SANDBOXES)
seconds = st.sampled_from([0.0, 0.01, 0.3, 2.0, 15.0])
concurrencies = st.integers(1, 6)


class AnyEvents(RuleBasedStateMachine):
    """A model of sets and dicts beside the queue: what was offered, who waits, what is leased to whom."""

    @initialize(lone=st.booleans(), concurrency=concurrencies)
    def start(self, lone: bool, concurrency: int) -> None:
        self.lone, self.concurrency, self.epoch = lone, concurrency, 1
        self.clock = FakeClock()
        self.count = 0
        self.offered: dict[str, int] = {}  # generations
        self.suspect: set[str] = set()
        self.pins: dict[str, str] = {}
        self.waiting: dict[str, tuple[GrantRequest, float]] = {}  # in order of arrival, with deadlines
        self.leases: dict[str, tuple[Grant, float]] = {}
        self.leased_with: dict[str, int | None] = {}  # generations when they were leased
        self.ended: list[Grant] = []
        self.queue = self.new_queue(0.0)

    def new_queue(self, recovering_s: float) -> FairQueue:
        limits = QueueSettings(
            per_user_concurrency=CAP, max_depth=12, max_depth_per_user=8, max_wait_s=MAX_WAIT_S, aging_s=5.0
        )
        return FairQueue(
            limits,
            self.concurrency,
            self.clock,
            lone_user_may_use_idle=self.lone,
            epoch=self.epoch,
            recovering_s=recovering_s,
        )

    def leased(self) -> set[str]:
        return {grant.sandbox_id for grant, _ in self.leases.values()}

    def running(self, user: str) -> int:
        return sum(grant.user == user for grant, _ in self.leases.values())

    def idle(self) -> set[str]:
        """Sandboxes that anybody may have."""
        return self.offered.keys() - self.leased() - self.suspect - self.pins.keys()

    def end(self, grant: Grant, healthy: bool) -> None:
        del self.leases[grant.grant_id]
        self.ended.append(grant)
        generation, now = self.leased_with.pop(grant.grant_id), self.offered.get(grant.sandbox_id)
        there = grant.sandbox_id in self.offered or grant.sandbox_id in self.pins
        if there and not healthy and generation in (None, now):
            self.suspect.add(grant.sandbox_id)

    @rule(sandbox_id=sandboxes, generation=st.integers(1, 3))
    def offer(self, sandbox_id: str, generation: int) -> None:
        self.queue.offer(sandbox_id, generation)
        self.offered[sandbox_id] = generation
        self.suspect.discard(sandbox_id)

    @rule(sandbox_id=sandboxes)
    def withdraw(self, sandbox_id: str) -> None:
        met = Withdrawal(leased=sandbox_id in self.leased(), pinned=sandbox_id in self.pins)
        assert self.queue.withdraw(sandbox_id) == met
        self.offered.pop(sandbox_id, None)
        self.pins.pop(sandbox_id, None)
        self.suspect.discard(sandbox_id)

    @rule(
        user=users,
        priority=st.sampled_from(Priority),
        programs=st.sampled_from([1, 2, 30]),
        deadline_s=st.sampled_from([0.0, 0.5, 20.0, 500.0]),
    )
    def enqueue(self, user: str, priority: Priority, programs: int, deadline_s: float) -> None:
        self.count += 1
        request = GrantRequest("fake", user, priority, deadline_s, 10.0, programs)
        self.let_in(f"w{self.count}", request)

    def let_in(self, waiter_id: str, request: GrantRequest) -> None:
        refused = self.queue.enqueue(waiter_id, request)
        if refused is None:
            self.waiting[waiter_id] = request, self.clock() + min(request.deadline_s, MAX_WAIT_S)
        else:
            assert 0 < refused.retry_after_s <= MAX_WAIT_S

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiter_id = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.queue.cancel(waiter_id)
        assert not self.queue.cancel(waiter_id)
        del self.waiting[waiter_id]

    @rule()
    def grant(self) -> None:
        now = self.clock()
        late = {waiter_id for waiter_id, (_, deadline_at) in self.waiting.items() if deadline_at <= now}
        assert sorted(self.queue.overdue()) == sorted(late)
        self.waiting = {waiter_id: waiter for waiter_id, waiter in self.waiting.items() if waiter_id not in late}
        over = {grant_id for grant_id, (_, expires_at) in self.leases.items() if expires_at <= now}
        expired = self.queue.expire()
        assert sorted(lease.grant_id for lease in expired) == sorted(over)
        for lease in expired:
            self.end(self.leases[lease.grant_id][0], healthy=False)
        for decision in self.queue.next_grants():
            self.check(decision.waiter_id, decision.grant)
            del self.waiting[decision.waiter_id]
            self.leases[decision.grant.grant_id] = decision.grant, now + decision.grant.ttl_s
            self.leased_with[decision.grant.grant_id] = self.offered[decision.grant.sandbox_id]
        self.nothing_is_left_undone()

    def check(self, waiter_id: str, grant: Grant) -> None:
        user, priority = grant.user, self.waiting[waiter_id][0].priority
        assert user == self.waiting[waiter_id][0].user
        assert grant.sandbox_id in self.idle(), "one lease for each sandbox at a time, and none where sessions live"
        assert len(self.leases) < self.concurrency
        alone = all(other.user == user for other, _ in self.waiting.values())
        assert self.running(user) < CAP or (self.lone and alone)
        assert grant.grant_id not in {other.grant_id for other in self.ended}
        alike = (
            other_id
            for other_id, (other, _) in self.waiting.items()
            if (other.user, other.priority) == (user, priority)
        )
        assert waiter_id == next(alike), "first come, first served within a user and a priority"

    def nothing_is_left_undone(self) -> None:
        """No waiter is left that could have run."""
        if len(self.leases) < self.concurrency and self.idle():
            assert not any(self.running(request.user) < CAP for request, _ in self.waiting.values())

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(), used_s=seconds, healthy=st.booleans(), programs=st.sampled_from([0, 1, 30]), stale=st.booleans()
    )
    def release(self, data: st.DataObject, used_s: float, healthy: bool, programs: int, stale: bool) -> None:
        grant, _ = self.leases[data.draw(st.sampled_from(sorted(self.leases)))]
        epoch = grant.epoch - 1 if stale else grant.epoch
        assert self.queue.release(GrantRelease(grant.grant_id, "fake", epoch, used_s, healthy, programs)) != stale
        if not stale:
            self.end(grant, healthy)

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def release_again(self, data: st.DataObject) -> None:
        grant = data.draw(st.sampled_from(self.ended))
        assert not self.queue.release(GrantRelease(grant.grant_id, "fake", grant.epoch, 0.1))

    def is_anothers(self, sandbox_id: str, user: str) -> bool:
        holders = {grant.user for grant, _ in self.leases.values() if grant.sandbox_id == sandbox_id}
        return bool((holders | {self.pins.get(sandbox_id, user)}) - {user})

    @rule(sandbox_id=sandboxes, user=users)
    def pin(self, sandbox_id: str, user: str) -> None:
        may = sandbox_id in self.offered and sandbox_id not in self.suspect and not self.is_anothers(sandbox_id, user)
        assert self.queue.pin(sandbox_id, user) == may
        if may:
            self.pins[sandbox_id] = user

    @rule(sandbox_id=sandboxes, user=users)
    def adopt_pin(self, sandbox_id: str, user: str) -> None:
        may = not self.is_anothers(sandbox_id, user)
        assert self.queue.adopt_pin(sandbox_id, user) == may
        if may:
            self.pins[sandbox_id] = user

    @rule(sandbox_id=sandboxes, healthy=st.booleans())
    def unpin(self, sandbox_id: str, healthy: bool) -> None:
        self.queue.unpin(sandbox_id, healthy=healthy)
        if self.pins.pop(sandbox_id, None) is not None:
            if not healthy and sandbox_id not in self.leased():
                self.suspect.add(sandbox_id)
            self.suspect &= self.offered.keys() | self.pins.keys()

    @rule(concurrency=concurrencies)
    def resize(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.queue.resize(concurrency)

    @rule(passed_s=seconds)
    def time_passes(self, passed_s: float) -> None:
        self.clock.advance(passed_s)

    @rule()
    def abandon(self) -> None:
        """The holder of everything is gone."""
        assert sorted(self.queue.abandon()) == sorted(self.waiting)
        for grant, _ in list(self.leases.values()):
            self.end(grant, healthy=False)
        self.suspect = (self.suspect | self.pins.keys()) & self.offered.keys()
        self.pins, self.waiting = {}, {}

    @rule(speaking=st.sets(st.integers(0, 3)), first=st.sampled_from(["pins", "leases", "offers"]))
    def restart(self, speaking: set[int], first: str) -> None:
        """Some holders register again, every waiter enqueues again; what is left of the rest must do no harm."""
        self.epoch += 1
        self.queue = self.new_queue(10.0)
        held, pins, offered = list(self.leases.values()), self.pins, self.offered
        self.leases, self.leased_with, self.pins, self.offered, self.suspect = {}, {}, {}, {}, set()
        if first == "pins":
            self.speak_of_pins(pins)
        for number, (grant, expires_at) in enumerate(held):
            if number in speaking and expires_at > self.clock():
                if first == "offers" and grant.sandbox_id in offered:
                    self.offer(grant.sandbox_id, offered[grant.sandbox_id])
                assert self.queue.reregister(grant)
                self.leases[grant.grant_id] = grant, self.clock() + grant.ttl_s
                self.leased_with[grant.grant_id] = None
            else:
                self.ended.append(grant)
        if first != "pins":
            self.speak_of_pins(pins)
        # The supervisor offers again what is not in the hands of a holder who has not spoken.
        silent = {grant.sandbox_id for grant, _ in held} - self.leased()
        for sandbox_id in offered.keys() - silent:
            self.offer(sandbox_id, offered[sandbox_id])
        waiting, self.waiting = self.waiting, {}
        for waiter_id, (request, _) in sorted(waiting.items(), reverse=True):
            self.let_in(waiter_id, request)
        assert self.queue.next_grants() == []
        self.queue.recovered()

    def speak_of_pins(self, pins: dict[str, str]) -> None:
        for sandbox_id, user in pins.items():
            self.adopt_pin(sandbox_id, user)
            assert self.pins[sandbox_id] == user

    @invariant()
    def every_sandbox_is_in_the_use_that_the_model_says(self) -> None:
        leased = self.leased()
        known = self.offered.keys() | leased | self.pins.keys()
        uses = dict.fromkeys(known, SlotUse.IDLE)
        uses |= dict.fromkeys(self.suspect, SlotUse.SUSPECT) | dict.fromkeys(leased, SlotUse.LEASED)
        reports = {report.sandbox_id: report for report in self.queue.slots()}
        assert reports == {name: SlotReport(name, use, self.pins.get(name)) for name, use in uses.items()}
        assert (self.queue.demand().idle, self.queue.demand().pinned) == (len(self.idle()), len(self.pins))

    @invariant()
    def the_queue_counts_as_the_model_does(self) -> None:
        demand = self.queue.demand()
        assert demand.waiting == len(self.waiting)
        assert demand.running == len(self.leases)
        assert 0 <= demand.startable <= max(0, min(demand.waiting, self.concurrency - demand.running))
        waiting = {request.user for request, _ in self.waiting.values()}
        assert self.queue.contenders() == {user for user in waiting if self.running(user) < CAP}

    @invariant()
    def the_owner_is_woken_for_the_next_deadline_or_expiry(self) -> None:
        instants = [deadline_at for _, deadline_at in self.waiting.values()]
        instants += [expires_at for _, expires_at in self.leases.values()]
        expected_s = max(0.0, min(instants) - self.clock()) if instants else None
        assert self.queue.next_event_s() == expected_s


TestAnyEvents = AnyEvents.TestCase
TestAnyEvents.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
