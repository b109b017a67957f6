"""Who gets which sandbox, and when: the decisions of the FairQueue actor for one backend."""

from __future__ import annotations

from actors.config import QueueSettings
from actors.core.clock import Clock
from actors.core.queue.admission import Admission
from actors.core.queue.costs import Costs
from actors.core.queue.leases import Lease, Leases
from actors.core.queue.reports import Demand, Expired, GrantDecision, QueueStatistics, Refused, SlotReport
from actors.core.queue.slots import Slots, SlotUse, Withdrawal
from actors.core.queue.turns import Turns
from actors.core.queue.waiters import Waiter, Waiters
from actors.schemas import Grant, GrantRelease, GrantRequest, Priority


class FairQueue:
    """Hand sandboxes directly to waiters; nobody who comes later overtakes, except by these rules.

    - Higher bands of priority first; waiting ``aging_s`` raises by a band; one grant in ten is the lowest band's.
    - Within a band users take turns in sandbox-seconds (deficit round robin), as estimated from their past runs and
      corrected by what was really used. Within a user and a band: first come, first served.
    - At most ``concurrency`` leases in all and ``per_user_concurrency`` of a user, unless ``lone_user_may_use_idle``
      and nobody else waits.

    A sandbox has at most one lease, and is idle again only by that lease's release, or by being offered anew. One that
    is pinned belongs to its user's sessions and goes to no waiter.

    After every event the owner asks ``next_grants``; by ``next_event_s`` at the latest it asks ``expire`` and
    ``overdue`` first. In a new ``epoch`` nothing is granted for ``recovering_s``, or until ``recovered``, so that
    holders can ``reregister`` their leases; releases of any other lease from before are stale.
    """

    def __init__(
        self,
        settings: QueueSettings,
        concurrency: int,
        clock: Clock,
        *,
        lone_user_may_use_idle: bool,
        epoch: int = 1,
        recovering_s: float = 0.0,
    ) -> None:
        self._settings, self._clock, self.epoch = settings, clock, epoch
        self._recovers_at = clock() + recovering_s
        self._waiters, self._slots, self._leases = Waiters(settings.aging_s), Slots(), Leases()
        self._costs = Costs(settings.default_cost_s)
        parts = self._waiters, self._slots, self._leases, self._costs
        self._turns = Turns(settings, concurrency, lone_user_may_use_idle, *parts)
        self._admission = Admission(settings, *parts, self._turns)
        self._statistics = QueueStatistics()
        self._grants = 0

    # The supervisor's side

    def offer(self, sandbox_id: str, generation: int) -> None:
        """Make a sandbox available; also for a suspect one found well, and for a new generation inside."""
        self._slots.offer(sandbox_id, generation)

    def withdraw(self, sandbox_id: str) -> Withdrawal:
        """Give a sandbox to nobody any more. Unknown ones are ignored."""
        return self._slots.withdraw(sandbox_id)

    def resize(self, concurrency: int) -> None:
        """Allow so many leases at a time from now on; those that are too many go on until they end.

        Raises:
            ValueError: nobody could ever run.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        self._turns.resize(concurrency)

    def demand(self) -> Demand:
        """What waits and runs now."""
        return Demand(
            waiting=len(self._waiters),
            startable=self._turns.startable(),
            running=len(self._leases),
            idle=self._slots.idle,
            pinned=len(self._slots.pinned),
            enqueued=self._statistics.enqueued,
            service_s=self._costs.service_s,
        )

    def slots(self) -> list[SlotReport]:
        """Every sandbox known here and what it is used for."""
        return [SlotReport(slot.sandbox_id, slot.use, slot.pinned_to) for slot in self._slots.by_id.values()]

    @property
    def has_suspects(self) -> bool:
        """Whether some sandbox waits to be examined."""
        return any(slot.use is SlotUse.SUSPECT for slot in self._slots.by_id.values())

    # The runs' side

    def enqueue(self, waiter_id: str, request: GrantRequest) -> Refused | None:
        """Let a waiter in, or say why not.

        Raises:
            ValueError: this waiter waits already.
        """
        if waiter_id in self._waiters.by_id:
            raise ValueError(f"waiter {waiter_id} waits already")
        now = self._clock()
        refused = self._admission.refusal(request, now)
        if refused is not None:
            self._statistics.rejected += 1
            return refused
        self._waiters.add(waiter_id, request, now, now + min(request.deadline_s, self._settings.max_wait_s))
        self._statistics.enqueued += 1
        self._turns.changed(request.user)
        return None

    def cancel(self, waiter_id: str) -> bool:
        """Forget a waiter; False when it does not wait (any more): then its grant must be released."""
        cancelled = self._forget(waiter_id)
        self._statistics.cancelled += cancelled
        return cancelled

    def next_grants(self) -> list[GrantDecision]:
        """Lease idle sandboxes to those whose turn it is."""
        now = self._clock()
        if now < self._recovers_at:
            return []
        for user in self._waiters.age(now):
            self._turns.changed(user)
        decisions: list[GrantDecision] = []
        while (waiter := self._turns.next()) is not None:
            decisions.append(self._grant(waiter, now))
        return decisions

    def release(self, release: GrantRelease) -> bool:
        """End a lease; False when it is stale (ended, expired or of another epoch), and nothing happens."""
        lease = self._leases.by_id.get(release.grant_id)
        if lease is None or lease.grant.epoch != release.epoch:
            return False
        used_s = max(0.0, release.used_s)
        if release.programs > 0:
            self._costs.learn(lease.grant.user, used_s / release.programs)
        self._end(lease, used_s, release.healthy)
        self._statistics.completed += 1
        return True

    def expire(self) -> list[Expired]:
        """End the leases that ran out; their sandboxes are suspect until offered again."""
        now = self._clock()
        ended = self._leases.expired(now)
        for lease in ended:
            self._end(lease, now - lease.since, healthy=False)
        self._statistics.expired += len(ended)
        return [Expired(lease.grant.grant_id, lease.grant.sandbox_id, lease.grant.user) for lease in ended]

    def overdue(self) -> list[str]:
        """Drop the waiters whose deadline has passed; returns their ids."""
        return self._drop(self._waiters.overdue(self._clock()))

    def next_event_s(self) -> float | None:
        """Seconds until time alone changes something; None when it never does."""
        now = self._clock()
        instants = [self._leases.next_expiry(), self._waiters.next_deadline()]
        if now < self._recovers_at:
            instants.append(self._recovers_at)
        return min((max(0.0, instant - now) for instant in instants if instant is not None), default=None)

    def contenders(self) -> frozenset[str]:
        """Users who wait and are below their cap: what others retain is to be given back for them."""
        return frozenset(self._turns.contenders)

    def snapshot(self) -> dict[str, float]:
        """Counters and sizes, for metrics."""
        return self._statistics.snapshot() | {
            "waiting": len(self._waiters),
            "running": len(self._leases),
            "concurrency": self._turns.concurrency,
            "idle": self._slots.idle,
            "pinned": len(self._slots.pinned),
            "suspect": sum(slot.use is SlotUse.SUSPECT for slot in self._slots.by_id.values()),
            "epoch": self.epoch,
        }

    # Sessions

    def pin(self, sandbox_id: str, user: str) -> bool:
        """Keep a sandbox for a user's sessions; False unless it is idle or leased to that user, and no other's."""
        return self._slots.pin(sandbox_id, user)

    def unpin(self, sandbox_id: str, *, healthy: bool = True) -> None:
        """Let everybody have a sandbox again, an unhealthy one once it is offered again. Idempotent."""
        self._slots.unpin(sandbox_id, healthy=healthy)

    # After a restart

    def reregister(self, grant: Grant) -> bool:
        """Recover a lease of an earlier epoch; ``grant.ttl_s`` is what is left of it.

        False when it is too late, or the sandbox is another's: then the holder must not use it any more.
        """
        now = self._clock()
        if grant.grant_id in self._leases.by_id:
            return True
        if now >= self._recovers_at or not self._slots.adopt(grant.sandbox_id, grant.user):
            return False
        # What was in the sandbox is unknown here, and what it cost is known only when it ends.
        self._leases.add(Lease(grant, None, Priority.NORMAL, 0.0, now, now + grant.ttl_s))
        self._turns.changed(grant.user)
        return True

    def adopt_pin(self, sandbox_id: str, user: str) -> bool:
        """Recover a pin of an earlier epoch, also of a sandbox that is not offered yet.

        False when the sandbox is leased or pinned to another: then the sessions in it are lost.
        """
        return self._slots.adopt_pin(sandbox_id, user)

    def recovered(self) -> None:
        """End the recovery early: every holder has spoken."""
        self._recovers_at = min(self._recovers_at, self._clock())

    def abandon(self) -> list[str]:
        """End every lease, pin and wait, since their holder is gone; returns the waiters' ids.

        What it held is suspect until offered again: its programs and sessions may live on.
        """
        for lease in list(self._leases.by_id.values()):
            self._end(lease, self._clock() - lease.since, healthy=False)
        for sandbox_id in list(self._slots.pinned):
            self._slots.unpin(sandbox_id, healthy=False)
        return self._drop(list(self._waiters.by_id))

    def _grant(self, waiter: Waiter, now: float) -> GrantDecision:
        request = waiter.request
        slot = self._slots.choose(request.user)
        assert slot is not None, "there is a sandbox for whoever is next"
        estimate_s = self._costs.estimate_s(request.user, request.programs)
        switch_s = 0.0 if slot.last_user in (None, request.user) else self._settings.switch_cost_s
        self._grants += 1
        grant_id = f"{self.epoch}-{self._grants}"
        grant = Grant(grant_id, slot.sandbox_id, request.backend, request.user, self.epoch, request.ttl_s)
        self._waiters.remove(waiter.waiter_id)
        self._slots.lease(slot, request.user)
        self._leases.add(Lease(grant, slot.generation, waiter.band, estimate_s, now, now + request.ttl_s))
        self._turns.charge(request.user, waiter.band, estimate_s + switch_s)
        self._turns.changed(request.user)
        self._statistics.waited(now - waiter.enqueued_at)
        return GrantDecision(waiter.waiter_id, grant)

    def _end(self, lease: Lease, used_s: float, healthy: bool) -> None:
        user = lease.grant.user
        self._leases.remove(lease)
        self._slots.give_back(lease.grant.sandbox_id, lease.generation, healthy)
        # The estimate makes way for what was used; what was charged for a switch was spent.
        self._turns.charge(user, lease.band, used_s - lease.estimate_s)
        self._turns.changed(user)

    def _drop(self, waiter_ids: list[str]) -> list[str]:
        for waiter_id in waiter_ids:
            self._statistics.rejected += self._forget(waiter_id)
        return waiter_ids

    def _forget(self, waiter_id: str) -> bool:
        waiter = self._waiters.remove(waiter_id)
        if waiter is None:
            return False
        self._turns.changed(waiter.request.user)
        return True
