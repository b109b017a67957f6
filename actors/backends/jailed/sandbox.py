"""One jail: a user's place, in which every run is forked anew."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from actors.backends.base import Emit
from actors.backends.jailed import process
from actors.backends.jailed.cgroup import Group
from actors.backends.jailed.client import Zygote
from actors.backends.jailed.inside import frames
from actors.backends.jailed.interpreter_host import Interpreter
from actors.config import JailSettings, RunLimits
from actors.errors import SandboxLost, UnknownSession
from actors.schemas import Limits, Outcome, Program, ProgramReport

FORK_TIMEOUT_S = 20.0
OWN_PROCESSES = 16
"""The template and the interpreters that wait, beside what a program may start."""
REMOVE_TRIES, REMOVE_WAIT_S = 50, 0.02


class JailSandbox:
    """Runs programs of one user, each in an interpreter and workspace of its own, forked from the jail's template."""

    def __init__(
        self,
        name: str,
        bwrap_pid: int,
        channel: socket.socket,
        zygote: Zygote,
        group: Group | None,
        settings: JailSettings,
        limits: RunLimits,
        isolation: str,
        closed: Callable[[JailSandbox], None],
    ) -> None:
        self._name, self._bwrap_pid, self._channel, self._zygote, self._group = name, bwrap_pid, channel, zygote, group
        self._settings, self._isolation, self._on_closed = settings, isolation, closed
        self._default = Limits(**limits.model_dump())
        self._spares: deque[asyncio.Task[Interpreter]] = deque()
        self._sessions: dict[str, Interpreter] = {}
        self._alive: set[Interpreter] = set()
        self._forking = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._closed = False
        channel.setblocking(False)

    @property
    def sandbox_id(self) -> str:
        return f"jail-{os.getpid()}-{self._name}"

    async def start(self) -> None:
        """Have the first interpreter ready."""
        await _readable(self._channel)
        _, fds = frames.receive_with_fds(self._channel)
        if self._group is not None:
            # Interpreters are born in the template's group: moving each would cost more than forking it.
            self._group.add(process.pid_of(fds[0]))
        for fd in fds:
            os.close(fd)
        self._refill()
        await asyncio.shield(self._spares[0])

    async def execute(self, program: Program, emit: Emit | None = None) -> ProgramReport:
        limits = self._limits(program)
        if program.session is not None:
            return await self._execute_in_session(program, limits, emit)
        interpreter = await self._take(limits)
        oom_before = self._set_group(limits)
        try:
            report = await self._run(interpreter, program, limits, emit)
        finally:
            # The kernel needs some milliseconds to end a namespace; the next run has its interpreter already.
            self._spawn(self._discard(interpreter))
            self._refill()
        return self._told(report, oom_before)

    async def open_session(self, session: str) -> None:
        self._sessions[session] = await self._take(self._default)
        self._refill()

    async def close_session(self, session: str) -> None:
        interpreter = self._sessions.pop(session, None)
        if interpreter is not None:
            await self._discard(interpreter)

    async def check(self) -> str:
        interpreter = await self._take(self._default)
        try:
            return await interpreter.tag()
        finally:
            self._spawn(self._discard(interpreter))
            self._refill()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for spare in self._spares:
            spare.cancel()
        await self._zygote.end(self._name)
        for interpreter in list(self._alive):
            await interpreter.close()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._channel.close()
        if self._group is not None:
            for _ in range(REMOVE_TRIES):
                with contextlib.suppress(OSError):
                    self._group.remove()
                    break
                await asyncio.sleep(REMOVE_WAIT_S)
        self._on_closed(self)

    async def _execute_in_session(self, program: Program, limits: Limits, emit: Emit | None) -> ProgramReport:
        interpreter = self._sessions.get(program.session or "")
        if interpreter is None:
            raise UnknownSession(f"session {program.session} is not in this sandbox any more; open a new one")
        oom_before = self._set_group(limits)
        survived = False
        try:
            report = await self._run(interpreter, program, limits, emit)
            survived = report.outcome in (Outcome.OK, Outcome.ERROR) or not report.sandbox_spent
        finally:
            if not survived:
                self._sessions.pop(program.session or "", None)
                self._spawn(self._discard(interpreter))
        return self._told(report, oom_before)

    async def _run(
        self, interpreter: Interpreter, program: Program, limits: Limits, emit: Emit | None
    ) -> ProgramReport:
        bound = limits.output_bytes or 1_000_000
        polled = None if self._group else limits.memory_mib
        report = await interpreter.run(program, bound, self._settings.kill_grace_s, polled, emit)
        if self._closed:
            raise SandboxLost("the sandbox was closed while a program was running", may_have_run=True)
        return report

    def _limits(self, program: Program) -> Limits:
        asked = program.limits.model_dump(exclude_none=True)
        return self._default.model_copy(update=asked)

    def _set_group(self, limits: Limits) -> int:
        if self._group is None:
            return 0
        self._group.limit(limits.memory_mib or 0, (limits.processes or 0) + OWN_PROCESSES)
        self._group.reset_peak()
        return self._group.oom_kills()

    def _told(self, report: ProgramReport, oom_before: int) -> ProgramReport:
        """The report, with what only the control group knows."""
        update: dict[str, Any] = {"isolation": self._isolation}
        if self._group is not None:
            peak = self._group.peak_bytes()
            if peak is not None:
                update["usage"] = report.usage.model_copy(update={"peak_memory_mib": round(peak / 2**20, 1)})
            if report.outcome is Outcome.CRASHED and self._group.oom_kills() > oom_before:
                update["outcome"] = Outcome.OUT_OF_MEMORY
                update["message"] = "the program needed more memory than it may use; raise limits.memory_mib"
        return report.model_copy(update=update)

    async def _take(self, limits: Limits) -> Interpreter:
        """A pristine interpreter with these limits: a spare where one fits."""
        if self._closed:
            raise SandboxLost("the sandbox is closed")
        if not self._fits_spare(limits):
            return await self._fork(limits)
        while self._spares:
            interpreter = await self._spares.popleft()
            if interpreter in self._alive:
                return interpreter
        return await self._fork(limits)

    def _fits_spare(self, limits: Limits) -> bool:
        fixed = ("processes", "disk_mib", "cpu_s") if self._group else ("processes", "disk_mib", "cpu_s", "memory_mib")
        return all(getattr(limits, name) == getattr(self._default, name) for name in fixed)

    def _refill(self) -> None:
        while not self._closed and len(self._spares) < self._settings.spares:
            task = asyncio.ensure_future(self._fork(self._default))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._spares.append(task)

    async def _fork(self, limits: Limits) -> Interpreter:
        stdin, stdout, stderr = os.open(os.devnull, os.O_RDONLY), os.pipe(), os.pipe()
        ours, theirs = socket.socketpair()
        theirs_fds = [stdin, stdout[1], stderr[1], theirs.fileno()]
        request = {
            "limits": {
                "processes": (limits.processes or 0) + OWN_PROCESSES, "disk_mib": limits.disk_mib, "cpu_s": limits.cpu_s,
                "memory_mib": limits.memory_mib, "cgroup": self._group is not None,
            }
        }  # fmt: skip
        try:
            async with self._forking, asyncio.timeout(FORK_TIMEOUT_S):
                frames.send_with_fds(self._channel, request, theirs_fds)
                await _readable(self._channel)
                answer, fds = frames.receive_with_fds(self._channel)
            if answer is None or len(fds) != 1:
                raise SandboxLost("the jail is gone")
        except (OSError, TimeoutError) as error:
            answer = None
            raise SandboxLost(f"the jail does not answer: {error}") from None
        finally:
            theirs.close()
            for fd in (stdin, stdout[1], stderr[1]):
                os.close(fd)
            if answer is None:
                ours.close()
                os.close(stdout[0])
                os.close(stderr[0])
        interpreter = Interpreter(fds[0], ours, stdout[0], stderr[0])
        self._alive.add(interpreter)
        try:
            await interpreter.ready()
        except BaseException:
            await self._discard(interpreter)
            raise
        return interpreter

    async def _discard(self, interpreter: Interpreter) -> None:
        self._alive.discard(interpreter)
        await interpreter.close()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _readable(channel: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(channel.fileno(), lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(channel.fileno())
