"""A backend that runs nothing: programs are evaluated by a tiny interpreter, and faults happen on demand.

It fulfils the same contract as the real ones, in microseconds, which makes it fit for tests, for benchmarks of
everything around a sandbox, and for trying out a deployment on a machine that can isolate nothing.
"""

from __future__ import annotations

import asyncio
import copy
import math
import random
import time
import uuid
from collections.abc import AsyncGenerator

from actors.backends.base import Capabilities, Emit
from actors.backends.fake import files as fake_files
from actors.backends.fake.expressions import OutOfMemory
from actors.backends.fake.faults import Faults, read_faults
from actors.backends.fake.interpreter import Interpreter
from actors.backends.fake.modules import Exited, Unsupported
from actors.backends.fake.output import FLOOD_FACTOR, Flooded, Output
from actors.config import FakeSettings, RunLimits
from actors.errors import ActionFailed, ContextLost, InvalidRequest, SandboxLost, SandboxStartFailed, UnknownSession
from actors.schemas import Limits, Outcome, OutputEvent, Program, ProgramError, ProgramReport, RichResult, Usage
from actors.schemas.action import DEFAULT_CONTEXT, Answer, Event, Followed, Performed, RestartContext

ISOLATION = "none: the fake backend runs nothing"
_DEFAULTS = RunLimits()
_BLOCK = b"x" * 65_536
_GRACE_S = 0.1  # between interrupting a program and killing it
_ADVICE = {
    Outcome.TIMEOUT: "still running when its time was up, and stopped; ask for a longer timeout_s",
    Outcome.OUT_OF_MEMORY: "needed more memory than its limit; ask for a higher limits.memory_mib",
    Outcome.OUTPUT_LIMIT: f"wrote more than {FLOOD_FACTOR} times limits.output_bytes and was killed; write to a file",
    Outcome.CRASHED: "its interpreter ended without a word",
}


class FakeBackend:
    """Makes fake sandboxes. Failures are drawn from ``rng``, so that equal seeds fail alike."""

    def __init__(self, settings: FakeSettings, build_tag: str, rng: random.Random | None = None) -> None:
        self.settings, self._build_tag = settings, build_tag
        self.rng = rng or random.Random(0)
        self._sandboxes: dict[str, FakeSandbox] = {}
        self._failing_creates = 0
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(isolation=ISOLATION, local=True, build_tag=self._build_tag)

    async def start(self) -> None:
        """Nothing to make ready."""

    async def create(self) -> FakeSandbox:
        if self.settings.create_s:
            await asyncio.sleep(self.settings.create_s)
        if self._closed:
            raise SandboxStartFailed("the backend is closed")
        if self._failing_creates:
            self._failing_creates -= 1
            raise SandboxStartFailed("told to fail")
        sandbox = FakeSandbox(self, self.settings.build_tag or self._build_tag)
        self._sandboxes[sandbox.sandbox_id] = sandbox
        return sandbox

    async def close(self) -> None:
        self._closed = True
        self.lose()

    def fail_next_creates(self, times: int) -> None:
        """Let the next ``times`` calls of ``create`` fail."""
        self._failing_creates = times

    def lose(self) -> None:
        """Let every sandbox made so far vanish."""
        for sandbox in list(self._sandboxes.values()):
            sandbox.lose()

    def forget(self, sandbox_id: str) -> None:
        """Keep no sandbox that has ended."""
        self._sandboxes.pop(sandbox_id, None)


class FakeSandbox:
    """Interpreters by session, and a new one for every run without."""

    def __init__(self, backend: FakeBackend, build_tag: str) -> None:
        self._backend, self._build_tag = backend, build_tag
        self._sandbox_id = f"fake-{uuid.uuid4().hex[:12]}"
        self._sessions: dict[str, Interpreter | None] = {}
        self._lost: set[str] = set()
        """Sessions whose interpreter has ended, until it is restarted."""
        self._gone: asyncio.Event = asyncio.Event()

    @property
    def sandbox_id(self) -> str:
        return self._sandbox_id

    async def open_session(
        self,
        session: str,
        forkable: bool = False,  # noqa: ARG002 - every one can be
        limits: Limits | None = None,  # noqa: ARG002 - its programs bring theirs
    ) -> None:
        self._check_alive(may_have_run=False)
        self._sessions.setdefault(session, None)  # its interpreter is made for the limits of its first program

    async def fork_session(self, session: str, forks: list[str]) -> None:
        interpreter = self._interpreter_of(session)
        for name in forks:
            self._sessions[name] = copy.deepcopy(interpreter)

    async def close_session(self, session: str) -> None:
        self._sessions.pop(session, None)

    async def perform(self, session: str, action: Performed) -> Answer:
        interpreter = self._interpreter_of(session)
        if isinstance(action, RestartContext):
            files = interpreter.world.files
            interpreter = self._sessions[session] = Interpreter(_DEFAULTS.memory_mib * 2**20)
            interpreter.world.files.update(files)
            self._lost.discard(session)
            return fake_files.CONTEXT
        return fake_files.perform(interpreter.world.files, action)

    async def follow(self, session: str, action: Followed) -> AsyncGenerator[Event]:
        self._interpreter_of(session)
        raise ActionFailed("unsupported", f"the fake backend cannot {action.kind}; use a real one")
        yield  # makes this a generator

    async def check(self) -> str:
        self._check_alive(may_have_run=False)
        return self._build_tag

    async def close(self) -> None:
        self.lose()

    def lose(self) -> None:
        """Vanish, also under a running program."""
        self._gone.set()
        self._sessions.clear()
        self._backend.forget(self._sandbox_id)

    async def execute(self, program: Program, emit: Emit | None = None) -> ProgramReport:
        self._check_alive(may_have_run=False)
        if program.session is not None:
            if program.session not in self._sessions:
                raise UnknownSession(f"no session {program.session!r} in sandbox {self._sandbox_id}")
            if program.session in self._lost:
                raise ContextLost("the interpreter of this session has ended; restart it, files are kept")
            if program.context not in (None, DEFAULT_CONTEXT):
                raise ContextLost(f"there is no context {program.context!r}: the fake backend has one in a session")
        if program.language != "python":
            raise InvalidRequest("language", "the fake backend understands a little Python only")
        started_at = time.monotonic()
        output = Output(program.limits.output_bytes or _DEFAULTS.output_bytes, emit)
        faults = read_faults(program.code)
        interpreter = self._interpreter_for(program)
        outcome, error, message = await self._run(program, interpreter, output, faults)
        if program.session is not None and (
            faults.hang or outcome in (Outcome.OUT_OF_MEMORY, Outcome.OUTPUT_LIMIT, Outcome.CRASHED)
        ):
            self._lost.add(program.session)
        output.flush()
        results: tuple[RichResult, ...] = ()
        if outcome is Outcome.OK and interpreter.value is not None:
            results = (RichResult(is_main_result=True, text=_clean(repr(interpreter.value))),)
        if emit is not None and results:
            emit(OutputEvent(kind="result", result=results[0]))
        if emit is not None and error:
            emit(OutputEvent(kind="error", error=error))
        files, missing = fake_files.fitting(interpreter.world.files, program.outputs)
        return ProgramReport(
            outcome=outcome,
            stdout=output.text("stdout"),
            stderr=output.text("stderr"),
            results=results,
            error=error,
            files=files,
            files_missing=missing,
            usage=Usage(wall_s=time.monotonic() - started_at, output_bytes=output.total_bytes),
            message=message or _ADVICE.get(outcome),
            isolation=ISOLATION,
            may_have_run=outcome is not Outcome.INFRA,
            sandbox_spent=outcome is Outcome.INFRA,
        )

    def _interpreter_of(self, session: str) -> Interpreter:
        self._check_alive(may_have_run=False)
        if session not in self._sessions:
            raise UnknownSession(f"no session {session!r} in sandbox {self._sandbox_id}")
        interpreter = self._sessions[session]
        if interpreter is None:
            interpreter = self._sessions[session] = Interpreter(_DEFAULTS.memory_mib * 2**20)
        return interpreter

    def _interpreter_for(self, program: Program) -> Interpreter:
        if program.session is not None and self._sessions[program.session] is not None:
            interpreter = self._interpreter_of(program.session)
        else:
            interpreter = Interpreter((program.limits.memory_mib or _DEFAULTS.memory_mib) * 2**20)
        if program.session is not None:
            self._sessions[program.session] = interpreter
        interpreter.world.files.update(program.files)
        interpreter.world.environ.clear()
        interpreter.world.environ.update(program.env)
        return interpreter

    async def _run(
        self, program: Program, interpreter: Interpreter, output: Output, faults: Faults
    ) -> tuple[Outcome, ProgramError | None, str | None]:
        """Let the program run to its end, within its time; what Python raises is the program's doing."""
        ends_at = time.monotonic() + program.timeout_s
        settings = self._backend.settings
        if faults.infra or (settings.failure_rate and self._backend.rng.random() < settings.failure_rate):
            return Outcome.INFRA, None, "told to fail before the program started"
        if faults.wrong_tag:
            self._build_tag = "wrong"
        if faults.lost:
            self.lose()
            self._check_alive(may_have_run=True)
        try:
            await self._pause(settings.execute_s + faults.slow, ends_at)
            for size in _blocks(faults.output):
                output.write("stdout", _BLOCK[:size])
            if faults.hang:
                await self._pause(math.inf, ends_at + _GRACE_S, output)
            if faults.oom or faults.crash:
                return Outcome.OUT_OF_MEMORY if faults.oom else Outcome.CRASHED, None, None
            for seconds in interpreter.run(program.code, output, program.stdin):
                await self._pause(seconds, ends_at, output)
        except _OutOfTime:
            return Outcome.TIMEOUT, None, None
        except OutOfMemory:
            return Outcome.OUT_OF_MEMORY, None, None
        except Flooded:
            return Outcome.OUTPUT_LIMIT, None, None
        except Exited:
            return Outcome.CRASHED, None, None
        except Unsupported as missing:
            return Outcome.INFRA, None, f"the fake backend does not understand {missing}; run this in a real one"
        except SandboxLost:
            raise
        except Exception as raised:  # noqa: BLE001 - whatever the program raised is its result
            return Outcome.ERROR, _describe(raised, interpreter.line), None
        return Outcome.OK, None, None

    async def _pause(self, seconds: float, ends_at: float, output: Output | None = None) -> None:
        """Wait, though no longer than until ``ends_at``, nor when the sandbox vanishes."""
        left_s = ends_at - time.monotonic()
        if seconds > 0:
            if output is not None:
                output.flush()
            try:
                async with asyncio.timeout(min(seconds, max(left_s, 0.0))):
                    await self._gone.wait()
            except TimeoutError:
                if seconds >= left_s:
                    raise _OutOfTime from None
        elif output is not None:
            await asyncio.sleep(0)
        if left_s <= 0:
            raise _OutOfTime
        self._check_alive(may_have_run=True)

    def _check_alive(self, *, may_have_run: bool) -> None:
        if self._gone.is_set():
            raise SandboxLost(f"sandbox {self._sandbox_id} is gone", may_have_run)


class _OutOfTime(BaseException):
    """The program's time is up."""


def _blocks(total: int) -> list[int]:
    whole, rest = divmod(total, len(_BLOCK))
    return [len(_BLOCK)] * whole + ([rest] if rest else [])


def _describe(error: Exception, line: int) -> ProgramError:
    name, value = type(error).__name__, _clean(str(error))
    traceback = f'Traceback (most recent call last):\n  File "<program>", line {line}\n{name}: {value}'
    return ProgramError(name=name, value=value, traceback=traceback)


def _clean(text: str) -> str:
    """Replace what UTF-8 has no bytes for, since a report must survive being sent."""
    return text.encode(errors="backslashreplace").decode()
