"""One interpreter, seen from outside: give it a program, gather what comes back, and end it in time."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import secrets
import signal
import socket
import time
from typing import Any

from actors.backends.base import Emit
from actors.backends.jail import frames, messages, rich
from actors.backends.jail.output import Output
from actors.schemas import Outcome, OutputEvent, Program, ProgramError, RichResult, Usage

COALESCE_S = 0.005
"""How long output is gathered before it is passed on."""
READ_BYTES = 2**18
MAX_RESULTS = 1000
ANSWER_S = 1.0
"""How long process 1, which never runs the program, may take to answer."""


class Ended(Exception):
    """The interpreter can run nothing any more."""


class Run:
    """An interpreter with its pipes, from ready to dead. One program at a time; every byte it sends may be hostile."""

    def __init__(self, control: int, protocol: int, out: int, error: int, pidfd: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._control, self._protocol = socket.socket(fileno=control), socket.socket(fileno=protocol)
        self._pipes = {"stdout": out, "stderr": error}
        self._pidfd = pidfd
        for end in (self._control, self._protocol):
            end.setblocking(False)
        for pipe in self._pipes.values():
            os.set_blocking(pipe, False)
        self._decoder = frames.Decoder()
        self._outputs: dict[str, Output] = {}
        self._emit: Emit | None = None
        self._nonce = ""
        self.results: list[RichResult] = []
        self.error: ProgramError | None = None
        self.exit: int | None = None
        self.usage: dict[str, Any] = {}
        self._changed = asyncio.Event()
        self._verdict: tuple[Outcome, str] | None = None
        self._ready = self._done = self._begun = self._told = False
        self.dead = asyncio.Event()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._stdin = b""
        self._stdin_fd = -1
        self._loop.add_reader(self._control, self._on_control)
        self._loop.add_reader(self._protocol, self._on_protocol)
        self._loop.add_reader(self._pidfd, self._on_death)
        for name, pipe in self._pipes.items():
            self._loop.add_reader(pipe, self._on_output, name)

    async def ready(self, timeout_s: float) -> None:
        """Wait until it has warmed up.

        Raises:
            Ended: it died, or took too long.
        """
        self._outputs = {name: Output(name, 4096, None) for name in ("stdout", "stderr")}
        try:
            async with asyncio.timeout(timeout_s):
                await self._until(lambda: self._ready)
        except TimeoutError:
            raise Ended("the interpreter did not get ready in time") from None
        if not self._ready:
            raise Ended(f"the interpreter died before it was ready: {self._outputs['stderr'].text()[-500:]}")
        self._outputs = {}

    async def execute(self, program: Program, emit: Emit | None, limits: dict[str, Any], grace_s: float) -> tuple[Outcome, str]:
        """Run one program to its end, and return how it ended and why; the rest is in this object's attributes.

        Raises:
            Ended: it was dead before; the program never started.
        """
        bound = program.limits.output_bytes or 0
        self._emit = emit
        self._outputs = {name: Output(name, bound, emit) for name in ("stdout", "stderr")}
        self.results, self.error, self.usage = [], None, {}
        self._done = self._begun = self._told = False
        self._verdict, self._nonce = None, secrets.token_hex(8)
        started_at = time.monotonic()
        await self._begin(program, limits)
        try:
            async with asyncio.timeout_at(self._loop.time() + program.timeout_s):
                await self._until(lambda: self._done)
            timed_out = False
        except TimeoutError:
            timed_out = True
            await self._interrupt(grace_s)
        self._drain()
        if not self.dead.is_set() and self._verdict is None:
            await self._ask({"op": "end"})
        outcome, message = self._judge(timed_out, program)
        for output in self._outputs.values():
            output.flush(final=True)
        if emit is not None and self.error is not None:
            emit(OutputEvent(kind="error", error=self.error))
        self.wall_s = time.monotonic() - started_at
        return outcome, message

    def streams(self) -> dict[str, str]:
        return {name: output.text() for name, output in self._outputs.items()}

    def measured(self) -> Usage:
        written = sum(output.written for output in self._outputs.values())
        return Usage(
            wall_s=self.wall_s,
            cpu_s=self.usage.get("cpu_s"),
            peak_memory_mib=self.usage.get("peak_mib"),
            output_bytes=written,
        )

    def kill(self) -> None:
        """End it with all its processes, at once. Idempotent."""
        if not self.dead.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def closed(self) -> None:
        """Kill it, wait until nothing of it runs, and let go of its pipes."""
        self.kill()
        await self.dead.wait()
