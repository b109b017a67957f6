"""Who gets which sandbox, and when: the decisions of the FairQueue actor for one backend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from actors.config import QueueSettings
from actors.core.clock import Clock
from actors.core.queue.admission import Admission
from actors.core.queue.leases import Costs, Lease, Leases
from actors.core.queue.reports import (
    Accepted,
    Demand,
    Expired,
    GrantDecision,
    QueueStatistics,
    Refusal,
    Refused,
    SlotReport,
)
from actors.core.queue.slots import Slots, SlotUse, Withdrawal
from actors.core.queue.turns import Turns
from actors.core.queue.waiters import Waiter, Waiters
from actors.schemas import Grant, GrantRelease, GrantRequest, Priority

__all__ = [
    "Accepted",
    "Demand",
    "Expired",
    "FairQueue",
    "GrantDecision",
    "Refusal",
    "Refused",
    "SlotReport",
    "SlotUse",
    "Withdrawal",
]

_EPOCH_BITS = 40  # arrivals of an epoch are numbered above all of the epochs before


class FairQueue:
    """Hand sandboxes directly to waiters; nobody who comes later overtakes, except by these rules.

    - Higher bands of priority first; waiting ``aging_s`` raises by a band; one grant in ten is the lowest band's.
    - Within a band users take turns in sandbox-seconds (deficit round robin), as estimated from their past runs and
      corrected by what was really used. Within a user and a band: first come, first served.
    - At most ``concurrency`` leases in all and ``per_user_concurrency`` of a user, unless ``lone_user_may_use_idle``
      and nobody else waits.
    - A pinned sandbox goes only to those of its user who ask for that very one.

    A sandbox has at most one lease, and is idle again only by that lease's release, or by being offered anew.

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
        lone_user_may_use_idle: bool | None = None,
        epoch: int = 1,
        recovering_s: float = 0.0,
    ) -> None:
        self._settings, self._clock, self.epoch = settings, clock, epoch
        self._recovers_at = clock() + recovering_s
        lone_may = settings.lone_user_may_use_idle if lone_user_may_use_idle is None else lone_user_may_use_idle
        self._waiters, self._slots, self._leases = Waiters(settings.aging_s), Slots(), Leases()
        self._costs = Costs(settings.default_cost_s)
        parts = self._waiters, self._slots, self._leases, self._costs
        self._turns = Turns(settings, concurrency, lone_may, *parts)
        self._admission = Admission(settings, *parts, self._turns)
        self._statistics = QueueStatistics()
        self._arrivals = epoch << _EPOCH_BITS
        self._grants = 0
        self._version = 0

    # The supervisor's side

    def offer(self, sandbox_id: str, generation: int) -> None:
        """Make a sandbox available; also for a suspect one found well, and for a new generation inside."""
        self._slots.offer(sandbox_id, generation, self._clock())
        self._version += 1

    def withdraw(self, sandbox_id: str) -> Withdrawal:
        """Give a sandbox to nobody any more. Unknown ones are ignored."""
        orphans = self._waiters.wanting(sandbox_id)
        self._drop(orphans)
        self._version += 1
        return replace(self._slots.withdraw(sandbox_id), orphans=tuple(orphans))

    def resize(self, concurrency: int) -> None:
        """Allow so many leases at a time from now on."""
        self._turns.resize(concurrency)
        self._version += 1

    def demand(self) -> Demand:
        """What waits and runs now."""
        oldest = next(iter(self._waiters.by_id.values()), None)
        return Demand(
            version=self._version,
            waiting=len(self._waiters),
            startable=self._turns.startable(),
            running=len(self._leases),
            idle=self._slots.idle,
            pinned=len(self._slots.pinned),
            oldest_wait_s=0.0 if oldest is None else self._clock() - oldest.enqueued_at,
            waiting_by_user={user: line.waiting for user, line in self._waiters.users.items()},
            enqueued=self._statistics.enqueued,
            service_s=self._costs.service_s,
        )

    def slots(self) -> list[SlotReport]:
        """Every sandbox known here and what it is used for."""
        now = self._clock()
        return [
            SlotReport(slot.sandbox_id, slot.generation, slot.use, now - slot.since, slot.last_user, slot.pinned_to)
            for slot in self._slots.by_id.values()
        ]

    # The runs' side

    def enqueue(self, waiter_id: str, wanted: GrantRequest, arrival: int | None = None) -> Accepted | Refused:
        """Let a waiter in, or say why not. ``arrival`` is its old place, given again after a restart.

        Raises:
            ValueError: this waiter waits already.
        """
        if waiter_id in self._waiters.by_id:
            raise ValueError(f"waiter {waiter_id} waits already")
        now = self._clock()
        refused = self._admission.refusal(wanted, now)
        if refused is not None:
            self._statistics.rejected += 1
            return refused
        if arrival is None:
            arrival, self._arrivals = self._arrivals, self._arrivals + 1
        deadline_at = now + min(wanted.deadline_s, self._settings.max_wait_s)
        self._waiters.add(Waiter(waiter_id, wanted, arrival, now, deadline_at, band=int(wanted.priority)))
        self._statistics.enqueued += 1
        self._changed(wanted.user)
        return Accepted(arrival)

    def cancel(self, waiter_id: str) -> bool:
        """Forget a waiter; False when it does not wait (any more): then its grant must be released."""
        waiter = self._waiters.remove(waiter_id)
        if waiter is None:
            return False
        self._statistics.cancelled += 1
        self._changed(waiter.wanted.user)
        return True

    def next_grants(self) -> list[GrantDecision]:
        """Lease idle sandboxes to those whose turn it is."""
        now = self._clock()
        if now < self._recovers_at:
            return []
        for user in self._waiters.age(now):
            self._changed(user)
        decisions: list[GrantDecision] = []
        while (waiter := self._turns.next()) is not None:
            decisions.append(self._grant(waiter, now))
        return [self._with_leave_to_retain(decision) for decision in decisions]

    def release(self, release: GrantRelease) -> bool:
        """End a lease; False when it is stale (ended, expired or of another epoch), and nothing happens."""
        lease = self._leases.by_id.get(release.grant_id)
        if lease is None or lease.granted.epoch != release.epoch:
            return False
        used_s = max(0.0, release.used_s)
        if release.programs > 0:
            self._costs.learn(lease.granted.user, used_s / release.programs)
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
        return [Expired(lease.granted.grant_id, lease.granted.sandbox_id, lease.granted.user) for lease in ended]

    def overdue(self) -> list[str]:
        """Drop the waiters whose deadline has passed; returns their ids."""
        late = self._waiters.overdue(self._clock())
        self._drop(late)
        return late

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
        """Keep a sandbox for one user; False unless it is idle, leased to that user, or pinned to them already."""
        pinned = self._slots.pin(sandbox_id, user)
        self._version += pinned
        return pinned

    def unpin(self, sandbox_id: str) -> tuple[str, ...]:
        """Let everybody have it again; returns the ids of waiters who wanted it, dropped now."""
        orphans = self._waiters.wanting(sandbox_id)
        self._drop(orphans)
        self._version += self._slots.unpin(sandbox_id)
        return tuple(orphans)

    # After a restart

    def reregister(self, granted: Grant) -> bool:
        """Recover a lease of an earlier epoch; ``granted.ttl_s`` is what is left of it.

        False when it is too late or the sandbox is leased to another: then the holder must not use it any more.
        """
        now = self._clock()
        if granted.grant_id in self._leases.by_id:
            return True
        if now >= self._recovers_at or not self._slots.adopt(granted.sandbox_id, granted.grant_id, granted.user, now):
            return False
        generation = self._slots.by_id[granted.sandbox_id].generation
        # What it cost is known only when it ends.
        self._leases.add(Lease(granted, generation, Priority.NORMAL, 0.0, now, now + granted.ttl_s))
        self._changed(granted.user)
        return True

    def recovered(self) -> None:
        """End the recovery early: every holder has spoken."""
        self._recovers_at = min(self._recovers_at, self._clock())
        self._version += 1

    def abandon(self) -> tuple[str, ...]:
        """End every lease, pin and wait, since their holder is gone; returns the waiters' ids."""
        for lease in list(self._leases.by_id.values()):
            self._end(lease, self._clock() - lease.since, healthy=False)
        for sandbox_id in list(self._slots.pinned):
            self._slots.unpin(sandbox_id)
        orphans = tuple(self._waiters.by_id)
        self._drop(orphans)
        return orphans

    def _grant(self, waiter: Waiter, now: float) -> GrantDecision:
        wanted = waiter.wanted
        slot = self._slots.choose(wanted.user) if wanted.sandbox_id is None else self._slots.pinned[wanted.sandbox_id]
        assert slot is not None, "whoever is next has a sandbox"
        switches = slot.last_user not in (None, wanted.user)
        estimate_s = self._costs.of(wanted)
        self._grants += 1
        grant_id = f"{self.epoch}-{self._grants}"
        granted = Grant(
            grant_id, slot.sandbox_id, wanted.backend, wanted.user, self.epoch, wanted.ttl_s, retainable=False
        )
        self._waiters.remove(waiter.waiter_id)
        self._slots.lease(slot, grant_id, wanted.user, now)
        self._leases.add(Lease(granted, slot.generation, waiter.band, estimate_s, now, now + wanted.ttl_s))
        self._turns.charge(wanted.user, waiter.band, estimate_s + (self._settings.switch_cost_s if switches else 0.0))
        self._changed(wanted.user)
        self._statistics.waited(now - waiter.enqueued_at)
        return GrantDecision(waiter.waiter_id, granted, slot.generation, wanted.programs)

    def _end(self, lease: Lease, used_s: float, healthy: bool) -> None:
        granted = lease.granted
        self._leases.remove(lease)
        self._slots.give_back(granted.sandbox_id, lease.generation, healthy, self._clock())
        # The estimate makes way for what was used; what was charged for a switch was spent.
        self._turns.charge(granted.user, lease.band, used_s - lease.estimate_s)
        self._changed(granted.user)

    def _with_leave_to_retain(self, decision: GrantDecision) -> GrantDecision:
        if self._waiters.users.keys() - {decision.granted.user}:
            return decision
        return replace(decision, granted=replace(decision.granted, retainable=True))

    def _drop(self, waiter_ids: Iterable[str]) -> None:
        for waiter_id in waiter_ids:
            waiter = self._waiters.remove(waiter_id)
            assert waiter is not None, "it waits"
            self._statistics.rejected += 1
            self._changed(waiter.wanted.user)

    def _changed(self, user: str) -> None:
        self._version += 1
        self._turns.changed(user)
