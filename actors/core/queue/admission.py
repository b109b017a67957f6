"""Whether a run may wait at all."""

from __future__ import annotations

from collections.abc import Iterable

from actors.config import QueueSettings
from actors.core.queue.leases import Costs, Leases
from actors.core.queue.reports import Refusal, Refused
from actors.core.queue.slots import Slots
from actors.core.queue.turns import Turns
from actors.core.queue.waiters import Backlog, Waiters
from actors.schemas import GrantRequest


class Admission:
    """Refuse what would only wait to fail: too many wait already, or its deadline would come first.

    The expected wait leans towards zero, since refusing a run that could have been served is the worse mistake: it is
    zero while there is a sandbox for the user, and afterwards counts only what surely goes first.
    """

    def __init__(
        self,
        settings: QueueSettings,
        waiters: Waiters,
        slots: Slots,
        leases: Leases,
        costs: Costs,
        turns: Turns,
    ) -> None:
        self._settings, self._waiters, self._slots = settings, waiters, slots
        self._leases, self._costs, self._turns = leases, costs, turns

    def refusal(self, wanted: GrantRequest, now: float) -> Refused | None:
        settings = self._settings
        line = self._waiters.users.get(wanted.user)
        if len(self._waiters) >= settings.max_depth:
            drained_s = _total_s(self._waiters.backlogs, self._costs.service_s) / self._turns.concurrency
            return Refused(Refusal.QUEUE_FULL, self._bounded(drained_s))
        if line is not None and line.waiting >= settings.max_depth_per_user:
            own_s = _total_s(line.backlogs, self._costs.per_program_s(wanted.user))
            return Refused(Refusal.USER_QUEUE_FULL, self._bounded(own_s / self._turns.allowed(wanted.user)))
        if wanted.sandbox_id is not None:
            slot = self._slots.pinned.get(wanted.sandbox_id)
            mine = slot is not None and slot.pinned_to == wanted.user
            return None if mine else Refused(Refusal.NOT_PINNED)
        bound_s = min(wanted.deadline_s, settings.max_wait_s)
        excess_s = self.expected_wait_s(wanted, now) - bound_s
        return Refused(Refusal.DEADLINE, self._bounded(excess_s)) if excess_s > 0 or bound_s <= 0 else None

    def expected_wait_s(self, wanted: GrantRequest, now: float) -> float:
        """Until the first running lease should end, and what is ahead of a newcomer in its turns and at its cap."""
        allowed = self._turns.allowed(wanted.user)
        below_cap = self._leases.running[wanted.user] < allowed
        if self._slots.idle and below_cap and len(self._leases) < self._turns.concurrency:
            return 0.0
        bands = wanted.priority + 1
        line = self._waiters.users.get(wanted.user)
        own_s = 0.0 if line is None else _total_s(line.backlogs[:bands], self._costs.per_program_s(wanted.user))
        all_s = _total_s(self._waiters.backlogs[:bands], self._costs.service_s)
        # While it works off its own backlog, others who wait get as much each, if they have as much.
        in_turns_s = min(own_s * len(self._waiters.users), max(all_s, own_s)) / self._turns.concurrency
        first_end_s = self._leases.soonest_end_s(now) if self._leases else 0.0
        return first_end_s + max(in_turns_s, own_s / allowed)

    def _bounded(self, retry_after_s: float) -> float:
        return min(max(retry_after_s, 0.05), self._settings.max_wait_s)


def _total_s(backlogs: Iterable[Backlog], per_program_s: float) -> float:
    return sum(backlog.cost_s(per_program_s) for backlog in backlogs)
