"""The Sandbox actor: a stable slot with one backend sandbox in it at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from actors.backends import specs
from actors.backends.base import BackendSandbox, Emit
from actors.backends.output import as_it_happens
from actors.config import Settings
from actors.errors import (
    InvalidRequest,
    SandboxFailed,
    SandboxLost,
    SandboxStartFailed,
    ServiceError,
    StaleGrant,
    Throttled,
    UnknownSession,
)
from actors.schemas import (
    GrantTicket,
    Limits,
    Outcome,
    OutputEvent,
    Program,
    ProgramReport,
    SandboxAnswer,
    SandboxStatus,
)
from actors.schemas.action import Answer, Event, Followed, Performed
from actors.tasks import Tasks

GIVEN_UP_S = 3.0
"""A run that its caller gave up is killed within this time."""
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Occupant:
    """The backend sandbox that is in the slot now."""

    sandbox: BackendSandbox
    generation: int
    born_at: float
    user: str | None = None
    executions: int = 0
    spent: bool = False
    sessions: set[str] = field(default_factory=set)


class Sandbox:
    """Run programs for one user at a time, each in a pristine place, and never twice on one grant.

    The sandbox inside is replaced, by a successor made ready beforehand, when another user comes, when it has served
    ``max_executions`` runs or lived ``max_age_s``, and when it failed. The actor itself is never restarted: if its
    process dies, its sandbox, sessions and kept answers are lost and the supervisor makes another.
    """

    def __init__(self, sandbox_id: str, backend: str, settings: Settings) -> None:
        self._sandbox_id, self._spec = sandbox_id, specs.table(settings)[backend]
        self._backend, self._pool = self._spec.make(), self._spec.row.pool
        self._occupant: Occupant | None = None
        self._successor: asyncio.Task[BackendSandbox] | None = None
        self._changing = asyncio.Lock()
        self._generation = 0
        self._epoch = 0
        self._last_use: tuple[str, int] = ("", -1)
        self._running: asyncio.Task[SandboxAnswer] | None = None
        self._background = Tasks(self._failed)
        self._heard_at = time.monotonic()
        self._stopped = False

    async def start(self) -> SandboxStatus:
        """Make the first sandbox; afterwards the slot can be offered.

        Raises:
            IsolationUnavailable, SandboxStartFailed: the slot is of no use and should be stopped.
        """
        await self._backend.start()
        async with self._changing:
            occupant = await self._replace()
            await self._verify(occupant.sandbox)
        self._background.spawn(self._end_when_orphaned())
        return self.status()

    async def execute(self, ticket: GrantTicket, program: Program, fresh: bool = False) -> SandboxAnswer:
        """Run one program on a grant, from a pristine place.

        Raises:
            StaleGrant: the grant is of an older epoch, was used before, or another run is still going; nothing ran.
            SandboxLost, SandboxStartFailed: as a backend raises them.
        """
        await self._admit(ticket)
        return await self._run_on_grant(ticket, program, fresh, None)

    async def execute_many(self, ticket: GrantTicket, programs: list[Program]) -> list[SandboxAnswer | ServiceError]:
        """Run programs of one user one after another; a service failure takes its program's place in the list."""
        await self._admit(ticket)
        answers: list[SandboxAnswer | ServiceError] = []
        for program in programs:
            try:
                answers.append(await self._run_on_grant(ticket, program, False, None))
            except ServiceError as error:
                answers.append(error)
        return answers

    async def stream(
        self, ticket: GrantTicket, program: Program, fresh: bool = False
    ) -> AsyncIterator[OutputEvent | SandboxAnswer]:
        """Like ``execute``, with the output as it happens before the answer."""
        await self._admit(ticket)
        async with aclosing(as_it_happens(lambda emit: self._run_on_grant(ticket, program, fresh, emit))) as items:
            async for item in items:
                yield item

    async def execute_in_session(self, program: Program, ttl_s: float) -> SandboxAnswer:
        """Run one program where its session is; takes no grant, since the sandbox is the session's own.

        Raises:
            UnknownSession: the session is not in this sandbox (any more); ``ContextLost``: only its interpreter.
            StaleGrant: the program before it does not end.
            SandboxLost, InvalidRequest: as a backend raises them.
        """
        await self._end_previous()
        return await self._run_in_session(program, ttl_s, None)

    async def stream_in_session(self, program: Program, ttl_s: float) -> AsyncIterator[OutputEvent | SandboxAnswer]:
        """Like ``execute_in_session``, with the output as it happens before the answer."""
        await self._end_previous()
        async with aclosing(as_it_happens(lambda emit: self._run_in_session(program, ttl_s, emit))) as items:
            async for item in items:
                yield item

    async def open_session(self, ticket: GrantTicket, session: str, forkable: bool, limits: Limits) -> None:
        """Start an interpreter that later programs of this user can name."""
        await self._admit(ticket)
        occupant = await self._occupant_for(ticket.user, fresh=False)
        await occupant.sandbox.open_session(session, forkable, limits)
        occupant.sessions.add(session)

    async def fork_session(self, session: str, forks: list[str]) -> None:
        """Open sessions that start from what this one has now; they live in this sandbox too.

        Raises:
            UnknownSession, ActionFailed, SessionBusy, SandboxFailed: as a backend raises them.
        """
        occupant = self._with_session(session)
        await occupant.sandbox.fork_session(session, forks)
        occupant.sessions.update(forks)

    async def end_sessions(self) -> None:
        """Have what is in the slot replaced if it holds sessions: whoever knew of them is gone."""
        occupant = self._occupant
        if occupant is not None and occupant.sessions:
            log.info("sessions of a lost orchestrator ended", extra={"sandbox_id": self._sandbox_id})
            async with self._changing:
                if self._occupant is occupant:
                    await self._replace()

    async def close_session(self, session: str) -> None:
        """End it; unknown names are ignored."""
        occupant = self._occupant
        if occupant and session in occupant.sessions:
            occupant.sessions.discard(session)
            await occupant.sandbox.close_session(session)

    async def perform(self, session: str, action: Performed) -> Answer:
        """Do something else in a session than running a program; takes no grant, since its sandbox is its own.

        Raises:
            UnknownSession: it is not in this sandbox (any more).
            ActionFailed, SandboxLost: as a backend raises them.
        """
        occupant = self._with_session(session)
        try:
            return await occupant.sandbox.perform(session, action)
        except UnknownSession:
            occupant.sessions.discard(session)
            raise

    async def follow(self, session: str, action: Followed) -> AsyncIterator[Event]:
        """Like ``perform``, with what comes of it as it happens."""
        async with aclosing(self._with_session(session).sandbox.follow(session, action)) as events:
            async for event in events:
                yield event

    async def check(self) -> SandboxStatus:
        """Prove that the sandbox inside is alive and of the right BUILD_TAG, replacing it if it is not.

        Also tells the slot that its supervisor is alive.
        """
        self._heard_at = time.monotonic()
        if self._running is not None or self._occupant is None:
            return self.status()
        occupant = self._occupant
        expected = self._expected_tag()
        try:
            tag = await occupant.sandbox.check()
            wrong = bool(expected) and tag != expected
        except SandboxFailed:
            tag, wrong = "", True
        async with self._changing:
            if wrong and self._running is None and self._occupant is occupant:
                log.info("sandbox of a wrong build", extra={"sandbox_id": self._sandbox_id, "tag": tag})
                await self._drop_successor()
                await self._replace()
        return self.status()

    async def renew(self) -> SandboxStatus:
        """Put the successor in the place of the sandbox inside, unless that is running something or holds a session.

        Also tells the slot that its supervisor is alive.
        """
        self._heard_at = time.monotonic()
        async with self._changing:
            occupant = self._occupant
            if self._running is None and occupant is not None and not occupant.sessions:
                await self._replace()
        return self.status()

    @property
    def busy(self) -> bool:
        """Whether a program is running."""
        return self._running is not None

    def status(self) -> SandboxStatus:
        occupant = self._occupant
        return SandboxStatus(
            sandbox_id=self._sandbox_id,
            backend=self._spec.name,
            generation=self._generation,
            executions=occupant.executions if occupant else 0,
            age_s=time.monotonic() - occupant.born_at if occupant else 0.0,
            build_tag=self._backend.capabilities.build_tag,
            isolation=self._backend.capabilities.isolation,
            user=occupant.user if occupant else None,
            sessions=len(occupant.sessions) if occupant else 0,
        )

    async def stop(self) -> None:
        """End everything in the slot. Idempotent."""
        self._stopped = True
        if self._running is not None:
            self._running.cancel()
        self._background.cancel()
        if self._successor is not None:
            self._successor.cancel()
        await self._backend.close()

    async def _admit(self, ticket: GrantTicket) -> None:
        self._check_grant(ticket)
        self._epoch, self._last_use = ticket.epoch, (ticket.grant_id, ticket.use)
        if self._running is not None:
            await self._end_previous()
            self._check_newest(ticket)

    async def _end_previous(self) -> None:
        """End a program that is still going; whoever it was for has given it up, else none could follow it."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running], timeout=GIVEN_UP_S)
            if self._running is not None:
                raise StaleGrant(f"sandbox {self._sandbox_id} still runs something else")

    def _check_grant(self, ticket: GrantTicket) -> None:
        if self._stopped:
            raise StaleGrant(f"sandbox {self._sandbox_id} is stopping")
        if ticket.epoch < self._epoch:
            raise StaleGrant(f"the grant is of epoch {ticket.epoch}, the queue is at {self._epoch}")
        if ticket.grant_id == self._last_use[0] and ticket.use <= self._last_use[1]:
            raise StaleGrant("the grant was used already")

    def _check_newest(self, ticket: GrantTicket) -> None:
        if self._stopped or self._last_use != (ticket.grant_id, ticket.use):
            raise StaleGrant(f"sandbox {self._sandbox_id} went to a later grant")

    async def _run_on_grant(
        self, ticket: GrantTicket, program: Program, fresh: bool, emit: Emit | None
    ) -> SandboxAnswer:
        self._check_newest(ticket)
        asked_at = time.monotonic()

        async def run() -> SandboxAnswer:
            occupant = await self._occupant_for(ticket.user, fresh)
            return await self._run_in_occupant(occupant, program, emit, asked_at)

        return await self._alone(run(), ticket.ttl_s)

    async def _run_in_session(self, program: Program, ttl_s: float, emit: Emit | None) -> SandboxAnswer:
        assert program.session is not None
        occupant = self._with_session(program.session)
        return await self._alone(self._run_in_occupant(occupant, program, emit, time.monotonic()), ttl_s)

    async def _alone(self, run: Coroutine[Any, Any, SandboxAnswer], ttl_s: float) -> SandboxAnswer:
        """Carry out the only run of the slot, for at most ``ttl_s``, even if nobody asks for it any more."""
        running = self._running = asyncio.ensure_future(run)
        # By the task itself, since whoever waits for its end may look before this coroutine goes on.
        running.add_done_callback(self._ended)
        try:
            # From outside, so that not even a run that never wakes up again holds up the slot.
            await asyncio.wait([running], timeout=ttl_s)
            if running.cancelled():
                raise SandboxLost("the sandbox was stopped, or given to another run", may_have_run=True)
            if running.done():
                return running.result()
            raise SandboxLost("the lease ran out before the program ended", may_have_run=True)
        finally:
            if not running.done():
                running.cancel()
                await asyncio.wait([running], timeout=GIVEN_UP_S)
                self._give_up(running)

    def _give_up(self, running: asyncio.Task[SandboxAnswer]) -> None:
        """Free the slot of a run that does not end, and have what it is in replaced."""
        if self._running is running:
            self._running = None
            if self._occupant is not None:
                self._occupant.spent = True

    def _ended(self, task: asyncio.Task[SandboxAnswer]) -> None:
        if not task.cancelled():
            task.exception()  # retrieved here, since whoever waited may have gone
        if self._running is task:
            self._running = None

    async def _run_in_occupant(
        self, occupant: Occupant, program: Program, emit: Emit | None, asked_at: float
    ) -> SandboxAnswer:
        started_at = time.monotonic()
        report: ProgramReport | None = None
        sound = False
        try:
            report = await occupant.sandbox.execute(program, emit)
        except (UnknownSession, InvalidRequest, Throttled):
            sound = True  # nothing ran
            raise
        except asyncio.CancelledError:
            sound = program.session is not None  # else a new sandbox is cheaper than any doubt
            raise
        finally:
            occupant.executions += 1
            if not sound and (report is None or report.sandbox_spent or report.outcome is Outcome.INFRA):
                occupant.spent = True
            served, age_s = occupant.executions, started_at - occupant.born_at
            if (served >= self._pool.max_executions or age_s > self._pool.max_age_s) and not occupant.sessions:
                occupant.spent = True
            if occupant.spent and not self._stopped:
                self._prepare_successor()
        return SandboxAnswer(report, occupant.generation, started_at - asked_at, time.monotonic() - started_at)

    def _with_session(self, session: str) -> Occupant:
        occupant = self._occupant
        if occupant is None or session not in occupant.sessions or occupant.spent:
            raise UnknownSession(f"session {session} is not in this sandbox any more; open a new one")
        return occupant

    async def _occupant_for(self, user: str, fresh: bool) -> Occupant:
        async with self._changing:
            occupant = self._occupant
            if occupant is None or occupant.spent or fresh or occupant.user not in (None, user) or occupant.sessions:
                # A sandbox that sessions hold is granted to nobody: whoever knew of those in this one is gone.
                occupant = await self._replace()
            occupant.user = user
            return occupant

    async def _replace(self) -> Occupant:
        """Put the successor in the slot; what was there is ended in the background. Called with ``_changing`` held."""
        old, self._occupant = self._occupant, None
        if old is not None:
            self._background.spawn(old.sandbox.close())
        successor, self._successor = self._successor, None
        try:
            sandbox = await (successor or self._create())
        except SandboxFailed:
            if successor is None:
                raise
            sandbox = await self._create()
        self._generation += 1
        self._occupant = Occupant(sandbox, self._generation, time.monotonic())
        if self._spec.local:
            self._prepare_successor()
        return self._occupant

    async def _create(self) -> BackendSandbox:
        sandbox = await self._backend.create()
        if not self._spec.local:
            # A local one is made from the image that the first was, whose tag was seen.
            await self._verify(sandbox)
        return sandbox

    async def _verify(self, sandbox: BackendSandbox) -> None:
        """See that a new sandbox is of the right build before anything runs in it."""
        tag, expected = await sandbox.check(), self._expected_tag()
        if expected and tag != expected:
            await sandbox.close()
            raise SandboxStartFailed(f"a new sandbox is of build {tag!r}, not {expected!r}; rebuild its template")

    def _expected_tag(self) -> str:
        return self._pool.build_tag or self._backend.capabilities.build_tag

    async def _drop_successor(self) -> None:
        """End what was made of another build; what is made from now on is of the right one."""
        successor, self._successor = self._successor, None
        if successor is not None:
            await asyncio.wait([successor])
            if not successor.cancelled() and successor.exception() is None:
                self._background.spawn(successor.result().close())

    def _prepare_successor(self) -> None:
        if self._successor is None:
            self._successor = asyncio.ensure_future(self._create())
            # Looked at here too, so that a failure nobody awaits is not reported as forgotten.
            self._successor.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _failed(self, error: BaseException) -> None:
        log.warning("background work failed", extra={"sandbox_id": self._sandbox_id, "error": repr(error)})

    async def _end_when_orphaned(self) -> None:
        patience_s = max(self._pool.orphan_s, 2 * self._pool.maintenance_interval_s)
        while time.monotonic() - self._heard_at < patience_s:
            await asyncio.sleep(patience_s / 10)
        log.warning("no word from the supervisor, ending", extra={"sandbox_id": self._sandbox_id})
        await self._backend.close()
        end_this_actor()


def end_this_actor() -> None:
    """End the actor that this runs in, whatever it is doing."""
    import ray

    ray.actor.exit_actor()
