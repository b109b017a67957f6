"""Whether a run may wait at all."""

from __future__ import annotations

from actors.config import QueueSettings
from actors.core.queue.costs import Costs
from actors.core.queue.leases import Leases
from actors.core.queue.reports import Refusal, Refused
from actors.core.queue.slots import Slots
from actors.core.queue.turns import Turns
from actors.core.queue.waiters import Waiters
from actors.schemas import GrantRequest


class Admission:
    """Refuse what would only wait to fail: too many wait already, or its deadline would come first.

    The expected wait leans towards zero, since refusing a run that could have been served is the worse mistake: it is
    zero while there is a sandbox for the user, and afterwards counts only what surely goes first.
    """

    def __init__(
        self, settings: QueueSettings, waiters: Waiters, slots: Slots, leases: Leases, costs: Costs, turns: Turns
    ) -> None:
        self._settings, self._turns = settings, turns
        self._waiters, self._slots, self._leases, self._costs = waiters, slots, leases, costs

    def refusal(self, request: GrantRequest, now: float) -> Refused | None:
        """Why the request may not wait, and when to try again; None when it may."""
        settings, user = self._settings, request.user
        if len(self._waiters) >= settings.max_depth:
            drained_s = sum(self._waiters.programs) * self._costs.service_s / self._turns.concurrency
            return self._refused(Refusal.QUEUE_FULL, drained_s)
        line = self._waiters.users.get(user)
        if line is not None and line.waiting >= settings.max_depth_per_user:
            own_s = sum(line.programs) * self._costs.per_program_s(user)
            return self._refused(Refusal.USER_QUEUE_FULL, own_s / self._turns.allowed(user))
        bound_s = min(request.deadline_s, settings.max_wait_s)
        excess_s = self._expected_wait_s(request, now) - bound_s
        return self._refused(Refusal.DEADLINE, excess_s) if excess_s > 0 or bound_s <= 0 else None

    def _expected_wait_s(self, request: GrantRequest, now: float) -> float:
        """Until the first running lease should end, and what is ahead of a newcomer in its turns and at its cap."""
        user, concurrency = request.user, self._turns.concurrency
        allowed = self._turns.allowed(user)
        if self._slots.idle and self._leases.running[user] < allowed and len(self._leases) < concurrency:
            return 0.0
        bands = request.priority + 1
        line = self._waiters.users.get(user)
        own_s = 0.0 if line is None else sum(line.programs[:bands]) * self._costs.per_program_s(user)
        all_s = sum(self._waiters.programs[:bands]) * self._costs.service_s
        # While it works off its own backlog, others who wait get as much each, if they have as much.
        in_turns_s = min(own_s * len(self._waiters.users), max(all_s, own_s)) / concurrency
        return self._leases.soonest_end_s(now) + max(in_turns_s, own_s / allowed)

    def _refused(self, reason: Refusal, retry_after_s: float) -> Refused:
        return Refused(reason, min(max(retry_after_s, 0.05), self._settings.max_wait_s))
