"""The sandbox of the embedded backend: one user's jail, with a container for every run and one for each session."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any

from actors.backends.base import Emit
from actors.backends.jail import fork_protocol
from actors.backends.jail.host import languages
from actors.backends.jail.host.container_pool import ContainerPool
from actors.backends.jail.host.execution import Execution
from actors.backends.jail.host.jail import Jail
from actors.backends.jail.host.run_limits import EnforcedLimits
from actors.backends.jail.host.session import JailSession
from actors.backends.jail.kinds import LEAN, LOADED, suited
from actors.config import JailSettings, RunLimits
from actors.errors import (
    ActionFailed,
    ContextLost,
    SandboxFailed,
    SandboxLost,
    SandboxStartFailed,
    UnknownSession,
)
from actors.schemas import Limits, Outcome, Program, ProgramReport
from actors.schemas.action import Answer, Event, Followed, OpenContext, Performed

_DEFAULT_LIMITS = Limits()
_WHEN_FORKABLE = "; in a forkable session WITHOUT Landlock and the refusal of setns"
_NO_NETWORK = "jails have no network; leave out limits.network, or ask for a backend that has one"


class JailSandbox:
    """Runs the programs of one user, each in a process of its own that dies with all it started."""

    def __init__(
        self,
        jail: Jail,
        settings: JailSettings,
        limits: RunLimits,
        isolation: str,
        language_programs: dict[str, str],
        on_close: Callable[[JailSandbox], None],
    ) -> None:
        self._jail, self._settings, self._default_limits, self._isolation = jail, settings, limits, isolation
        self._languages, self._on_close = language_programs, on_close
        self._sandbox_id = f"jail-{uuid.uuid4().hex[:12]}"
        self._preloaded = frozenset(name.partition(".")[0] for name in settings.preload)
        kinds = (LEAN, LOADED) if settings.preload else (LEAN,)
        self._containers = ContainerPool(jail, kinds, settings.spares, limits.disk_mib)
        self._sessions: dict[str, JailSession] = {}
        self._closed = False

    @property
    def sandbox_id(self) -> str:
        return self._sandbox_id

    @property
    def used_kinds(self) -> set[str]:
        """The kinds of interpreter that programs ran in."""
        return self._containers.used_kinds

    def prepare(self, kinds: list[str]) -> None:
        """Have an interpreter of each of these kinds made ready, before anybody needs it."""
        self._containers.prepare(kinds)

    async def execute(self, program: Program, emit: Emit | None = None) -> ProgramReport:
        self._check_open(may_have_run=False)
        if program.limits.network:
            return ProgramReport(outcome=Outcome.REJECTED, message=_NO_NETWORK, may_have_run=False)
        languages.check(program.language, self._languages)
        session = None if program.session is None else self._session(program.session)
        await self._containers.wait_cleared()
        self._check_open(may_have_run=False)
        if session is not None:
            return await self._execute_in_session(session, program, emit)
        kind = self._kind(program)
        # A sandbox of one program is to be cheap: its container, renewed, is there for a second program.
        container = await self._containers.take(kind, replace=kind in self.used_kinds)
        execution = Execution(container, container.interpreter, program, emit, self._default_limits.output_bytes)
        reusable = False
        try:
            limits = self._enforced(program)
            limits.enforce()
            report = await self._run_and_report(execution, program, limits, {"cwd": ".", "persistent": False})
            reusable = execution.finished_cleanly
            if limits.memory_ran_out():
                self._containers.discard_spares()
        finally:
            execution.detach()
            if reusable:
                self._containers.give_back(container)
            else:
                self._containers.discard(container, replace=True)
        return report

    async def _execute_in_session(self, session: JailSession, program: Program, emit: Emit | None) -> ProgramReport:
        with session.program(program.context, program.language) as (context, process):
            container = session.container
            if context.begun:
                container.meter.begin(process.pid)
            output_bytes, earlier = self._default_limits.output_bytes, context.between.take()
            execution = Execution(container, process, program, emit, output_bytes, earlier)
            reusable = False
            try:
                limits = self._enforced(program)
                session.base_bytes = limits.enforce(session.base_bytes)
                start = None if context.begun else {"cwd": context.cwd, "persistent": True}
                isolation = self._isolation + (_WHEN_FORKABLE if session.forkable else "")
                report = await self._run_and_report(execution, program, limits, start, isolation)
                reusable = execution.finished_cleanly or not execution.begun
            except asyncio.CancelledError:
                # Shielded: a caller that is cancelled once may be cancelled again.
                reusable = not execution.begun or await asyncio.shield(execution.abandon(self._settings.kill_grace_s))
                raise
            finally:
                context.begun = context.begun or execution.begun
                execution.detach(context.between.write)
                if not reusable:
                    # Shielded: a caller that was cancelled leaves no program behind.
                    await asyncio.shield(session.lose(context))
            return report

    def _enforced(self, program: Program) -> EnforcedLimits:
        return EnforcedLimits(program, self._default_limits, self._jail.group, self._settings.without)

    async def _run_and_report(
        self,
        execution: Execution,
        program: Program,
        limits: EnforcedLimits,
        start: dict[str, Any] | None,
        isolation: str = "",
    ) -> ProgramReport:
        try:
            await execution.run_to_end(limits, start, self._settings.kill_grace_s)
        except ActionFailed as error:
            return ProgramReport(outcome=Outcome.REJECTED, message=f"files: {error}", may_have_run=False)
        self._check_open(may_have_run=execution.begun)
        if not execution.begun:
            raise _never_began(program)
        jail_lost = execution.interpreter_ended and not self._jail.alive
        if jail_lost and not limits.memory_ran_out():
            raise SandboxLost(f"sandbox {self._sandbox_id} died under the program", may_have_run=True)
        files, missing = await execution.collect_outputs() if program.outputs else ({}, {})
        outcome, message = execution.judge(limits.memory_ran_out())
        return ProgramReport(
            outcome=outcome,
            stdout=execution.text("stdout"),
            stderr=execution.text("stderr"),
            results=tuple(execution.results),
            error=execution.error,
            exit_status=execution.exit_status,
            files=files,
            files_missing=missing,
            usage=execution.usage(limits.peak_mib()),
            message=message,
            isolation=isolation or self._isolation,
            sandbox_spent=jail_lost,
        )

    async def open_session(self, session: str, forkable: bool = False, limits: Limits = _DEFAULT_LIMITS) -> None:
        self._check_open(may_have_run=False)
        if session in self._sessions:
            return
        container = await self._containers.take(self._kind_of_sessions, replace=True)
        enforced = self._enforced(Program(run_id="", code="pass", limits=limits))
        try:
            if forkable:
                await container.renew(enforced.disk_mib, fork_protocol.FORKABLE)
            elif enforced.resized_mib is not None:
                await container.resize(enforced.resized_mib)
        except BaseException:
            self._containers.discard(container)
            raise
        output_bytes = limits.output_bytes or self._default_limits.output_bytes
        self._sessions[session] = JailSession(container, enforced, output_bytes, forkable=forkable)

    async def close_session(self, session: str) -> None:
        closed = self._sessions.pop(session, None)
        if closed is not None:
            closed.close()
            await self._end_session(closed)

    async def fork_session(self, session: str, forks: list[str]) -> None:
        self._check_open(may_have_run=False)
        origin = self._session(session)
        made: dict[str, JailSession] = {}
        try:
            for name in forks:
                made[name] = await origin.fork()
                self._containers.add(made[name].container)
        except BaseException:
            for forked in made.values():
                await asyncio.shield(self._end_session(forked))
            raise
        self._sessions |= made

    async def _end_session(self, session: JailSession) -> None:
        """End a session; while forks of it live, only its own processes: their containers are nested in its own."""
        session.closed = True
        if session.forks:
            session.container.kill_outer()
            return
        await self._containers.end(session.container)
        parent = session.parent
        if parent is not None:
            parent.forks.discard(session)
            if parent.closed and not parent.forks:
                await self._end_session(parent)

    async def perform(self, session: str, action: Performed) -> Answer:
        self._check_open(may_have_run=False)
        if isinstance(action, OpenContext):
            languages.check(action.language, self._languages)
        return await self._session(session).perform(action)

    def follow(self, session: str, action: Followed) -> AsyncGenerator[Event]:
        self._check_open(may_have_run=False)
        return self._session(session).follow(action)

    async def check(self) -> str:
        self._check_open(may_have_run=False)
        reply, _ = await self._jail.request({"op": "check"})
        return str(reply["tag"])

    async def close(self) -> None:
        """End everything that runs here; return when nothing does any more. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        await self._containers.close()
        self._on_close(self)

    async def wait_closed(self) -> None:
        """Wait, after ``close``, until the service's own processes of this jail are gone too."""
        await self._jail.close()

    def _session(self, name: str) -> JailSession:
        """Return an open session.

        Raises:
            UnknownSession: it was never opened, was closed or has ended.
        """
        session = self._sessions.get(name)
        if session is not None and not session.alive:
            del self._sessions[name]
            session.close()
            session = None
        if session is None:
            raise UnknownSession(f"no session {name!r} in sandbox {self._sandbox_id}; open a new one")
        return session

    @property
    def _kind_of_sessions(self) -> str:
        return LOADED if self._settings.preload else LEAN

    def _kind(self, program: Program) -> str:
        if not self._settings.preload or program.language != "python":
            return LEAN
        return suited(program.code, self._preloaded)

    def _check_open(self, *, may_have_run: bool) -> None:
        if self._closed:
            raise SandboxLost(f"sandbox {self._sandbox_id} is closed", may_have_run)


def _never_began(program: Program) -> SandboxFailed | UnknownSession:
    if program.session is not None:
        return ContextLost("the interpreter has ended, or takes no files; restart its context, files are kept")
    return SandboxStartFailed("an interpreter died just before it was used")
