"""A fake sandbox: sessions that keep names and files, and programs that take as long and end as they are told."""

from __future__ import annotations

import asyncio
import math
import random
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Literal

from actors.backends.base import Emit
from actors.backends.fake import files as fake_files
from actors.backends.fake.directives import Directive
from actors.backends.fake.interpreter import FakeInterpreter, Unsupported, clean
from actors.backends.output import FLOOD_FACTOR, CapturedStream
from actors.config import FakeSettings, RunLimits
from actors.errors import (
    ActionFailed,
    ContextLost,
    InvalidRequest,
    SandboxLost,
    ServiceError,
    Throttled,
    UnknownSession,
)
from actors.schemas import Limits, Outcome, OutputEvent, Program, ProgramError, ProgramReport, RichResult, Usage
from actors.schemas.action import DEFAULT_CONTEXT, Answer, Event, Followed, Performed, RestartContext

ISOLATION = "none: the fake backend runs nothing"
_OUTPUT_BYTES = RunLimits().output_bytes
_GRACE_S = 0.1  # between interrupting a program and killing it
_MESSAGES = {
    Outcome.TIMEOUT: "still running when its time was up, and stopped; ask for a longer timeout_s",
    Outcome.OUT_OF_MEMORY: "needed more memory than its limit; ask for a higher limits.memory_mib",
    Outcome.OUTPUT_LIMIT: f"wrote more than {FLOOD_FACTOR} times limits.output_bytes and was killed; write to a file",
    Outcome.CRASHED: "its interpreter ended without a word",
    Outcome.INFRA: "told to fail before the program started",
}
_ENDS = {"oom": Outcome.OUT_OF_MEMORY, "crash": Outcome.CRASHED, "infra": Outcome.INFRA}
"""What a program that says so ends as."""


class FakeSandbox:
    """An interpreter for each session, and a new one for every run without; ``on_end`` is told its id."""

    def __init__(
        self, settings: FakeSettings, build_tag: str, rng: random.Random, on_end: Callable[[str], None]
    ) -> None:
        self._settings, self._build_tag, self._rng, self._on_end = settings, build_tag, rng, on_end
        self._sandbox_id = f"fake-{uuid.uuid4().hex[:12]}"
        self._sessions: dict[str, FakeInterpreter] = {}
        self._gone = asyncio.Event()

    @property
    def sandbox_id(self) -> str:
        return self._sandbox_id

    async def open_session(
        self,
        session: str,
        forkable: bool = False,  # noqa: ARG002 - every one can be
        limits: Limits | None = None,  # noqa: ARG002 - its programs bring theirs
    ) -> None:
        self._check_alive()
        self._sessions.setdefault(session, FakeInterpreter())

    async def fork_session(self, session: str, forks: list[str]) -> None:
        origin = self._interpreter_of(session)
        for name in forks:
            self._sessions[name] = FakeInterpreter(dict(origin.names), dict(origin.files), origin.alive)

    async def close_session(self, session: str) -> None:
        self._sessions.pop(session, None)

    async def perform(self, session: str, action: Performed) -> Answer:
        interpreter = self._interpreter_of(session)
        if isinstance(action, RestartContext):
            self._sessions[session] = FakeInterpreter(files=interpreter.files)
            return fake_files.CONTEXT
        return fake_files.perform(interpreter.files, action)

    def follow(self, session: str, action: Followed) -> AsyncGenerator[Event]:
        self._interpreter_of(session)
        raise ActionFailed("unsupported", f"the fake backend cannot {action.kind}; use a real one")

    async def check(self) -> str:
        self._check_alive()
        return self._build_tag

    async def close(self) -> None:
        self.lose()

    def lose(self) -> None:
        """Vanish, also under a running program."""
        self._gone.set()
        self._sessions.clear()
        self._on_end(self._sandbox_id)

    async def execute(self, program: Program, emit: Emit | None = None) -> ProgramReport:
        interpreter = self._interpreter_for(program)
        streams = _Streams(program.limits.output_bytes or _OUTPUT_BYTES, emit)
        started_at = time.monotonic()
        outcome, message = Outcome.OK, None
        error: ProgramError | None = None
        results: tuple[RichResult, ...] = ()
        try:
            await self._run(program, interpreter, streams)
        except _Ended as ended:
            outcome = ended.outcome
        except Unsupported as unsupported:
            outcome, message = Outcome.INFRA, str(unsupported)
        except ServiceError:
            raise
        except Exception as raised:  # noqa: BLE001 - whatever the program raised is its result
            outcome, error = Outcome.ERROR, interpreter.describe(raised)
        streams.flush()
        if outcome is Outcome.OK and interpreter.value is not None:
            results = (RichResult(is_main_result=True, text=clean(repr(interpreter.value))),)
        if emit is not None:
            for result in results:
                emit(OutputEvent(kind="result", result=result))
            if error is not None:
                emit(OutputEvent(kind="error", error=error))
        files, missing = fake_files.fitting(interpreter.files, program.outputs)
        return ProgramReport(
            outcome=outcome,
            stdout=streams.stdout.text(),
            stderr=streams.stderr.text(),
            results=results,
            error=error,
            exit_status={Outcome.OK: 0, Outcome.ERROR: 1}.get(outcome),
            files=files,
            files_missing=missing,
            usage=Usage(wall_s=time.monotonic() - started_at, output_bytes=streams.written),
            message=message or _MESSAGES.get(outcome),
            isolation=ISOLATION,
            may_have_run=outcome is not Outcome.INFRA,
            sandbox_spent=outcome is Outcome.INFRA,
        )

    def _interpreter_of(self, session: str) -> FakeInterpreter:
        self._check_alive()
        if session not in self._sessions:
            raise UnknownSession(f"no session {session!r} in sandbox {self._sandbox_id}")
        return self._sessions[session]

    def _interpreter_for(self, program: Program) -> FakeInterpreter:
        self._check_alive()
        interpreter = FakeInterpreter() if program.session is None else self._interpreter_of(program.session)
        if not interpreter.alive:
            raise ContextLost("the interpreter of this session has ended; restart it, files are kept")
        if program.context not in (None, DEFAULT_CONTEXT):
            raise ContextLost(f"there is no context {program.context!r}: the fake backend has one in a session")
        if program.language != "python":
            raise InvalidRequest("language", "the fake backend understands a little Python only")
        interpreter.files.update(program.files)
        return interpreter

    async def _run(self, program: Program, interpreter: FakeInterpreter, streams: _Streams) -> None:
        """Let a program run to its end, within its time.

        Raises:
            _Ended: it came to no end of its own.
            SandboxLost: the sandbox vanished meanwhile.
            Exception: whatever else the interpreter raises.
        """
        ends_at = time.monotonic() + program.timeout_s
        if self._settings.failure_rate and self._rng.random() < self._settings.failure_rate:
            raise _Ended(Outcome.INFRA)
        await self._pause(self._settings.execute_s, ends_at)
        try:
            for fault in interpreter.run(program, streams.write):
                streams.flush()
                await self._befall(fault, interpreter, ends_at)
        except _Ended as ended:
            if ended.outcome not in (Outcome.TIMEOUT, Outcome.INFRA):
                interpreter.alive = False
            raise

    async def _befall(self, fault: Directive, interpreter: FakeInterpreter, ends_at: float) -> None:
        match fault.name:
            case "slow":
                await self._pause(float(fault.argument), ends_at)
            case "hang":
                interpreter.alive = False
                await self._pause(math.inf, ends_at + _GRACE_S)
            case "wrong-tag":
                self._build_tag = "wrong"
            case "throttled":
                raise Throttled("told to be throttled")
            case "lost":
                self.lose()
                self._check_alive(may_have_run=True)
            case end:
                raise _Ended(_ENDS[end])

    async def _pause(self, seconds: float, ends_at: float) -> None:
        """Wait, though no longer than until ``ends_at``, nor when the sandbox vanishes."""
        left_s = ends_at - time.monotonic()
        if seconds > 0:
            try:
                async with asyncio.timeout(min(seconds, max(left_s, 0.0))):
                    await self._gone.wait()
            except TimeoutError:
                if seconds >= left_s:
                    raise _Ended(Outcome.TIMEOUT) from None
        self._check_alive(may_have_run=True)

    def _check_alive(self, may_have_run: bool = False) -> None:
        if self._gone.is_set():
            raise SandboxLost(f"sandbox {self._sandbox_id} is gone", may_have_run)


class _Ended(Exception):
    """The program came to an end that was not its own."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class _Streams:
    """What a program writes, in order: a stream is passed on before the other is written to."""

    def __init__(self, bound: int, emit: Emit | None) -> None:
        self.stdout, self.stderr = CapturedStream("stdout", bound, emit), CapturedStream("stderr", bound, emit)

    @property
    def written(self) -> int:
        return self.stdout.written + self.stderr.written

    def write(self, stream: Literal["stdout", "stderr"], text: str) -> None:
        output, other = (self.stdout, self.stderr) if stream == "stdout" else (self.stderr, self.stdout)
        other.flush()
        output.write(text.encode(errors="backslashreplace"))
        if output.flooded:
            raise _Ended(Outcome.OUTPUT_LIMIT)

    def flush(self) -> None:
        self.stdout.flush()
        self.stderr.flush()
