"""One user's jail: pristine interpreters kept ready, one for every run, and one for each session."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from actors.backends.base import Emit
from actors.backends.jail import fork_protocol
from actors.backends.jail.host import languages
from actors.backends.jail.host.container import Cell
from actors.backends.jail.host.execution import Run
from actors.backends.jail.host.jail import Jail
from actors.backends.jail.host.run_limits import Allowance
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
PROMPT_S = 0.2
"""How long templates that are alive may take to collect what was killed."""
ENDING_S = 1.0
"""How long a program waits for what those before it left."""
_OF_FORKABLE = "; in a forkable session WITHOUT Landlock and the refusal of setns"
_NO_NETWORK = "jails have no network; leave out limits.network, or ask for a backend that has one"


class JailSandbox:
    """Runs programs of one user, each in a process of its own that dies with all it started."""

    def __init__(
        self,
        jail: Jail,
        settings: JailSettings,
        limits: RunLimits,
        isolation: str,
        programs: dict[str, str],
        forget: Callable[[JailSandbox], None],
    ) -> None:
        self._jail, self._settings, self._limits, self._isolation = jail, settings, limits, isolation
        self._languages, self._forget = programs, forget
        self._sandbox_id = f"jail-{uuid.uuid4().hex[:12]}"
        self._preloaded = frozenset(name.partition(".")[0] for name in settings.preload)
        kinds = (LEAN, LOADED) if settings.preload else (LEAN,)
        self._spares: dict[str, list[asyncio.Task[Cell]]] = {kind: [] for kind in kinds}
        self.used: set[str] = set()
        """Kinds of interpreter that programs ran in."""
        self._cells: set[Cell] = set()
        self._sessions: dict[str, JailSession] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def sandbox_id(self) -> str:
        return self._sandbox_id

    def prepare(self, kinds: list[str]) -> None:
        """Have an interpreter of each of these kinds made ready, before anybody asks."""
        for kind in kinds:
            self._add_spare(kind, self._make_cell(kind))

    async def execute(self, program: Program, emit: Emit | None = None) -> ProgramReport:
        self._check_open(may_have_run=False)
        if program.limits.network:
            return ProgramReport(outcome=Outcome.REJECTED, message=_NO_NETWORK, may_have_run=False)
        languages.check(program.language, self._languages)
        session = None if program.session is None else self._session(program.session)
        await self._until_gone()
        self._check_open(may_have_run=False)
        if session is not None:
            return await self._execute_in(session, program, emit)
        kind = self._kind(program)
        # A sandbox of one program is to be cheap: that one's cell, renewed, is there for the second.
        cell = await self._take_spare(kind, replace=kind in self.used)
        run = Run(cell, cell.interpreter, program, emit, self._limits.output_bytes)
        kept = False
        try:
            allowance = Allowance(program, self._limits, self._jail.group, self._settings.without)
            allowance.begin()
            report = await self._report(run, program, allowance, {"cwd": ".", "stays": False})
            kept = run.finished_cleanly
        finally:
            run.leave()
            self._release(cell, reuse=kept)
            if not kept and not self._spares[kind] and not self._closed:
                self.prepare([kind])
        return report

    async def _execute_in(self, session: JailSession, program: Program, emit: Emit | None) -> ProgramReport:
        with session.program(program.context, program.language) as (context, inmate):
            cell = session.cell
            if context.begun:
                cell.meter.begin(inmate.pid)
            run = Run(cell, inmate, program, emit, self._limits.output_bytes)
            kept = False
            try:
                allowance = Allowance(program, self._limits, self._jail.group, self._settings.without)
                session.base_bytes = allowance.begin(session.base_bytes)
                start = None if context.begun else {"cwd": context.cwd, "stays": True}
                isolation = self._isolation + (_OF_FORKABLE if session.forkable else "")
                report = await self._report(run, program, allowance, start, isolation)
                kept = run.finished_cleanly or not run.begun
            except asyncio.CancelledError:
                # Shielded: whoever is cancelled once may be so again.
                kept = not run.begun or await asyncio.shield(run.give_up(self._settings.kill_grace_s))
                raise
            finally:
                context.begun = context.begun or run.begun
                run.leave()
                if not kept:
                    # Shielded: whoever was cancelled leaves no program behind.
                    await asyncio.shield(session.lose(context))
            return report

    async def _report(
        self,
        run: Run,
        program: Program,
        allowance: Allowance,
        start: dict[str, Any] | None,
        isolation: str = "",
    ) -> ProgramReport:
        try:
            await run.execute(allowance, start, self._settings.kill_grace_s)
        except ActionFailed as error:
            return ProgramReport(outcome=Outcome.REJECTED, message=f"files: {error}", may_have_run=False)
        self._check_open(may_have_run=run.begun)
        if not run.begun:
            raise _never_began(program)
        if run.interpreter_ended and not self._jail.alive:
            raise SandboxLost(f"sandbox {self._sandbox_id} died under the program", may_have_run=True)
        files, missing = await run.outputs() if program.outputs else ({}, {})
        outcome, message = run.judge(allowance.memory_ran_out())
        return ProgramReport(
            outcome=outcome,
            stdout=run.text("stdout"),
            stderr=run.text("stderr"),
            results=tuple(run.results),
            error=run.error,
            files=files,
            files_missing=missing,
            usage=run.usage(allowance.peak_mib()),
            message=message,
            isolation=isolation or self._isolation,
        )

    async def open_session(self, session: str, forkable: bool = False, limits: Limits = _DEFAULT_LIMITS) -> None:
        self._check_open(may_have_run=False)
        if session in self._sessions:
            return
        cell = await self._take_spare(self._kind_of_sessions, replace=True)
        program = Program(run_id="", code="pass", limits=limits)
        allowance = Allowance(program, self._limits, self._jail.group, self._settings.without)
        try:
            if forkable:
                await cell.renew(allowance.disk_mib, fork_protocol.FORKABLE)
            elif allowance.resized_mib is not None:
                await cell.resize(allowance.resized_mib)
        except BaseException:
            self._release(cell, reuse=False)
            raise
        output_bytes = limits.output_bytes or self._limits.output_bytes
        self._sessions[session] = JailSession(cell, allowance, output_bytes, forkable=forkable)

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
                self._cells.add(made[name].cell)
        except BaseException:
            for forked in made.values():
                await asyncio.shield(self._end_session(forked))
            raise
        self._sessions |= made

    async def _end_session(self, session: JailSession) -> None:
        """End a session; while forks of it live, only what is its own: their cells are within its cell."""
        session.closed = True
        if session.forks:
            session.cell.leave_to_nested()
            return
        await self._end(session.cell)
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
        answer, _ = await self._jail.ask({"op": "check"})
        return str(answer["tag"])

    async def close(self) -> None:
        """End everything that ran here; returns when nothing of it does. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        spares = [spare for kind in self._spares.values() for spare in kind]
        for spare in spares:
            spare.cancel()
        # While the templates live they collect their interpreters at once; killed, they would first free their memory.
        cells = asyncio.gather(*(cell.close() for cell in list(self._cells)))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(cells), PROMPT_S)
        self._jail.kill()
        await cells
        await asyncio.gather(*spares, *self._ending, return_exceptions=True)
        self._forget(self)

    async def bury(self) -> None:
        """After ``close``: wait until the service's own processes of this jail are gone too."""
        await self._jail.close()

    async def _until_gone(self) -> None:
        """Wait until nothing is left of the runs before; it would count towards limits that a jail's programs share."""
        left = [cell.cleared for cell in self._cells if not cell.cleared.done()]
        if left or self._ending:
            await asyncio.wait([*left, *self._ending], timeout=ENDING_S)

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
        return LOADED if LOADED in self._spares else LEAN

    def _kind(self, program: Program) -> str:
        if LOADED not in self._spares or program.language != "python":
            return LEAN
        return suited(program.code, self._preloaded)

    async def _take_spare(self, kind: str, *, replace: bool) -> Cell:
        """Return a cell with a pristine interpreter; ``replace`` has another prepared if it was the last.

        Raises:
            SandboxStartFailed: none could be made.
        """
        self.used.add(kind)
        spares = self._spares[kind]
        for _ in range(self._settings.spares + 1):
            if not spares:
                self._add_spare(kind, self._make_cell(kind))
            spare = spares.pop(0)
            try:
                # Who gives up waiting must not take the interpreter along, which the next one can use.
                cell = await asyncio.shield(spare)
            except asyncio.CancelledError:
                spares.insert(0, spare)
                raise
            except SandboxFailed as error:
                raise SandboxStartFailed(str(error)) from None
            if replace and not spares and not self._closed:
                self._add_spare(kind, self._make_cell(kind))
            if not cell.interpreter.ended:
                return cell
            self._release(cell, reuse=False)
        raise SandboxStartFailed("interpreters die before they are used")

    def _release(self, cell: Cell, *, reuse: bool) -> None:
        """Make a sound cell ready for another program if one more is wanted, else end it."""
        spares = self._spares[cell.kind]
        if reuse and len(spares) < self._settings.spares and not self._closed:
            cell.retire()
            self._add_spare(cell.kind, self._renew(cell))
        else:
            ending = asyncio.create_task(self._end(cell))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _end(self, cell: Cell) -> None:
        await cell.close()
        self._cells.discard(cell)

    def _add_spare(self, kind: str, work: Coroutine[Any, Any, Cell]) -> None:
        self._spares[kind].append(asyncio.create_task(work))

    async def _make_cell(self, kind: str) -> Cell:
        await self._jail.ensure_template(kind)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                _, fds = await self._jail.ask({"op": "cell", "kind": kind}, [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        cell = Cell(kind, ours, fds[0])
        self._cells.add(cell)
        try:
            await cell.open()
            await self._jail.admitted()
        except BaseException:
            self._release(cell, reuse=False)
            raise
        return await self._renew(cell)

    async def _renew(self, cell: Cell) -> Cell:
        try:
            await cell.renew(self._limits.disk_mib)
        except BaseException:
            self._release(cell, reuse=False)
            raise
        return cell

    def _check_open(self, *, may_have_run: bool) -> None:
        if self._closed:
            raise SandboxLost(f"sandbox {self._sandbox_id} is closed", may_have_run)


def _never_began(program: Program) -> SandboxFailed | UnknownSession:
    if program.session is not None:
        return ContextLost("the interpreter has ended; restart its context, files are kept")
    return SandboxStartFailed("an interpreter died just before it was used")
