"""The sandboxes that a queue hands out: which are idle, leased, pinned or in doubt."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum


class SlotUse(StrEnum):
    IDLE = "idle"
    LEASED = "leased"
    SUSPECT = "suspect"
    """Its lease ran out or its holder called it unhealthy: unused until it is offered again."""


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """What withdrawing a sandbox met."""

    known: bool
    leased: bool
    """It may still be running a program: wait for its release, or for the lease's end, before stopping it."""
    orphans: tuple[str, ...] = ()
    """Waiters who wanted this very sandbox. The queue has dropped them; tell them."""


@dataclass(eq=False, slots=True)
class Slot:
    sandbox_id: str
    generation: int
    since: float
    """When its use last changed."""
    use: SlotUse = SlotUse.IDLE
    offered: bool = True
    """False when withdrawn while leased, or known only from a holder: it goes once its lease ends."""
    grant_id: str | None = None
    last_user: str | None = None
    pinned_to: str | None = None

    @property
    def ready(self) -> bool:
        """Whether it can be leased now."""
        return self.use is SlotUse.IDLE and self.offered


class Slots:
    """Every sandbox that was offered and not withdrawn, each in exactly one use. Every method takes O(1)."""

    def __init__(self) -> None:
        self.by_id: dict[str, Slot] = {}
        self.pinned: dict[str, Slot] = {}
        # Idle and not pinned, longest idle first; an OrderedDict gives its first entry in O(1) after many deletions.
        self._idle: OrderedDict[str, Slot] = OrderedDict()
        self._by_last_user: dict[str | None, OrderedDict[str, Slot]] = {}

    @property
    def idle(self) -> int:
        """Sandboxes that anybody may have now."""
        return len(self._idle)

    def offer(self, sandbox_id: str, generation: int, now: float) -> None:
        """Make a sandbox available: a new one, a suspect one found well, or one with a new generation inside.

        A lease on it stays: it is idle only when that ends.
        """
        slot = self.by_id.get(sandbox_id)
        if slot is None:
            slot = self.by_id[sandbox_id] = Slot(sandbox_id, generation, now)
            self._file(slot)
            return
        self._unfile(slot)
        slot.offered = True
        if generation != slot.generation:
            slot.generation, slot.last_user = generation, None
        if slot.use is SlotUse.SUSPECT:
            slot.use, slot.since = SlotUse.IDLE, now
        self._file(slot)

    def withdraw(self, sandbox_id: str) -> Withdrawal:
        slot = self.by_id.get(sandbox_id)
        if slot is None:
            return Withdrawal(known=False, leased=False)
        self._unfile(slot)
        slot.offered = False
        self.unpin(sandbox_id)
        if slot.use is SlotUse.LEASED:
            return Withdrawal(known=True, leased=True)
        del self.by_id[sandbox_id]
        return Withdrawal(known=True, leased=False)

    def choose(self, user: str) -> Slot | None:
        """The best idle sandbox for a user: its own last one, else an unused one, else the longest idle."""
        for last_user in (user, None):
            if own := self._by_last_user.get(last_user):
                return next(reversed(own.values()))
        return next(iter(self._idle.values()), None)

    def lease(self, slot: Slot, grant_id: str, user: str, now: float) -> None:
        self._unfile(slot)
        slot.use, slot.since, slot.grant_id, slot.last_user = SlotUse.LEASED, now, grant_id, user

    def adopt(self, sandbox_id: str, grant_id: str, user: str, now: float) -> bool:
        """Record a lease that its holder reports; False when the sandbox is leased to another grant."""
        slot = self.by_id.get(sandbox_id)
        if slot is None:
            slot = self.by_id[sandbox_id] = Slot(sandbox_id, generation=0, since=now, offered=False)
        elif slot.use is SlotUse.LEASED:
            return slot.grant_id == grant_id
        self.lease(slot, grant_id, user, now)
        return True

    def give_back(self, sandbox_id: str, generation: int, healthy: bool, now: float) -> None:
        """End a lease. What a holder says of the health of an older generation no longer matters."""
        slot = self.by_id[sandbox_id]
        slot.grant_id = None
        if not slot.offered:
            del self.by_id[sandbox_id]
            return
        well = healthy or slot.generation != generation
        slot.use, slot.since = SlotUse.IDLE if well else SlotUse.SUSPECT, now
        self._file(slot)

    def pin(self, sandbox_id: str, user: str) -> bool:
        """Keep a sandbox for one user alone; False when it is unknown, pinned or leased to another."""
        slot = self.by_id.get(sandbox_id)
        if slot is None or not slot.offered or slot.pinned_to not in (None, user):
            return False
        if slot.use is SlotUse.SUSPECT or (slot.use is SlotUse.LEASED and slot.last_user != user):
            return False
        self._unfile(slot)
        slot.pinned_to = user
        self.pinned[sandbox_id] = slot
        return True

    def unpin(self, sandbox_id: str) -> bool:
        slot = self.pinned.pop(sandbox_id, None)
        if slot is None:
            return False
        slot.pinned_to = None
        self._file(slot)
        return True

    def _file(self, slot: Slot) -> None:
        if slot.ready and slot.pinned_to is None:
            self._idle[slot.sandbox_id] = slot
            self._by_last_user.setdefault(slot.last_user, OrderedDict())[slot.sandbox_id] = slot

    def _unfile(self, slot: Slot) -> None:
        if self._idle.pop(slot.sandbox_id, None) is not None:
            own = self._by_last_user[slot.last_user]
            del own[slot.sandbox_id]
            if not own:
                del self._by_last_user[slot.last_user]
