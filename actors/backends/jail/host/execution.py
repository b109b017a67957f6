"""The execution of one program in one interpreter: its files and input, its output, its end in time, the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

from actors.backends.base import OUTPUTS_S, PREPARE_S, Emit
from actors.backends.jail import fork_protocol
from actors.backends.jail.frames import ProtocolViolation
from actors.backends.jail.host import results, wire
from actors.backends.jail.host.container import Container
from actors.backends.jail.host.process import ContainerProcess, discard, nobody, open_file, open_pipe, somebody
from actors.backends.jail.host.rpc import RpcClient
from actors.backends.jail.host.run_clock import RunClock
from actors.backends.jail.host.run_limits import EnforcedLimits
from actors.backends.jail.host.usage import ProgramUsage
from actors.backends.output import FLOOD_FACTOR, STREAMS, CapturedStream, Stream
from actors.errors import SandboxFailed, SandboxLost
from actors.schemas import Outcome, OutputEvent, Program, ProgramError, RichResult, Usage

COALESCE_S = 0.005
"""How long output is gathered before it is passed on."""
MAX_RESULTS, MAX_RESULTS_MESSAGES, MAX_RESULTS_BYTES = 1000, 25_000, 64 * 2**20
"""Most values that a program may show at a time, and messages about them and their bytes in all. No honest interpreter
comes near, since it leaves out what is more (``inside/displays.py``); one that does is killed."""
OVERDUE_S = 1.0
"""How long after its time and its grace a program is ended, whatever has become of the task that was to end it."""
_NEED_A_FILE = ("st_size", "getsize", "mmap", "fromfile", "stdin.seek", "stdin.buffer.seek", "fstatSync")
"""Words of programs whose input must be a file, as contests redirect it: it has a size, can be mapped, and can seek.
Others get a pipe, which can be waited for."""

log = logging.getLogger(__name__)
HINTS = {
    Outcome.OUT_OF_MEMORY: "needed more memory than its limit; ask for a higher limits.memory_mib",
    Outcome.OUTPUT_LIMIT: f"wrote more than {FLOOD_FACTOR} times limits.output_bytes and was killed; write to a file",
}


class Execution:
    """The course of one program, and then what came of it."""

    def __init__(
        self,
        container: Container,
        process: ContainerProcess,
        program: Program,
        emit: Emit | None,
        default_output_bytes: int,
        earlier: Iterable[tuple[Stream, bytes]] = (),
    ) -> None:
        self._container, self._process, self._program, self._emit = container, process, program, emit
        self._rpc, self._earlier = RpcClient(process), earlier
        bound = program.limits.output_bytes or default_output_bytes
        self._streams = {name: CapturedStream(name, bound, emit) for name in STREAMS}
        self._clock = RunClock(program, container.meter)
        self._nonce = secrets.token_hex(8)
        self._flush_timer: asyncio.TimerHandle | None = None
        self._flushed_at = 0.0
        self._last_stream: Stream = "stdout"
        self._tick_timer: asyncio.TimerHandle | None = None
        self._done = self._begun = False
        self._out_of_time: str | None = None
        """Why the program had to be interrupted, if it had."""
        self._verdict: tuple[Outcome, str] | None = None
        self._used: ProgramUsage | None = None
        self._wall_s = 0.0
        self._host_before_s = process.host_cpu_s
        self._shown_messages = self._shown_bytes = 0
        self.results: list[RichResult] = []
        self.error: ProgramError | None = None
        self._status: int | None = None

    @property
    def begun(self) -> bool:
        """Whether the program may have started."""
        return self._begun

    def usage(self, peak_mib: float | None) -> Usage:
        """Return what the program used; ``peak_mib`` is given where all its processes are measured together."""
        used = self._used
        if peak_mib is None and used is not None:
            peak_mib = used.peak_mib
        return Usage(
            wall_s=self._wall_s,
            cpu_s=used.cpu_s + self._host_cpu_s if used else None,
            cpu_wait_s=self._clock.waited_s,
            peak_memory_mib=peak_mib,
            output_bytes=sum(stream.written for stream in self._streams.values()),
        )

    @property
    def _host_cpu_s(self) -> float:
        """What the host has spent on the program's messages and output, which is a part of what the program uses."""
        return self._process.host_cpu_s - self._host_before_s

    @property
    def exit_status(self) -> int | None:
        """The status that the program ended with, by its own account or by its process's; None if it was stopped."""
        if self._verdict is not None or self._out_of_time is not None or self._process.violation is not None:
            return None
        return self._status if self._done else (self._process.end_event or {}).get("ended")

    def text(self, stream: Stream) -> str:
        return self._streams[stream].text()

    async def run_to_end(self, limits: EnforcedLimits, start: dict[str, Any] | None, grace_s: float) -> None:
        """Run the program until it has ended, is stopped or is out of time; then measure what it used.

        ``start`` is for an interpreter that has run nothing before: its directory, and whether it is persistent. When
        this returns the program has ended, is to be killed by the caller, or has not ``begun``.

        Raises:
            ActionFailed: one of its files cannot be put in place; nothing ran.
        """
        process = self._process
        process.on_message, process.on_output = self._on_message, self._on_output
        process.somebody_waits = somebody
        for stream, data in self._earlier:
            self._on_output(stream, data)
        if not await self._prepare(limits):
            return
        started_at = time.monotonic()
        loop = asyncio.get_running_loop()
        self._tick_timer = loop.call_later(self._clock.look_s, self._tick, limits)
        watchdog = loop.call_later(self._clock.longest_s + grace_s + OVERDUE_S, self._end_overdue)
        try:
            try:
                async with self._clock.start():
                    await self._begin(limits, start)
                    await process.wait_until(lambda: self._has_ended() or self._out_of_time is not None)
            except TimeoutError:
                self._out_of_time = self._out_of_time or self._clock.wall_time_is_up()
            if self._out_of_time is not None:
                await self._interrupt(grace_s)
        finally:
            self._tick_timer.cancel()
            watchdog.cancel()
        self._wall_s = time.monotonic() - started_at
        process.drain()
        self._measure()
        self._flush(final=True)

    async def abandon(self, grace_s: float) -> bool:
        """Interrupt a program that nobody waits for; return whether its interpreter is fit for another."""
        await self._interrupt(grace_s)
        return self.finished_cleanly

    async def _interrupt(self, grace_s: float) -> None:
        self._container.interrupt(self._process)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._process.wait_until(self._has_ended)

    @property
    def interpreter_ended(self) -> bool:
        return self._process.ended

    async def collect_outputs(self) -> tuple[dict[str, bytes], dict[str, str]]:
        """Return the output files by name, and for each that cannot be had, why.

        The interpreter reads them or, if it is unfit, a guest agent in its place.
        """
        agent: ContainerProcess | None = None
        rpc = self._rpc
        try:
            async with asyncio.timeout(OUTPUTS_S):
                if not self.finished_cleanly:
                    if not self._process.ended:
                        await self._container.kill_process(self._process)
                    agent = await self._container.start_process(fork_protocol.GUEST_AGENT)
                    rpc = agent_rpc = RpcClient(agent)
                    agent.on_message = lambda message, _: agent_rpc.require_answer(message)
                    agent.somebody_waits = somebody
                return await wire.collect(rpc.call, self._program.outputs)
        except (TimeoutError, SandboxFailed) as error:
            return {}, dict.fromkeys(self._program.outputs, f"could not be read: {str(error) or 'it took too long'}")
        finally:
            if agent is not None:
                with contextlib.suppress(SandboxLost):  # what does not die keeps its container, not this program
                    await self._container.kill_process(agent)

    def detach(self, on_output: Callable[[Stream, bytes], None] = discard) -> None:
        """Stop listening to the interpreter; what it writes from now on goes to ``on_output``."""
        self._process.on_message, self._process.on_output = discard, on_output
        self._process.somebody_waits = nobody

    def _measure(self) -> None:
        meter, event = self._container.meter, self._process.end_event
        if event is not None and "ended" in event:
            self._used = meter.measure_ended(event["cpu_s"], event["peak_mib"])
        elif event is None:
            self._used = meter.measure(self._process.pid)

    def _tick(self, limits: EnforcedLimits) -> None:
        meter = self._container.meter
        limits.charge(meter.cpu_s())
        if self._out_of_time is None and not self._has_ended():
            self._out_of_time = self._clock.look(limits.cpu_s, self._host_cpu_s)
        if limits.watched_mib is not None and meter.memory_mib(limits.watched_mib) > limits.watched_mib:
            self._verdict = (Outcome.OUT_OF_MEMORY, HINTS[Outcome.OUT_OF_MEMORY])
        else:
            self._tick_timer = asyncio.get_running_loop().call_later(self._clock.look_s, self._tick, limits)
        self._process.changed.set()

    def _end_overdue(self) -> None:
        log.error("a program outlived its time and is killed", extra={"run_id": self._program.run_id})
        self._verdict = self._verdict or (Outcome.TIMEOUT, self._clock.wall_time_is_up())
        self._process.report_violation("it outlived its time")

    def judge(self, memory_ran_out: bool) -> tuple[Outcome, str | None]:
        """Return how the program ended and, unless that is ``ok`` or ``error``, why."""
        outcome, message = self._judge()
        if memory_ran_out and outcome in (Outcome.CRASHED, Outcome.ERROR):
            outcome, message = Outcome.OUT_OF_MEMORY, None
        if outcome is Outcome.TIMEOUT:
            self.error = None  # the interruption was ours
        if self.error is not None and self._emit is not None:
            self._emit(OutputEvent(kind="error", error=self.error))
        return outcome, message or HINTS.get(outcome)

    @property
    def finished_cleanly(self) -> bool:
        """Whether the interpreter is fit for another program."""
        process = self._process
        return self._done and self._verdict is None and process.violation is None and not process.ended

    def _judge(self) -> tuple[Outcome, str | None]:
        if self._verdict is not None:
            return self._verdict
        if self._out_of_time is not None:
            return Outcome.TIMEOUT, self._out_of_time
        if self._done and self._process.violation is None:
            if self.error is None:
                return Outcome.OK, None
            return (Outcome.OUT_OF_MEMORY if self.error.name == "MemoryError" else Outcome.ERROR), None
        status = self.exit_status
        if self._program.session is None and status is not None and status >= 0:
            if status == 0 and self.error is None:
                return Outcome.OK, None
            self.error = self.error or results.exit_error(status)
            return Outcome.ERROR, None
        return Outcome.CRASHED, f"the interpreter ended before the program did: {self._cause()}"

    def _cause(self) -> str:
        if self._process.violation is not None:
            return f"killed, since {self._process.violation}"
        status = (self._process.end_event or {}).get("ended")
        if status is None:
            return "killed"
        return f"killed by {results.signal_name(-status)}" if status < 0 else f"exit status {status}"

    def _has_ended(self) -> bool:
        return self._done or self._verdict is not None

    async def _prepare(self, limits: EnforcedLimits) -> bool:
        """Put everything in place that the program needs; return whether it can begin.

        This is not of the program's time, nor is it the service's fault where a session's interpreter is busy or gone.
        """
        if limits.resized_mib is None and not self._program.files:
            return not self._process.ended
        try:
            async with asyncio.timeout(PREPARE_S):
                if limits.resized_mib is not None:
                    await self._container.resize(limits.resized_mib)
                await wire.put(self._rpc.call, self._program.files)
        except (TimeoutError, SandboxLost):
            return False
        return not self._process.ended

    async def _begin(self, limits: EnforcedLimits, start: dict[str, Any] | None) -> None:
        process, program = self._process, self._program
        self._begun = True
        request = {
            "kind": "program",
            "code": program.code,
            "language": program.language,
            "env": program.env,
            "seed": program.seed,
            "begin": None if start is None else {"limits": limits.for_process(), **start},
            "nonce": self._nonce,
            "ordered": self._emit is not None,
        }
        if program.stdin is None:
            await process.send(request)
            return
        if any(word in program.code for word in _NEED_A_FILE):
            read_fd = open_file(program.stdin)
        else:
            read_fd, write_fd = open_pipe()
            process.feed_stdin(write_fd, program.stdin)
        try:
            await process.send(request, [read_fd])
        finally:
            os.close(read_fd)

    def _on_message(self, message: dict[str, Any], size: int) -> None:
        if self._verdict is not None or self._rpc.take_answer(message):
            return  # once it is to be ended, nothing that it says matters
        match message.get("kind"):
            case "done" if message.get("nonce") == self._nonce:
                self._done, self._status = True, results.status_of(message, self.error)
            case "result" if self._has_room(size):
                self._add(results.result_of(message), update=message.get("update") is True)
            case "clear" if self._has_room(size):
                self.results.clear()
            case "result" | "clear":
                self._verdict = self._verdict or (Outcome.OUTPUT_LIMIT, "displayed too many or too large values")
            case "error" if self.error is None:  # a program fails once
                self.error = results.error_of(message)
            case _:
                raise ProtocolViolation("a message out of turn")

    def _has_room(self, size: int) -> bool:
        self._shown_messages += 1
        self._shown_bytes += size
        return (
            len(self.results) < MAX_RESULTS
            and self._shown_messages <= MAX_RESULTS_MESSAGES
            and self._shown_bytes <= MAX_RESULTS_BYTES
        )

    def _add(self, result: RichResult, *, update: bool) -> None:
        shown = enumerate(self.results) if update else ()
        places = [place for place, old in shown if old.display_id == result.display_id]
        for place in places:
            self.results[place] = result
        if not places:
            self.results.append(result)
        self._process.drain_output()  # what was printed before it comes before it
        self._flush()
        if self._emit is not None:
            self._emit(OutputEvent(kind="result", result=result))
            if not result.is_main_result:
                self._process.send_nowait({"kind": "shown"})  # it waits for that, lest what it prints next come before

    def _on_output(self, name: Stream, data: bytes) -> None:
        if name != self._last_stream:
            self._flush()
            self._last_stream = name
        stream = self._streams[name]
        stream.write(data)
        if stream.flooded and self._verdict is None:
            self._verdict = (Outcome.OUTPUT_LIMIT, HINTS[Outcome.OUTPUT_LIMIT])
        if self._emit is not None and self._flush_timer is None:
            # What comes after a silence is passed on at once, what follows it soon is gathered first.
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
        for stream in self._streams.values():
            stream.flush(final)
