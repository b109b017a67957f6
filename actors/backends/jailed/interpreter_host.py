"""One forked interpreter as its backend sees it: its process, its pipes, its frames."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import struct
import time
from typing import Any

from actors.backends.base import Emit
from actors.backends.jailed import process
from actors.backends.jailed.client import kill
from actors.backends.jailed.inside import frames
from actors.backends.jailed.output import Stream
from actors.errors import SandboxLost
from actors.schemas import Outcome, OutputEvent, Program, ProgramError, ProgramReport, RichResult, Usage

READY_TIMEOUT_S = 20.0
GONE_TIMEOUT_S = 2.0
SEND_TIMEOUT_S = 5.0
MAX_RESULTS_BYTES = 64 * 2**20
POLL_S = 0.25
_FIELDS = {
    "text/plain": "text", "text/html": "html", "text/markdown": "markdown", "image/svg+xml": "svg",
    "image/png": "png", "image/jpeg": "jpeg", "application/pdf": "pdf", "text/latex": "latex",
    "application/json": "json", "application/javascript": "javascript", "e2b/data": "data", "e2b/chart": "chart",
}  # fmt: skip


class Dead(Exception):
    """The interpreter ended by itself."""


class Interpreter:
    """A process that runs programs one at a time, and that nothing else is in."""

    def __init__(self, pidfd: int, control: socket.socket, stdout: int, stderr: int) -> None:
        self._pidfd, self._control, self._stdout, self._stderr = pidfd, control, stdout, stderr
        self.pid = process.pid_of(pidfd)
        self._decoder = frames.Decoder()
        self._messages: asyncio.Queue[dict[str, Any] | Exception] = asyncio.Queue()
        self._closed = False
        control.setblocking(False)
        asyncio.get_running_loop().add_reader(control.fileno(), self._on_control)

    async def ready(self) -> None:
        """Raises SandboxLost: it did not come up."""
        message = await self._next(READY_TIMEOUT_S)
        if message.get("kind") != "ready":
            raise SandboxLost(f"an interpreter did not start: {str(message.get('error'))[:500]}")

    async def tag(self) -> str:
        self._send({"kind": "tag"})
        return str((await self._next(READY_TIMEOUT_S)).get("tag"))

    async def run(
        self, program: Program, bound: int, grace_s: float, limits_mib: int | None, emit: Emit | None
    ) -> ProgramReport:
        """Run one program to its end, however that comes; afterwards nothing of it runs, or it said ``done``."""
        started_at = time.monotonic()
        cpu_before = process.cpu_s(self.pid) or 0.0
        ending: list[Outcome] = []

        def flooded() -> None:
            ending.append(Outcome.OUTPUT_LIMIT)
            self.kill()

        stdout = Stream(self._stdout, "stdout", bound, flooded, emit)
        stderr = Stream(self._stderr, "stderr", bound, flooded, emit)
        results: list[RichResult] = []
        error: ProgramError | None = None
        watch = None
        if limits_mib is not None:
            watch = asyncio.ensure_future(self._watch_memory(limits_mib, ending))
        timers = [asyncio.get_running_loop().call_later(program.timeout_s, self._interrupt, ending)]
        timers.append(asyncio.get_running_loop().call_later(program.timeout_s + grace_s, self.kill))
        nonce, size = secrets.token_hex(8), 0
        finished = False
        message_text: str | None = None
        try:
            self._send_program(program, nonce)
            while not finished:
                message = await self._next(None)
                match message.get("kind"):
                    case "result":
                        for stream in (stdout, stderr):
                            stream.drain()
                        size += len(str(message.get("data")))
                        if size > MAX_RESULTS_BYTES:
                            ending.append(Outcome.OUTPUT_LIMIT)
                            raise frames.ProtocolViolation("more results than are kept")
                        results.append(_rich(message))
                        if emit is not None:
                            emit(OutputEvent(kind="result", result=results[-1]))
                    case "done" if message.get("nonce") == nonce:
                        finished = True
                        error = _error(message.get("error"))
                    case _:
                        raise frames.ProtocolViolation("an unknown frame")
        except Dead:
            pass  # said by ``ending``, or else a crash
        except frames.ProtocolViolation as violation:
            message_text = f"the program broke the interpreter's protocol ({violation}) and was stopped"
            self.kill()
        except BaseException:
            self.kill()
            raise
        finally:
            for timer in timers:
                timer.cancel()
            if watch is not None:
                watch.cancel()
            cpu_after = process.cpu_s(self.pid)
            if not finished:
                self.kill()
                await self._gone()
            for stream in (stdout, stderr):
                with contextlib.suppress(OSError):
                    stream.drain()
                stream.close()
        if error is not None and emit is not None:
            emit(OutputEvent(kind="error", error=error))
        outcome = _outcome(finished, error, ending)
        return ProgramReport.model_construct(
            outcome=outcome,
            stdout=stdout.text(),
            stderr=stderr.text(),
            results=tuple(results),
            error=error,
            usage=Usage.model_construct(
                wall_s=time.monotonic() - started_at,
                cpu_s=round(cpu_after - cpu_before, 3) if cpu_after is not None else None,
                peak_memory_mib=None,
                output_bytes=stdout.total + stderr.total,
            ),
            message=message_text or _message(outcome, program, finished),
            may_have_run=True,
            sandbox_spent=False,
            isolation="",
        )

    def kill(self) -> None:
        """Kill it and every process it started: it is the first of their pid namespace."""
        kill(self._pidfd)

    async def close(self) -> None:
        """Kill it, wait until it is gone, and let go of its descriptors."""
        if self._closed:
            return
        self._closed = True
        self.kill()
        await self._gone()
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        self._control.close()
        for fd in (self._stdout, self._stderr, self._pidfd):
            os.close(fd)

    async def _gone(self) -> None:
        """A pidfd becomes readable when its process has ended, and all of its namespace before it."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._pidfd, lambda: ended.done() or ended.set_result(None))
        try:
            async with asyncio.timeout(GONE_TIMEOUT_S):
                await ended
        except TimeoutError:
            raise SandboxLost("a killed interpreter did not end", may_have_run=True) from None
        finally:
            loop.remove_reader(self._pidfd)

    def _interrupt(self, ending: list[Outcome]) -> None:
        ending.append(Outcome.TIMEOUT)
        kill(self._pidfd, signal.SIGINT)

    async def _watch_memory(self, limit_mib: int, ending: list[Outcome]) -> None:
        """Where no control group limits the sum: many processes, each below its own limit."""
        while True:
            await asyncio.sleep(POLL_S)
            if process.private_mib(self.pid) > limit_mib:
                ending.append(Outcome.OUT_OF_MEMORY)
                self.kill()
                return

    def _send_program(self, program: Program, nonce: str) -> None:
        message = {
            "kind": "run", "nonce": nonce, "code": program.code, "env": program.env,
            "files": {name: base64.b64encode(data).decode() for name, data in program.files.items()},
        }  # fmt: skip
        stdin = os.memfd_create("stdin", os.MFD_CLOEXEC)
        try:
            if program.stdin:
                os.write(stdin, program.stdin)
                os.lseek(stdin, 0, os.SEEK_SET)
            self._send(message, stdin)
        finally:
            os.close(stdin)

    def _send(self, message: dict[str, Any], *fds: int) -> None:
        body = json.dumps(message).encode()
        # A program in a session may have made its interpreter deaf; that must not stop this process for long.
        self._control.settimeout(SEND_TIMEOUT_S)
        try:
            socket.send_fds(self._control, [struct.pack("<I", len(body))], list(fds))
            self._control.sendall(body)
        except OSError as error:
            raise Dead from error
        finally:
            self._control.setblocking(False)

    def _on_control(self) -> None:
        try:
            data = self._control.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._messages.put_nowait(Dead())
            return
        try:
            for message in self._decoder.feed(data):
                self._messages.put_nowait(message)
        except frames.ProtocolViolation as violation:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._messages.put_nowait(violation)

    async def _next(self, timeout_s: float | None) -> dict[str, Any]:
        try:
            async with asyncio.timeout(timeout_s):
                message = await self._messages.get()
        except TimeoutError:
            raise SandboxLost("an interpreter does not answer") from None
        if isinstance(message, Exception):
            if timeout_s is not None:
                raise SandboxLost("an interpreter ended unexpectedly") from message
            raise message
        return message


def _outcome(finished: bool, error: ProgramError | None, ending: list[Outcome]) -> Outcome:
    if ending and (not finished or ending[0] is not Outcome.TIMEOUT or (error and error.name == "KeyboardInterrupt")):
        return ending[0]
    if not finished:
        return Outcome.CRASHED
    if error is None:
        return Outcome.OK
    return Outcome.OUT_OF_MEMORY if error.name == "MemoryError" else Outcome.ERROR


def _message(outcome: Outcome, program: Program, finished: bool) -> str | None:
    match outcome:
        case Outcome.TIMEOUT:
            end = "was interrupted" if finished else "ignored the interrupt and was killed"
            return f"the program did not end within {program.timeout_s:g} s and {end}; raise timeout_s or do less"
        case Outcome.CRASHED:
            return "the interpreter died: a segmentation fault, os._exit or a signal ended it"
        case Outcome.OUT_OF_MEMORY:
            return f"the program needed more than its {program.limits.memory_mib} MiB; raise limits.memory_mib or do with less"
        case Outcome.OUTPUT_LIMIT:
            return "the program wrote a hundred times more than is kept and was stopped"
    return None


def _rich(message: dict[str, Any]) -> RichResult:
    data = message.get("data")
    if not isinstance(data, dict) or not all(isinstance(mime, str) for mime in data):
        raise frames.ProtocolViolation("a malformed result")
    fields: dict[str, Any] = {"is_main_result": bool(message.get("main"))}
    extra = {}
    for mime, value in data.items():
        name = _FIELDS.get(mime)
        if name is None:
            extra[mime] = value
        else:
            fields[name] = value
    try:
        return RichResult(**fields, extra=extra or None)
    except ValueError:
        raise frames.ProtocolViolation("a result of the wrong types") from None


def _error(said: Any) -> ProgramError | None:
    if said is None:
        return None
    if not isinstance(said, dict) or not all(
        isinstance(said.get(name), str) for name in ("name", "value", "traceback")
    ):
        raise frames.ProtocolViolation("a malformed error")
    return ProgramError(name=said["name"], value=said["value"], traceback=said["traceback"])
