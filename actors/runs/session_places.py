"""Who may open a session, and whose sandbox has to be yielded for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from actors.config import Settings
from actors.core.session_shares import Holding, Refused, SessionShares
from actors.errors import PoolExhausted, Rejected
from actors.runs.session_record import PinnedSandbox, SessionRecord


class SessionPlaces:
    """Counts what users have, and what they are just opening, against what each may have."""

    def __init__(self, settings: Settings, records: Mapping[str, SessionRecord], clock: Callable[[], float]) -> None:
        self._settings, self._records, self._clock = settings.sessions, records, clock
        self._opening: Counter[tuple[str, str]] = Counter()
        """By backend and user."""
        self._shares = {
            name: SessionShares(settings.sessions, row.pool.max_size, clock) for name, row in settings.backends.items()
        }

    @contextmanager
    def taken(self, user: str, backend: str) -> Iterator[PinnedSandbox | None]:
        """Let a user open a session meanwhile; gives the sandbox that others have to yield first, if they have to.

        Raises:
            Rejected: the user has too many.
            PoolExhausted: the user has its share, or no sandbox can be had.
        """
        most = self._settings.max_per_user
        open_now = sum(record.user == user and not record.is_fork for record in self._records.values())
        opening = sum(count for (_, opener), count in self._opening.items() if opener == user)
        if opening + open_now >= most:
            raise Rejected(f"user {user} has {most} sessions open already; close one first")
        yielding = self._admitted(user, backend)
        self._opening[backend, user] += 1  # before anything is waited for, else two could take the last place
        try:
            yield yielding
        finally:
            self._opening[backend, user] -= 1
            self._opening += Counter()  # drops who opens none: users come and go without end
            if yielding is not None:
                yielding.yielding = False  # of what was given up half-way, the rest stays

    def may_idle_s(self, record: SessionRecord) -> float:
        """How long nobody may use a session before it is closed."""
        return self._settings.paused_s if record.paused else self._settings.idle_s

    def _admitted(self, user: str, backend: str) -> PinnedSandbox | None:
        opening = {opener: count for (name, opener), count in self._opening.items() if name == backend}
        answer = self._shares[backend].ask(user, list(self._holdings(backend).values()), opening)
        if isinstance(answer, Refused):
            raise PoolExhausted(answer.reason, answer.retry_after_s)
        if answer.yielding is None:
            return None
        pinned = {record.sandbox_id: record.pinned for record in self._records.values()}
        pinned[answer.yielding].yielding = True  # at once, so that nobody else is promised the same one
        return pinned[answer.yielding]

    def _holdings(self, backend: str) -> dict[str, Holding]:
        """The sandboxes of a backend that sessions hold, but for those that are being yielded."""
        now, found = self._clock(), dict[str, Holding]()
        for session_id, record in self._records.items():
            if record.backend != backend or record.pinned.yielding:
                continue
            idle_s = record.idle_s(now)
            closes_in_s = self.may_idle_s(record) - idle_s
            place = record.sandbox_id
            holding = Holding(place, record.user, session_id, now - record.opened_at, idle_s, closes_in_s)
            found[place] = found[place].together(holding) if place in found else holding
        return found
