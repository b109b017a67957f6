"""The Orchestrator's table of sessions, and the sandboxes that they hold."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from typing import Any

from actors.clients.sandboxes import SandboxClients
from actors.clients.singletons import QueueClient
from actors.config import Settings
from actors.core.backoff import Backoff
from actors.errors import (
    ActorUnavailable,
    DeadlineUnreachable,
    Rejected,
    SandboxFailed,
    ServiceError,
    UnknownSession,
)
from actors.runs.grants import GrantKeeper
from actors.runs.session_places import SessionPlaces
from actors.runs.session_record import PinnedSandbox, SessionRecord
from actors.schemas import ExecutionResult, GrantRequest, Limits, Outcome, Priority
from actors.schemas.action import Answer, Event, Followed, PauseSession, Performed, SessionInfo, StartCommand

log = logging.getLogger(__name__)


class SessionTable:
    """Opens, routes to and closes sessions.

    A session's sandbox is pinned to it: the queue hands it to nobody, so the session's programs ask nobody but the
    sandbox. Forks share the sandbox of their origin and take turns in it.
    """

    def __init__(
        self,
        settings: Settings,
        grants: GrantKeeper,
        sandboxes: SandboxClients,
        queue: QueueClient,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._settings, self._grants, self._sandboxes, self._queue = settings, grants, sandboxes, queue
        self._clock = clock
        self._backoff = Backoff(settings.retry, rng or random.Random())
        self._records: dict[str, SessionRecord] = {}
        self._places = SessionPlaces(settings, self._records, clock)

    def __len__(self) -> int:
        return len(self._records)

    async def open(
        self,
        user: str,
        backend: str,
        timeout_s: float,
        env: dict[str, str] | None = None,
        limits: Limits | None = None,
        forkable: bool = False,
    ) -> str:
        """Pin a sandbox to a new session of this user and return its id, within ``timeout_s``.

        All its programs and commands have ``env``, and its programs ``limits``, unless they say otherwise. Where others
        have more than their share, a session of theirs may have to be closed for it.

        Raises:
            Rejected: the user has too many, or its share (``PoolExhausted``), or no sandbox came free.
            SandboxFailed, ActorUnavailable: sandbox after sandbox was lost before the session could have it.
        """
        with self._places.taken(user, backend) as yielding:
            if yielding is not None:
                await self._yield(yielding)
            return await self._open_and_retry(user, backend, timeout_s, env or {}, limits or Limits(), forkable)

    async def fork(self, user: str, session_id: str, count: int) -> list[str]:
        """Open ``count`` sessions that start from what this one has now, in the same sandbox; return their ids.

        Raises:
            Rejected: the user would have too many forks; ``UnknownSession``, ``SessionBusy``: of the session.
            ActionFailed, SandboxFailed: it does not fork; there are no new sessions.
        """
        record = self._record(user, session_id)
        most = self._settings.sessions.max_forks_per_user
        forks = sum(other.user == user and other.is_fork for other in self._records.values())
        if forks + count > most:
            raise Rejected(f"user {user} has {forks} forks of sessions open, and may have {most}; close some first")
        async with self.use(user, session_id, self._settings.queue.max_wait_s):
            names = [uuid.uuid4().hex for _ in range(count)]
            await self._sandboxes[record.sandbox_id].fork_session(session_id, names)
            now = self._clock()
            for name in names:
                self._add(name, SessionRecord(user, record.pinned, now, now, record.env, record.limits, is_fork=True))
        return names

    @contextlib.asynccontextmanager
    async def use(self, user: str, session_id: str, within_s: float) -> AsyncIterator[SessionRecord]:
        """Hold the session's sandbox for one program.

        Raises:
            UnknownSession: there is none of this name for this user (any more).
            DeadlineUnreachable: others held it for longer than ``within_s``.
        """
        record = self._record(user, session_id)
        record.uses += 1
        try:
            try:
                async with asyncio.timeout(within_s if record.pinned.turn.locked() else None):
                    await record.pinned.turn.acquire()
            except TimeoutError:
                raise DeadlineUnreachable("the session's other programs did not end in time") from None
            try:
                # It may have been closed or lost meanwhile.
                yield self._record(user, session_id)
            finally:
                record.pinned.turn.release()
        finally:
            record.uses -= 1
            record.paused, record.used_at = False, self._clock()

    async def perform(self, user: str, session_id: str, action: Performed) -> Answer:
        """Do something else in a session than running a program, also while one runs.

        Raises:
            UnknownSession: as ``use``.
            ActionFailed, SandboxLost, ActorUnavailable: it cannot be done, or nobody can tell.
        """
        record = self._record(user, session_id)
        record.used_at = self._clock()
        try:
            answer = await self._sandboxes[record.sandbox_id].perform(session_id, self._completed(record, action))
        except UnknownSession as error:
            self._forget_unless_context(session_id, error.code)
            raise
        record.paused = isinstance(action, PauseSession)
        record.used_at = self._clock()
        return answer

    async def follow(self, user: str, session_id: str, action: Followed) -> AsyncGenerator[Event]:
        """Like ``perform``, with what comes of it as it happens; the session is not idle meanwhile."""
        record = self._record(user, session_id)
        record.uses += 1
        record.paused = False
        try:
            following = self._sandboxes[record.sandbox_id].follow(session_id, self._completed(record, action))
            async with contextlib.aclosing(following) as events:
                async for event in events:
                    yield event
        except UnknownSession as error:
            self._forget_unless_context(session_id, error.code)
            raise
        finally:
            record.uses -= 1
            record.used_at = self._clock()

    def infos(self, user: str | None) -> list[SessionInfo]:
        """The open sessions, of one user or of all, longest open first."""
        now = self._clock()
        return [
            SessionInfo(
                session=session_id,
                user=record.user,
                backend=record.backend,
                sandbox_id=record.sandbox_id,
                open_s=now - record.opened_at,
                idle_s=record.idle_s(now),
                state="paused" if record.paused else "running",
            )
            for session_id, record in self._records.items()
            if user in (None, record.user)
        ]

    def note(self, session_id: str, result: ExecutionResult) -> None:
        """Forget a session that did not survive its program; one that lost only an interpreter is still there."""
        lost = result.may_have_run and (result.outcome is Outcome.INFRA or result.sandbox_spent)
        if lost or result.error_code == UnknownSession.code:
            # One that does not know the session is none the worse for it.
            self._forget(session_id, healthy=not lost)

    async def close(self, user: str, session_id: str) -> None:
        """End a session of this user; one that is gone is no error."""
        record = self._records.get(session_id)
        if record is None or record.user != user:
            return
        healthy = True
        try:
            await self._sandboxes[record.sandbox_id].close_session(session_id)
        except ServiceError as error:
            log.info("session was gone already", extra={"session": session_id, "error": str(error)})
            healthy = False
        self._forget(session_id, healthy)

    async def close_idle(self) -> None:
        """Close every session that nobody used for ``idle_s``, and those paused for ``paused_s``."""
        now = self._clock()
        for session_id, record in list(self._records.items()):
            if record.idle_s(now) > self._places.may_idle_s(record):
                await self.close(record.user, session_id)

    def pins(self) -> list[tuple[str, str, str]]:
        """Backend, sandbox and user of every sandbox that sessions hold, for a queue that was restarted."""
        return sorted({(record.backend, record.sandbox_id, record.user) for record in self._records.values()})

    def lose(self, sandbox_ids: Iterable[str]) -> None:
        """Forget the sessions in sandboxes that are gone."""
        gone = set(sandbox_ids)
        for session_id, record in list(self._records.items()):
            if record.sandbox_id in gone:
                log.warning("session lost", extra={"session": session_id, "sandbox_id": record.sandbox_id})
                self._forget(session_id, healthy=False)

    async def _yield(self, pinned: PinnedSandbox) -> None:
        """Close the sessions of a user who has more than its share."""
        for session_id in list(pinned.sessions):
            record = self._records[session_id]
            record.made_way = True
            log.warning("session closed for another user's", extra={"session": session_id, "user": record.user})
            await self.close(record.user, session_id)

    async def _open_and_retry(
        self, user: str, backend: str, timeout_s: float, env: dict[str, str], limits: Limits, forkable: bool
    ) -> str:
        gives_up_at = self._clock() + timeout_s
        attempt = 0
        while True:
            left_s = gives_up_at - self._clock()
            try:
                return await self._open_in_sandbox(user, backend, left_s, env, limits, forkable)
            except (SandboxFailed, ActorUnavailable) as error:
                attempt += 1
                delay_s = self._backoff.next_delay(attempt, gives_up_at - self._clock())
                if delay_s is None or not error.retryable:
                    raise
                log.info("opening in another sandbox", extra={"user": user, "error": str(error)})
                await asyncio.sleep(delay_s)

    async def _open_in_sandbox(
        self, user: str, backend: str, within_s: float, env: dict[str, str], limits: Limits, forkable: bool
    ) -> str:
        held = await self._grants.acquire(GrantRequest(backend, user, Priority.NORMAL, within_s, within_s))
        session_id, sandbox_id = uuid.uuid4().hex, held.grant.sandbox_id
        healthy = False
        try:
            sandbox = self._sandboxes[sandbox_id]
            await sandbox.open_session(held.next_ticket(within_s), session_id, forkable, limits)
            await self._pin(backend, sandbox_id, user, session_id)
            now = self._clock()
            self._add(session_id, SessionRecord(user, PinnedSandbox(backend, sandbox_id), now, now, env, limits))
            healthy = True
        finally:
            # A sandbox that is pinned stays so: no grant on it is given to anybody until it is unpinned.
            self._grants.give_back(held, healthy)
        return session_id

    async def _pin(self, backend: str, sandbox_id: str, user: str, session_id: str) -> None:
        """Pin the sandbox; where that fails nobody will know of the session in it."""
        try:
            await self._queue.pin(backend, sandbox_id, user)
        except ServiceError:
            with contextlib.suppress(ServiceError):
                await self._sandboxes[sandbox_id].close_session(session_id)
            raise

    def _record(self, user: str, session_id: str) -> SessionRecord:
        record = self._records.get(session_id)
        if record is None or record.user != user:
            raise UnknownSession(
                f"session {session_id} is unknown, was closed, idled out, was lost or had to make way; open a new one"
            )
        return record

    def _completed(self, record: SessionRecord, action: Any) -> Any:
        """Give a command the variables that all of its session and deployment have."""
        if not isinstance(action, StartCommand):
            return action
        return action.model_copy(update={"env": self._settings.env | record.env | action.env})

    def _add(self, session_id: str, record: SessionRecord) -> None:
        self._records[session_id] = record
        record.pinned.sessions.add(session_id)

    def _forget_unless_context(self, session_id: str, code: str) -> None:
        if code == UnknownSession.code:  # else only an interpreter is lost
            self._forget(session_id)

    def _forget(self, session_id: str, healthy: bool = True) -> None:
        record = self._records.pop(session_id, None)
        if record is None:
            return
        record.pinned.sessions.discard(session_id)
        if not record.pinned.sessions:
            self._queue.unpin(record.backend, record.sandbox_id, healthy)
