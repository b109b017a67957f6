"""One program in one interpreter: give it what it needs, gather what it puts out, end it in time, judge its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import time
from typing import Any

from actors.backends.base import Emit
from actors.backends.jail import fork_protocol
from actors.backends.jail.frames import ProtocolViolation
from actors.backends.jail.host import results, wire
from actors.backends.jail.host.container import Cell
from actors.backends.jail.host.process import Inmate, ignore
from actors.backends.jail.host.rpc import Questions
from actors.backends.jail.host.run_limits import Allowance
from actors.backends.jail.host.usage import Used
from actors.backends.output import FLOOD_FACTOR, Output
from actors.errors import SandboxFailed
from actors.schemas import Outcome, OutputEvent, Program, ProgramError, RichResult, Usage

COALESCE_S = 0.005
"""How long output is gathered before it is passed on."""
MAX_RESULTS, MAX_RESULTS_BYTES = 1000, 64 * 2**20
OUTPUTS_S = 15.0
"""For all outputs of a run together."""
TICK_S = 0.25
"""How often limits that no control group watches are looked at."""

ADVICE = {
    Outcome.TIMEOUT: "still running when its time was up, and stopped; ask for a longer timeout_s",
    Outcome.OUT_OF_MEMORY: "needed more memory than its limit; ask for a higher limits.memory_mib",
    Outcome.OUTPUT_LIMIT: f"wrote more than {FLOOD_FACTOR} times limits.output_bytes and was killed; write to a file",
}


class Run:
    """The course of one program; made for one ``execute``, then holds what came of it."""

    def __init__(
        self, cell: Cell, inmate: Inmate, program: Program, emit: Emit | None, default_output_bytes: int
    ) -> None:
        self._cell, self._inmate, self._program, self._emit = cell, inmate, program, emit
        self._questions = Questions(inmate)
        bound = program.limits.output_bytes or default_output_bytes
        self._outputs = {"stdout": Output("stdout", bound, emit), "stderr": Output("stderr", bound, emit)}
        self._nonce = secrets.token_hex(8)
        self._flush_timer: asyncio.TimerHandle | None = None
        self._flushed_at = 0.0
        self._last_stream = "stdout"
        self._tick_timer: asyncio.TimerHandle | None = None
        self._done = self._begun = self._timed_out = False
        self._verdict: tuple[Outcome, str] | None = None
        self._used: Used | None = None
        self._wall_s = 0.0
        self._shown_bytes = 0
        self.results: list[RichResult] = []
        self.error: ProgramError | None = None

    @property
    def begun(self) -> bool:
        """Whether the program may have started."""
        return self._begun

    def usage(self, peak_mib: float | None) -> Usage:
        """Return what the program used; ``peak_mib`` is known where all its processes are measured together."""
        used = self._used
        if peak_mib is None and used is not None:
            peak_mib = used.peak_mib
        return Usage(
            wall_s=self._wall_s,
            cpu_s=used.cpu_s if used else None,
            peak_memory_mib=peak_mib,
            output_bytes=sum(output.written for output in self._outputs.values()),
        )

    def text(self, stream: str) -> str:
        return self._outputs[stream].text()

    async def execute(self, allowance: Allowance, start: dict[str, Any] | None, grace_s: float) -> None:
        """Run the program until it has ended, is stopped or is out of time; then see what it used.

        ``start`` tells an interpreter that has run nothing before what it is to be. When this returns the program has
        ended or is about to be killed by the caller.

        Raises:
            ActionFailed: one of its files cannot be put in place; nothing ran.
        """
        inmate = self._inmate
        inmate.on_message, inmate.on_output = self._on_message, self._on_output
        started_at = time.monotonic()
        self._tick_timer = asyncio.get_running_loop().call_later(TICK_S, self._tick, allowance)
        try:
            async with asyncio.timeout(self._program.timeout_s):
                await self._begin(allowance, start)
                await inmate.until(self._has_ended)
        except TimeoutError:
            self._timed_out = True
            self._cell.interrupt(inmate)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await inmate.until(self._has_ended)
        finally:
            self._tick_timer.cancel()
        self._wall_s = time.monotonic() - started_at
        inmate.drain()
        self._measure()
        self._flush(final=True)

    async def give_up(self, grace_s: float) -> bool:
        """Interrupt a program that nobody waits for; return whether its interpreter is fit for another."""
        self._cell.interrupt(self._inmate)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._inmate.until(self._has_ended)
        return self.finished_cleanly

    async def ask(self, action: dict[str, Any]) -> Any:
        """Have the interpreter do something before or after its program.

        Raises:
            ActionFailed, SandboxLost: as ``Questions.ask``.
        """
        return await self._questions.ask(action)

    @property
    def interpreter_ended(self) -> bool:
        return self._inmate.ended

    async def outputs(self) -> tuple[dict[str, bytes], dict[str, str]]:
        """Bring back the files that were asked for; the interpreter does so, or an attendant in its place.

        Returns them by name, and of those that cannot be had, why.
        """
        attendant: Inmate | None = None
        ask = self.ask
        try:
            async with asyncio.timeout(OUTPUTS_S):
                if not self.finished_cleanly:
                    if not self._inmate.ended:
                        await self._cell.dismiss(self._inmate)
                    attendant = await self._cell.join(fork_protocol.ATTENDANT)
                    questions = Questions(attendant)
                    attendant.on_message = lambda message, _: questions.expect(message)
                    ask = questions.ask
                return await wire.collect(ask, self._program.outputs)
        except (TimeoutError, SandboxFailed) as error:
            return {}, dict.fromkeys(self._program.outputs, f"could not be read: {error or 'it took too long'}")
        finally:
            if attendant is not None:
                await self._cell.dismiss(attendant)

    def leave(self) -> None:
        """Listen to the interpreter no more."""
        self._inmate.on_message = self._inmate.on_output = ignore

    def _measure(self) -> None:
        meter, word = self._cell.meter, self._inmate.last_word
        if word is not None and "ended" in word:
            self._used = meter.used_by_ended(word["cpu_s"], word["peak_mib"])
        elif word is None:
            self._used = meter.used(self._inmate.pid)

    def _tick(self, allowance: Allowance) -> None:
        meter = self._cell.meter
        if meter.cpu_s() > allowance.cpu_s:
            self._verdict = (Outcome.TIMEOUT, "used more CPU time than limits.cpu_s and was stopped")
        elif allowance.watched_mib is not None and meter.memory_mib(allowance.watched_mib) > allowance.watched_mib:
            self._verdict = (Outcome.OUT_OF_MEMORY, ADVICE[Outcome.OUT_OF_MEMORY])
        else:
            self._tick_timer = asyncio.get_running_loop().call_later(TICK_S, self._tick, allowance)
            return
        self._inmate.changed.set()

    def judge(self, memory_ran_out: bool) -> tuple[Outcome, str | None]:
        """Return how the program ended, and for what is neither ``ok`` nor ``error`` why."""
        outcome, message = self._judge()
        if memory_ran_out and outcome in (Outcome.CRASHED, Outcome.ERROR):
            outcome, message = Outcome.OUT_OF_MEMORY, None
        if outcome is Outcome.TIMEOUT:
            self.error = None  # the interruption was ours
        if self.error is not None and self._emit is not None:
            self._emit(OutputEvent(kind="error", error=self.error))
        return outcome, message or ADVICE.get(outcome)

    @property
    def finished_cleanly(self) -> bool:
        """Whether the interpreter is fit for another program of its session."""
        return self._done and self._verdict is None and not self._inmate.ended

    def _judge(self) -> tuple[Outcome, str | None]:
        if self._verdict is not None:
            return self._verdict
        if self._timed_out:
            return Outcome.TIMEOUT, None
        if self._done and self._inmate.violation is None:
            if self.error is None:
                return Outcome.OK, None
            return (Outcome.OUT_OF_MEMORY if self.error.name == "MemoryError" else Outcome.ERROR), None
        return Outcome.CRASHED, f"the interpreter ended before the program did: {self._cause()}"

    def _cause(self) -> str:
        if self._inmate.violation is not None:
            return f"killed, since {self._inmate.violation}"
        status = (self._inmate.last_word or {}).get("ended")
        if status is None:
            return "killed"
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

    def _has_ended(self) -> bool:
        return self._done or self._verdict is not None

    async def _begin(self, allowance: Allowance, start: dict[str, Any] | None) -> None:
        inmate, program = self._inmate, self._program
        if allowance.resized_mib is not None:
            await self._cell.resize(allowance.resized_mib)
        if inmate.ended:
            return
        if program.files:
            await wire.put(self.ask, program.files)
        self._begun = True
        request = {
            "kind": "program",
            "code": program.code,
            "language": program.language,
            "env": program.env,
            "seed": program.seed,
            "begin": None if start is None else {"limits": allowance.own(), **start},
            "nonce": self._nonce,
            "ordered": self._emit is not None,
        }
        if program.stdin is None:
            await inmate.send(request)
            return
        read_fd, write_fd = os.pipe()
        inmate.feed_stdin(write_fd, program.stdin)
        try:
            await inmate.send(request, [read_fd])
        finally:
            os.close(read_fd)

    def _on_message(self, message: dict[str, Any], size: int) -> None:
        if self._questions.answered(message):
            return
        match message.get("kind"):
            case "done" if message.get("nonce") == self._nonce:
                self._done = True
            case "result":
                self._add(results.result_of(message), size)
            case "error" if self.error is None:  # a program fails once
                self.error = results.error_of(message)
            case _:
                raise ProtocolViolation("a message out of turn")

    def _add(self, result: RichResult, size: int) -> None:
        self._shown_bytes += size
        if len(self.results) == MAX_RESULTS or self._shown_bytes > MAX_RESULTS_BYTES:
            self._verdict = self._verdict or (Outcome.OUTPUT_LIMIT, "displayed too many or too large values")
            return
        self.results.append(result)
        self._inmate.drain()  # what was printed before it comes before it
        self._flush()
        if self._emit is not None:
            self._emit(OutputEvent(kind="result", result=result))
            if not result.is_main_result:
                self._inmate.tell({"kind": "shown"})  # which it waits for, lest what it prints next come before

    def _on_output(self, stream: str, data: bytes) -> None:
        if stream != self._last_stream:
            self._flush()
            self._last_stream = stream
        output = self._outputs[stream]
        output.write(data)
        if output.flooded and self._verdict is None:
            self._verdict = (Outcome.OUTPUT_LIMIT, ADVICE[Outcome.OUTPUT_LIMIT])
        if self._emit is not None and self._flush_timer is None:
            # What comes after a silence is passed on at once, what follows it soon is gathered.
            loop = asyncio.get_running_loop()
            quiet_s = loop.time() - self._flushed_at
            if quiet_s >= COALESCE_S:
                self._flush()
            else:
                self._flush_timer = loop.call_later(COALESCE_S - quiet_s, self._flush)

    def _flush(self, final: bool = False) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        self._flushed_at = asyncio.get_running_loop().time()
        for output in self._outputs.values():
            output.flush(final)
