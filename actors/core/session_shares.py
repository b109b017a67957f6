"""Whose sessions may have how many of a backend's sandboxes, and for how long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from actors.config import SessionSettings
from actors.core.clock import Clock

PART = 4
"""One sandbox in so many is for runs without a session and, of the others, for users who have no session yet."""
WANTS_S = 60.0
"""How long a user who was refused counts as one who wants a session, beyond the time it was told to come back after."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A sandbox that is kept for a user's sessions."""

    sandbox_id: str
    user: str
    session: str
    """One of its sessions, to name it by."""
    open_s: float
    idle_s: float
    """How long nobody has used it; 0 while somebody does."""
    closes_in_s: float
    """When it will be closed for being idle, if it stays so."""

    def together(self, other: Holding) -> Holding:
        """The same of several sessions in one sandbox, which is free when the last of them is closed."""
        longest, shortest = (self, other) if self.idle_s >= other.idle_s else (other, self)
        return replace(
            shortest,
            session=longest.session,
            open_s=max(self.open_s, other.open_s),
            closes_in_s=max(self.closes_in_s, other.closes_in_s),
        )


@dataclass(frozen=True, slots=True)
class Admitted:
    """A session may be opened; ``yielding`` is the sandbox that has to be taken from other sessions for it."""

    yielding: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Why no session may be opened, and when to come back."""

    reason: str
    retry_after_s: float = 0.0


class SessionShares:
    """Share out the sandboxes of one backend among the sessions of its users.

    A reserve is never given to sessions. Of the others, users who have or want sessions may have equal shares; some are
    kept for who has none yet, so that a user who is alone cannot take all. What a user had got before others came, it
    keeps for ``assured_s``; then what is beyond its share goes to those who have less than theirs and ask for it.
    """

    def __init__(self, settings: SessionSettings, sandboxes: int, clock: Clock) -> None:
        reserve = settings.reserve or max(1, sandboxes // PART)
        self.shareable = max(0, sandboxes - reserve)
        """Sandboxes that sessions may have at a time."""
        self._kept_for_newcomers = self.shareable // PART
        self._assured_s, self._clock = settings.assured_s, clock
        self._wanted_until: dict[str, float] = {}

    def ask(self, user: str, held: Sequence[Holding], opening: Mapping[str, int]) -> Admitted | Refused:
        """Whether a user may open a session now, beside what is held and what users are just opening."""
        counts = Counter(holding.user for holding in held)
        counts.update(opening)
        answer = self._answer(user, held, +counts)
        self._wanted_until.pop(user, None)
        # With as many users as sandboxes every share is one, whoever else comes.
        if isinstance(answer, Refused) and len(self._wanted_until) < self.shareable:
            self._wanted_until[user] = self._clock() + answer.retry_after_s + WANTS_S
        return answer

    def _answer(self, user: str, held: Sequence[Holding], counts: Counter[str]) -> Admitted | Refused:
        if not self.shareable:
            return Refused("no sandbox of this backend may be kept for sessions; raise pool.max_size")
        users = self._users(user, counts)
        share, own = max(1, self.shareable // len(users)), counts[user]
        free = self.shareable - counts.total()
        if own >= share:
            return self._refused_for_share(user, held, own, len(users))
        if free > (self._kept_for_newcomers if own else 0):
            return Admitted()
        if len(users) == 1:
            return self._refused_for_share(user, held, own, 1)
        beyond = [holding for holding in held if counts[holding.user] > share and holding.user != user]
        yielding = [holding for holding in beyond if holding.open_s >= self._assured_s]
        if yielding:
            # Of whoever has most; rather what is not in use, and what was not for the longest.
            chosen = max(yielding, key=lambda holding: (counts[holding.user], holding.idle_s))
            return Admitted(yielding=chosen.sandbox_id)
        return self._refused_for_room(held, beyond, len(users))

    def _users(self, user: str, counts: Counter[str]) -> set[str]:
        """Who has or wants sessions."""
        now = self._clock()
        self._wanted_until = {name: until for name, until in self._wanted_until.items() if until > now}
        return {user, *counts, *self._wanted_until}

    def _refused_for_share(self, user: str, held: Sequence[Holding], own: int, users: int) -> Refused:
        among = f"that {users} users' sessions share" if users > 1 else "for sessions; the rest is for other users"
        reason = f"user {user} has {own} of the {self.shareable} sandboxes {among}"
        mine = [holding for holding in held if holding.user == user]
        if not mine:
            return Refused(f"{reason}; they are just being opened")
        oldest = max(mine, key=lambda holding: holding.idle_s)
        return Refused(f"{reason}; close one first, as session {oldest.session}", max(0.0, oldest.closes_in_s))

    def _refused_for_room(self, held: Sequence[Holding], beyond: Sequence[Holding], users: int) -> Refused:
        """No sandbox is free, and nobody has to yield one yet."""
        instants = [holding.closes_in_s for holding in held]
        instants += [self._assured_s - holding.open_s for holding in beyond]
        taken = f"all {self.shareable} sandboxes for sessions are taken or kept for other users, of {users}"
        return Refused(f"{taken}; a session must be closed first", max(0.0, min(instants, default=0.0)))
