"""Whose turn it is: bands, caps, and turns within a band."""

from __future__ import annotations

from actors.config import QueueSettings
from actors.core.queue.costs import Costs
from actors.core.queue.deficit_round_robin import DeficitRoundRobin
from actors.core.queue.leases import Leases
from actors.core.queue.slots import Slots
from actors.core.queue.waiters import BANDS, Waiter, Waiters

LOWEST_BAND_EVERY = 10
"""One grant in so many goes to the lowest band that waits."""


class Turns:
    """Choose the next waiter to be granted a sandbox.

    A user is in a band's ring exactly while it waits there and is below its cap, so a capped user blocks nobody and
    saves up nothing. ``changed`` keeps that true; it is to be called whenever a user's waiters or leases change.
    """

    def __init__(
        self,
        settings: QueueSettings,
        concurrency: int,
        lone_user_may_use_idle: bool,
        waiters: Waiters,
        slots: Slots,
        leases: Leases,
        costs: Costs,
    ) -> None:
        self._cap, self._lone_may = settings.per_user_concurrency, lone_user_may_use_idle
        self.concurrency = concurrency
        """Leases that there may be at a time."""
        self._waiters, self._slots, self._leases, self._costs = waiters, slots, leases, costs
        self._rings = [DeficitRoundRobin(settings.quantum_s) for _ in range(BANDS)]
        self._passed_over = 0
        self.contenders: set[str] = set()
        """Users who wait and are below their cap."""

    def resize(self, concurrency: int) -> None:
        """Allow so many leases from now on; those that are too many end as they would."""
        self.concurrency = concurrency
        for user in self._waiters.users:
            self._update(user)

    def allowed(self, user: str) -> int:
        """Leases that the user may have now."""
        alone = self._waiters.users.keys() <= {user}
        return self.concurrency if self._lone_may and alone else min(self._cap, self.concurrency)

    def startable(self) -> int:
        """How many of those who wait would start at once if there were sandboxes enough."""
        running = self._leases.running
        by_user = (
            min(line.waiting, max(0, self.allowed(user) - running[user])) for user, line in self._waiters.users.items()
        )
        return min(sum(by_user), max(0, self.concurrency - len(self._leases)))

    def changed(self, user: str) -> None:
        self._update(user)
        # The second user to wait ends the first one's privilege, the last but one to leave brings it back.
        if self._lone_may and len(self._waiters.users) <= 2:
            for other in self._waiters.users:
                self._update(other)

    def next(self) -> Waiter | None:
        """Who is to be granted a sandbox now; None when nobody may run, or there is no sandbox."""
        if not self._slots.idle or len(self._leases) >= self.concurrency:
            return None
        heads = [(band, user) for band, ring in enumerate(self._rings) if (user := ring.head()) is not None]
        if not heads:
            return None
        band, user = heads[-1 if self._passed_over >= LOWEST_BAND_EVERY - 1 else 0]
        self._passed_over = self._passed_over + 1 if band < heads[-1][0] else 0
        waiter = self._waiters.head(user, band)
        assert waiter is not None, "a ring holds only users who wait"
        return waiter

    def charge(self, user: str, band: int, cost_s: float) -> None:
        """Count a cost towards the user's share; a negative one is a refund."""
        self._rings[band].charge(user, cost_s)

    def _update(self, user: str) -> None:
        running = self._leases.running[user]
        may_run = running < self.allowed(user)
        for band, ring in enumerate(self._rings):
            head = self._waiters.head(user, band)
            if may_run and head is not None:
                ring.join(user, self._costs.estimate_s(user, head.request.programs))
            else:
                ring.leave(user)
        if user in self._waiters.users and running < self._cap:
            self.contenders.add(user)
        else:
            self.contenders.discard(user)
