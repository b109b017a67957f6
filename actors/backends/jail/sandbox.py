"""One user's jail: pristine interpreters kept ready, one for every run, and one for each session."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from actors.backends.base import Emit
from actors.backends.jail.allowance import Allowance
from actors.backends.jail.head import Template
from actors.backends.jail.process import Process
from actors.backends.jail.run import Run
from actors.config import JailSettings, RunLimits
from actors.errors import SandboxFailed, SandboxLost, SandboxStartFailed, UnknownSession
from actors.schemas import Outcome, Program, ProgramReport

READY_S = 20.0
_NO_NETWORK = "jails have no network; leave out limits.network, or ask for a backend that has one"


class JailSandbox:
    """Runs programs of one user, each in a process of its own that dies with all it started."""

    def __init__(
        self,
        template: Template,
        settings: JailSettings,
        limits: RunLimits,
        isolation: str,
        forget: Callable[[JailSandbox], None],
    ) -> None:
        self._template, self._settings, self._limits, self._isolation = template, settings, limits, isolation
        self._forget = forget
        self._sandbox_id = f"jail-{uuid.uuid4().hex[:12]}"
        self._spares: list[asyncio.Task[Process]] = []
        self._sessions: dict[str, Process | None] = {}
        self._bases: dict[Process, int] = {}
        self._running: set[Process] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self._closed = False

    @property
    def sandbox_id(self) -> str:
        return self._sandbox_id

    def refill(self) -> None:
        """Have as many interpreters made ready as are missing."""
        while len(self._spares) < self._settings.spares and not self._closed:
            self._spares.append(asyncio.create_task(self._fork()))

    async def execute(self, program: Program, emit: Emit | None = None) -> ProgramReport:
        self._check_open(may_have_run=False)
        if program.session is not None and program.session not in self._sessions:
            raise UnknownSession(f"no session {program.session!r} in sandbox {self._sandbox_id}")
        if program.limits.network:
            return ProgramReport(outcome=Outcome.REJECTED, message=_NO_NETWORK, may_have_run=False)
        waiting = self._sessions.get(program.session) if program.session is not None else None
        first, process = waiting is None, waiting or await self._take_spare()
        if program.session is not None:
            self._sessions[program.session] = process
        run = Run(process, program, emit)
        self._running.add(process)
        kept = False
        try:
            allowance = Allowance(program, self._limits, self._template.group)
            base_bytes = allowance.begin(self._bases.get(process))
            if program.session is not None:
                self._bases[process] = base_bytes
            await run.execute(allowance.watched(), allowance.own() if first else None, self._settings.kill_grace_s)
            self._check_open(may_have_run=run.begun)
            if not run.begun:
                raise _never_began(program)
            if process.dead.is_set() and not self._template.alive:
                raise SandboxLost(f"sandbox {self._sandbox_id} died under the program", may_have_run=True)
            kept = program.session is not None and run.finished_cleanly
        finally:
            self._running.discard(process)
            if not kept:
                if program.session is not None:
                    self._sessions.pop(program.session, None)
                self._bases.pop(process, None)
                process.kill()
                self._spawn(process.close())
        outcome, message = run.judge(allowance.memory_ran_out())
        return ProgramReport(
            outcome=outcome,
            stdout=run.text("stdout"),
            stderr=run.text("stderr"),
            results=tuple(run.results),
            error=run.error,
            usage=run.usage(allowance.peak_mib()),
            message=message,
            isolation=self._isolation,
        )

    async def open_session(self, session: str) -> None:
        self._check_open(may_have_run=False)
        self._sessions.setdefault(session, None)  # its interpreter gets the limits of its first program

    async def close_session(self, session: str) -> None:
        process = self._sessions.pop(session, None)
        if process is not None:
            await process.close()

    async def check(self) -> str:
        self._check_open(may_have_run=False)
        answer, _ = await self._template.ask({"op": "check"})
        return str(answer["tag"])

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._forget(self)
        self._template.kill()
        for spare in self._spares:
            spare.cancel()
        ready = [
            task.result() for task in self._spares if task.done() and not task.cancelled() and not task.exception()
        ]
        living = [*ready, *self._running, *(process for process in self._sessions.values() if process)]
        self._sessions.clear()
        for process in living:
            process.kill()
        await asyncio.gather(*(process.close() for process in living), *self._background, return_exceptions=True)
        await asyncio.gather(*self._spares, return_exceptions=True)
        await self._template.close()

    async def _take_spare(self) -> Process:
        """Return a pristine interpreter and have another prepared.

        Raises:
            SandboxStartFailed: none could be made.
        """
        for _ in range(self._settings.spares + 1):
            self.refill()
            spare = self._spares.pop(0)
            self.refill()
            try:
                # Who gives up waiting must not take the interpreter along, which the next one can use.
                process = await asyncio.shield(spare)
            except asyncio.CancelledError:
                self._spares.insert(0, spare)
                raise
            except SandboxFailed as error:
                raise SandboxStartFailed(str(error)) from None
            if not process.dead.is_set():
                return process
        raise SandboxStartFailed("interpreters die before they are used")

    async def _fork(self) -> Process:
        _, fds = await self._template.ask({"op": "fork", "disk_mib": self._limits.disk_mib})
        process = Process(fds)
        said: list[bytes] = []
        ready: list[bool] = []
        process.on_output = lambda _, data: said.append(data)
        process.on_message = lambda message, _: ready.append(message.get("kind") == "ready")
        try:
            async with asyncio.timeout(READY_S):
                await process.until(lambda: bool(ready))
        except BaseException:
            process.kill()
            raise
        if not ready:
            text = b"".join(said)[-500:].decode(errors="replace")
            raise SandboxStartFailed(f"an interpreter died before it was ready: {text}")
        return process

    def _check_open(self, *, may_have_run: bool) -> None:
        if self._closed:
            raise SandboxLost(f"sandbox {self._sandbox_id} is closed", may_have_run)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _never_began(program: Program) -> SandboxFailed | UnknownSession:
    if program.session is not None:
        return UnknownSession(f"the interpreter of session {program.session!r} has ended; open a new one")
    return SandboxStartFailed("an interpreter died just before it was used")
