"""The routing table of sessions: which sandbox each is pinned to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from actors.clients.sandboxes import SandboxClients
from actors.clients.singletons import QueueClient
from actors.config import Settings
from actors.errors import PoolExhausted, Rejected, ServiceError, UnknownSession
from actors.runs.grants import GrantKeeper, HeldGrant
from actors.schemas import ExecutionResult, GrantRequest, Limits, Outcome, Priority
from actors.schemas.action import Answer, Event, Followed, PauseSession, Performed, SessionInfo, StartCommand

log = logging.getLogger(__name__)
OFFERS_S = 3.0
"""Within this time the supervisor has offered every sandbox to a queue that was restarted."""


@dataclass(slots=True)
class SessionRecord:
    user: str
    held: HeldGrant
    """What it was opened on: the sandbox takes its tickets for as long as it is pinned."""
    opened_at: float
    used_at: float
    env: dict[str, str]
    limits: Limits
    forkable: bool = False
    fork: bool = False
    paused: bool = False
    followers: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One program at a time, also of the forks in the same sandbox: what they use is told apart."""

    @property
    def backend(self) -> str:
        return self.held.grant.backend

    @property
    def sandbox_id(self) -> str:
        return self.held.grant.sandbox_id

    @property
    def busy(self) -> bool:
        return self.lock.locked() or self.followers > 0


class SessionTable:
    """Open, route to and close sessions. Each has a sandbox to itself, which nobody else is given meanwhile."""

    def __init__(
        self,
        settings: Settings,
        grants: GrantKeeper,
        sandboxes: SandboxClients,
        queue: QueueClient,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._grants, self._sandboxes, self._queue = settings, grants, sandboxes, queue
        self._clock = clock
        self._sessions: dict[str, SessionRecord] = {}
        self._opening: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._sessions)

    async def open(
        self,
        user: str,
        backend: str,
        timeout_s: float,
        env: dict[str, str] | None = None,
        limits: Limits | None = None,
        forkable: bool = False,
    ) -> str:
        """Pin a sandbox to a new session of this user and return its id.

        All its programs and commands have ``env``, and its programs ``limits``, unless they say otherwise.

        Raises:
            Rejected: the user has too many, or no sandbox came free.
        """
        limit = self._settings.sessions.max_per_user
        open_now = sum(session.user == user and not session.fork for session in self._sessions.values())
        if self._opening[user] + open_now >= limit:
            raise Rejected(f"user {user} has {limit} sessions open already; close one first")
        self._opening[user] += 1  # before anything is waited for, else two could take the last place
        try:
            return await self._open(user, backend, timeout_s, env or {}, limits or Limits(), forkable)
        finally:
            self._opening[user] -= 1
            self._opening += Counter()  # drops who opens none: users come and go without end

    async def _open(
        self, user: str, backend: str, timeout_s: float, env: dict[str, str], limits: Limits, forkable: bool
    ) -> str:
        wanted = GrantRequest(backend, user, Priority.NORMAL, self._settings.queue.max_wait_s, timeout_s)
        held = await self._grants.acquire(wanted)
        session_id, sandbox_id = uuid.uuid4().hex, held.grant.sandbox_id
        healthy = False
        try:
            await self._sandboxes[sandbox_id].open_session(held.next_ticket(timeout_s), session_id, forkable, limits)
            await self._keep(backend, sandbox_id, user, session_id)
            now = self._clock()
            self._sessions[session_id] = SessionRecord(user, held, now, now, env, limits, forkable)
            healthy = True
        finally:
            self._grants.give_back(held, healthy)
        return session_id

    async def fork(self, user: str, session_id: str, count: int) -> list[str]:
        """Open ``count`` sessions that start from what this one has now, in the same sandbox; return their ids.

        Raises:
            Rejected: the user would have too many forks; ``UnknownSession``, ``SessionBusy``: of the session.
            ActionFailed, SandboxFailed: it does not fork; there are no new sessions.
        """
        session = self._of(user, session_id)
        limit = self._settings.sessions.max_forks_per_user
        forks = sum(other.user == user and other.fork for other in self._sessions.values())
        if forks + count > limit:
            raise Rejected(f"user {user} has {forks} forks of sessions open, and may have {limit}; close some first")
        async with session.lock:
            session.paused = False
            names = [uuid.uuid4().hex for _ in range(count)]
            await self._sandboxes[session.sandbox_id].fork_session(session_id, names)
            now = self._clock()
            session.used_at = now
            for name in names:
                self._sessions[name] = SessionRecord(
                    user, session.held, now, now, session.env, session.limits, True, True, lock=session.lock
                )
        return names

    async def _keep(self, backend: str, sandbox_id: str, user: str, session_id: str) -> None:
        """Pin the sandbox; where that fails nobody will know of the session in it."""
        try:
            await self._queue.pin(backend, sandbox_id, user)
        except ServiceError:
            with contextlib.suppress(ServiceError):
                await self._sandboxes[sandbox_id].close_session(session_id)
            raise

    @contextlib.asynccontextmanager
    async def use(self, user: str, session_id: str) -> AsyncIterator[SessionRecord]:
        """Hold the session for one program.

        Raises:
            UnknownSession: there is none of this name for this user.
        """
        session = self._of(user, session_id)
        async with session.lock:
            session.paused = False
            try:
                yield session
            finally:
                session.used_at = self._clock()

    async def perform(self, user: str, session_id: str, action: Performed) -> Answer:
        """Do something else in a session than running a program, also while one runs.

        Raises:
            UnknownSession: as ``use``.
            ActionFailed, SandboxLost, ActorUnavailable: it cannot be done, or nobody can tell.
        """
        session = self._of(user, session_id)
        session.used_at = self._clock()
        try:
            answer = await self._sandboxes[session.sandbox_id].perform(session_id, self._completed(session, action))
        except UnknownSession as error:
            self._forget_unless_context(session_id, error.code)
            raise
        session.paused = isinstance(action, PauseSession)
        session.used_at = self._clock()
        return answer

    async def follow(self, user: str, session_id: str, action: Followed) -> AsyncGenerator[Event]:
        """Like ``perform``, with what comes of it as it happens; the session is not idle meanwhile."""
        session = self._of(user, session_id)
        session.followers += 1
        session.paused = False
        try:
            following = self._sandboxes[session.sandbox_id].follow(session_id, self._completed(session, action))
            async with contextlib.aclosing(following) as events:
                async for event in events:
                    yield event
        except UnknownSession as error:
            self._forget_unless_context(session_id, error.code)
            raise
        finally:
            session.followers -= 1
            session.used_at = self._clock()

    def list(self, user: str | None) -> list[SessionInfo]:
        """The open sessions, of one user or of all, longest open first."""
        now = self._clock()
        return [
            SessionInfo(
                session=session_id,
                user=session.user,
                backend=session.backend,
                sandbox_id=session.sandbox_id,
                open_s=now - session.opened_at,
                idle_s=0.0 if session.busy else now - session.used_at,
                state="paused" if session.paused else "running",
            )
            for session_id, session in self._sessions.items()
            if user in (None, session.user)
        ]

    def note(self, session_id: str, result: ExecutionResult) -> None:
        """Forget a session that did not survive its program; one that lost only an interpreter is still there."""
        lost = result.may_have_run and (result.outcome is Outcome.INFRA or result.sandbox_spent)
        if lost or result.error_code == UnknownSession.code:
            self._forget(session_id, healthy=not lost)

    async def close(self, user: str, session_id: str) -> None:
        session = self._sessions.get(session_id)
        if session is None or session.user != user:
            return
        healthy = True
        try:
            await self._sandboxes[session.sandbox_id].close_session(session_id)
        except ServiceError as error:
            healthy = False
            log.info("session was gone already", extra={"session": session_id, "error": str(error)})
        self._forget(session_id, healthy)

    async def pin_again(self) -> None:
        """After a restart of the queue: have the sandboxes kept again; a session whose sandbox is gone is forgotten."""
        gives_up_at = self._clock() + OFFERS_S
        for session_id, session in list(self._sessions.items()):
            while True:
                try:
                    await self._queue.pin(session.backend, session.sandbox_id, session.user)
                except PoolExhausted:
                    if self._clock() >= gives_up_at:
                        self._forget(session_id)
                        break
                    await asyncio.sleep(0.1)
                else:
                    break

    async def close_idle(self) -> None:
        """Close every session that nobody used for ``idle_s``, and those paused for ``paused_s``."""
        now, settings = self._clock(), self._settings.sessions
        oldest, oldest_paused = now - settings.idle_s, now - settings.paused_s
        for session_id, session in list(self._sessions.items()):
            if session.used_at < (oldest_paused if session.paused else oldest) and not session.busy:
                await self.close(session.user, session_id)

    def _of(self, user: str, session_id: str) -> SessionRecord:
        session = self._sessions.get(session_id)
        if session is None or session.user != user:
            raise UnknownSession(f"session {session_id} is unknown, was closed, idled out or lost; open a new one")
        return session

    def _completed(self, session: SessionRecord, action: Any) -> Any:
        """Give a command the variables that all of its session and deployment have."""
        if not isinstance(action, StartCommand):
            return action
        return action.model_copy(update={"env": self._settings.env | session.env | action.env})

    def _forget_unless_context(self, session_id: str, code: str) -> None:
        if code == UnknownSession.code:  # else only an interpreter is lost
            self._forget(session_id)

    def _forget(self, session_id: str, healthy: bool = True) -> None:
        session = self._sessions.pop(session_id, None)
        # Forks live in the same sandbox, which is theirs for as long as one of them is open.
        if session is not None and not any(other.sandbox_id == session.sandbox_id for other in self._sessions.values()):
            self._queue.unpin(session.backend, session.sandbox_id, healthy)
