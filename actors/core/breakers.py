"""The breakers of one backend: one that all its users share, and one of each user's own.

A user whose calls fail is stopped by its own. Calls of everybody stop only when the backend fails for several users, so
that no user can have another's runs refused.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from actors.config import BreakerSettings
from actors.core.breaker import Breaker, BreakerRefusal, BreakerSnapshot, BreakerState, admit
from actors.core.clock import Clock

MAX_USERS = 10_000
"""Most users that are remembered; the one that was silent longest is forgotten first."""


class CallPermit(NamedTuple):
    """Leave for one call of a backend by a user, with the generations of both breakers."""

    backend: str
    user: str
    shared: int = 0
    own: int = 0


class CallOutcome(NamedTuple):
    """How a permitted call went, and how long it took without the programs' own time."""

    permit: CallPermit
    ok: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class BackendSnapshot:
    """What a backend's breakers know at one instant."""

    shared: BreakerSnapshot
    users: dict[str, BreakerSnapshot] = field(default_factory=dict)
    """Of those users alone whose breaker is not as new."""

    def of(self, user: str) -> list[BreakerSnapshot]:
        """Return the snapshots that a call of this user depends on: the shared one, and its own if there is one."""
        own = self.users.get(user)
        return [self.shared] if own is None else [self.shared, own]

    def permit(self, backend: str, user: str) -> CallPermit:
        """Return a permit of the present generations."""
        own = self.users.get(user)
        return CallPermit(backend, user, self.shared.generation, 0 if own is None else own.generation)


def first_refusal(
    snapshots: list[BreakerSnapshot], age_s: float, rng: random.Random, idle_s: float
) -> tuple[BreakerSnapshot, BreakerRefusal] | None:
    """Ask each breaker for leave to make one call, as ``admit`` does; return the one that refuses."""
    for snapshot in snapshots:
        answer = admit(snapshot, age_s, rng, idle_s)
        if isinstance(answer, BreakerRefusal):
            return snapshot, answer
    return None


class BackendBreakers:
    """The state of one backend's breakers. Those of users begin closed, whatever a restart has lost."""

    def __init__(
        self,
        settings: BreakerSettings,
        clock: Clock,
        rng: random.Random,
        *,
        cautious: bool = False,
        generation: int = 0,
    ) -> None:
        self._settings, self._clock, self._rng = settings, clock, rng
        self.shared = Breaker(
            settings, clock, rng, min_users=settings.min_users, cautious=cautious, generation=generation
        )
        self._users: OrderedDict[str, Breaker] = OrderedDict()
        self._moved: set[str] = set()

    @property
    def stopped_users(self) -> int:
        """How many users are stopped, or let back step by step, by their own breaker."""
        return sum(self._users[user].state is not BreakerState.CLOSED for user in self._moved)

    def report(self, outcome: CallOutcome) -> None:
        """Count the outcome of a permitted call."""
        permit = outcome.permit
        self.shared.report(permit.shared, outcome.ok, outcome.seconds, permit.user)
        own = self._users.get(permit.user)
        if own is None:
            own = self._users[permit.user] = Breaker(self._settings, self._clock, self._rng)
            if len(self._users) > MAX_USERS:
                self._moved.discard(self._users.popitem(last=False)[0])
        self._users.move_to_end(permit.user)
        own.report(permit.own, outcome.ok, outcome.seconds, permit.user)
        if own.generation > 0:
            self._moved.add(permit.user)

    def snapshot(self) -> BackendSnapshot:
        return BackendSnapshot(self.shared.snapshot(), {user: self._users[user].snapshot() for user in self._moved})
