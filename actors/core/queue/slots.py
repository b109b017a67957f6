"""The sandboxes that a queue hands out: which are idle, leased, pinned or in doubt."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum


class SlotUse(StrEnum):
    IDLE = "idle"
    LEASED = "leased"
    SUSPECT = "suspect"
    """Something in it may be wrong, or still running: unused until it is offered again."""


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """What withdrawing a sandbox met."""

    leased: bool
    """It may still be running a program: wait for its release, or for the lease's end, before stopping it."""
    pinned: bool
    """It was kept for sessions, which are lost with it."""


@dataclass(eq=False, slots=True)
class Slot:
    """One sandbox, and what it is used for."""

    sandbox_id: str
    generation: int | None
    """What is in it; None until it is offered."""
    use: SlotUse = SlotUse.IDLE
    offered: bool = True
    """False when withdrawn while leased, or known only from a holder: it goes once nobody holds it."""
    last_user: str | None = None
    """Whom it serves or served last; None when what is in it has served nobody."""
    pinned_to: str | None = None
    """The user whose sessions it is kept for."""


class Slots:
    """Every sandbox that was offered and not withdrawn, each in exactly one use. Every method takes O(1).

    A pin is a mark beside the use: what is pinned is handed to nobody. A sandbox that is leased and pinned is both to
    the same user.
    """

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

    def offer(self, sandbox_id: str, generation: int) -> None:
        """Make a sandbox available: a new one, a suspect one found well, or one with a new generation inside.

        A lease or a pin on it stays: it is idle only when that ends.
        """
        slot = self.by_id.get(sandbox_id)
        if slot is None:
            slot = self.by_id[sandbox_id] = Slot(sandbox_id, generation)
        else:
            self._unfile(slot)
            if slot.use is not SlotUse.LEASED:
                slot.use = SlotUse.IDLE
                if slot.generation not in (None, generation):
                    slot.last_user = None
            slot.generation, slot.offered = generation, True
        self._file(slot)

    def withdraw(self, sandbox_id: str) -> Withdrawal:
        """Give a sandbox to nobody any more; one that is leased is forgotten when its lease ends."""
        slot = self.by_id.get(sandbox_id)
        if slot is None:
            return Withdrawal(leased=False, pinned=False)
        self._unfile(slot)
        slot.offered = False
        pinned = self._take_mark_off(slot)
        self._forget_unless_held(slot)
        return Withdrawal(leased=slot.use is SlotUse.LEASED, pinned=pinned)

    def choose(self, user: str) -> Slot | None:
        """The best idle sandbox for a user: its own last one, else an unused one, else the longest idle."""
        for last_user in (user, None):
            if own := self._by_last_user.get(last_user):
                return next(reversed(own.values()))
        return next(iter(self._idle.values()), None)

    def lease(self, slot: Slot, user: str) -> None:
        self._unfile(slot)
        slot.use, slot.last_user = SlotUse.LEASED, user

    def give_back(self, sandbox_id: str, generation: int | None, healthy: bool) -> None:
        """End a lease. What a holder says of the health of an older generation no longer matters."""
        slot = self.by_id[sandbox_id]
        well = healthy or generation not in (None, slot.generation)
        slot.use = SlotUse.IDLE if well else SlotUse.SUSPECT
        self._forget_unless_held(slot)
        self._file(slot)

    def pin(self, sandbox_id: str, user: str) -> bool:
        """Keep a sandbox for a user's sessions; False unless it is idle or leased to that user, and no other's."""
        slot = self.by_id.get(sandbox_id)
        if slot is None or not slot.offered or slot.use is SlotUse.SUSPECT:
            return False
        return self._mark(slot, user)

    def unpin(self, sandbox_id: str, *, healthy: bool = True) -> None:
        """Let everybody have a sandbox again; an unhealthy one only after it is offered again."""
        slot = self.pinned.get(sandbox_id)
        if slot is None:
            return
        self._take_mark_off(slot)
        if not healthy and slot.use is SlotUse.IDLE:
            slot.use = SlotUse.SUSPECT
        self._forget_unless_held(slot)
        self._file(slot)

    # What holders report after a restart, also of sandboxes that are not offered yet

    def adopt(self, sandbox_id: str, user: str) -> bool:
        """Record a lease; False when the sandbox is leased, or pinned to another."""
        slot = self._reported(sandbox_id)
        if slot.use is SlotUse.LEASED or slot.pinned_to not in (None, user):
            return False
        self.lease(slot, user)
        return True

    def adopt_pin(self, sandbox_id: str, user: str) -> bool:
        """Record a pin; False when the sandbox is leased or pinned to another."""
        return self._mark(self._reported(sandbox_id), user)

    def _reported(self, sandbox_id: str) -> Slot:
        return self.by_id.setdefault(sandbox_id, Slot(sandbox_id, generation=None, offered=False))

    def _mark(self, slot: Slot, user: str) -> bool:
        if slot.pinned_to not in (None, user) or (slot.use is SlotUse.LEASED and slot.last_user != user):
            return False
        self._unfile(slot)
        slot.pinned_to = user
        self.pinned[slot.sandbox_id] = slot
        return True

    def _take_mark_off(self, slot: Slot) -> bool:
        slot.pinned_to = None
        return self.pinned.pop(slot.sandbox_id, None) is not None

    def _forget_unless_held(self, slot: Slot) -> None:
        if not slot.offered and slot.use is not SlotUse.LEASED and slot.pinned_to is None:
            del self.by_id[slot.sandbox_id]

    def _file(self, slot: Slot) -> None:
        """Put it with the idle ones if it is one."""
        if slot.offered and slot.use is SlotUse.IDLE and slot.pinned_to is None:
            self._idle[slot.sandbox_id] = slot
            self._by_last_user.setdefault(slot.last_user, OrderedDict())[slot.sandbox_id] = slot

    def _unfile(self, slot: Slot) -> None:
        if self._idle.pop(slot.sandbox_id, None) is not None:
            own = self._by_last_user[slot.last_user]
            del own[slot.sandbox_id]
            if not own:
                del self._by_last_user[slot.last_user]
