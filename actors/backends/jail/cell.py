"""The ends of one cell that a supervisor holds: the interpreter's pipes and socket, and the cell's life."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from actors.backends.jail import client, frames, messages
from actors.backends.jail.accounts import Meter
from actors.errors import SandboxLost, SandboxStartFailed

READY_S = 20.0
DIES_S = 10.0
READ_BYTES = 2**18
MAX_PIPE_BYTES = 2**20  # as much as a program can enlarge a pipe to


def ignore(*_: object) -> None:
    """Let go by."""


class Cell:
    """A place where one interpreter after another lives. Every byte that an interpreter sends may be hostile.

    ``on_message`` takes what the interpreter says and its size in bytes, ``on_output`` what is written; both are called
    on the event loop. After either, and when the interpreter ends, ``changed`` is set.
    """

    def __init__(self, kind: str, control: socket.socket, pidfd: int) -> None:
        self.kind = kind
        self._control, self._pidfd = control, pidfd
        self._loop = asyncio.get_running_loop()
        self.meter = Meter(-1)
        self._life = 0
        self._protocol: socket.socket | None = None
        self._pipes = {"stdout": -1, "stderr": -1}
        self._stdin: tuple[int, memoryview] | None = None
        self._watched: set[int] = set()
        self._decoder = frames.Decoder()
        self.on_message: Callable[[dict[str, Any], int], None] = ignore
        self.on_output: Callable[[str, bytes], None] = ignore
        self.interpreter = 0
        """The interpreter's pid inside."""
        self.last_word: dict[str, Any] | None = None
        """How the interpreter ended, if it has."""
        self.cleared = self._loop.create_future()
        """Done when nothing is left of the interpreter before."""
        self.cleared.set_result(None)
        self.resized = False
        self.violation: str | None = None
        self.changed = asyncio.Event()
        self.gone = asyncio.Event()
        self._control.setblocking(False)

    async def open(self) -> None:
        """Wait until the cell itself stands.

        Raises:
            SandboxStartFailed: it does not.
        """
        try:
            async with asyncio.timeout(READY_S):
                word, fds = await client.receive(self._control)
        except TimeoutError:
            raise SandboxStartFailed("a cell was not made in time") from None
        finally:
            # Not before: its end would close the socket under whoever waits for its first word.
            self._loop.add_reader(self._pidfd, self._end)
        if word is None or "cell" not in word:
            raise SandboxStartFailed(f"no cell was made: {(word or {}).get('failed', 'it ended at once')}")
        self.meter = Meter(fds[0])
        self._loop.add_reader(self._control, self._read_control)

    def retire(self) -> None:
        """The interpreter's work is over; what it left counts until ``renew`` has cleared it away."""
        self.cleared = self._loop.create_future()

    async def renew(self, disk_mib: int) -> None:
        """Have a new interpreter where the old one, with all that it left, is no more.

        Raises:
            SandboxStartFailed: there is none.
        """
        self._leave()
        self._decoder = frames.Decoder()
        self.interpreter = 0
        self.last_word = self.violation = None
        said: list[bytes] = []
        ready: list[bool] = []
        self.on_output = lambda _, data: said.append(data)
        self.on_message = lambda message, _: ready.append(message.get("kind") == "ready")
        self._order_birth(disk_mib)
        try:
            async with asyncio.timeout(READY_S):
                await self.until(lambda: bool(ready))
        except TimeoutError:
            raise SandboxStartFailed("an interpreter was not ready in time") from None
        self.on_output = self.on_message = ignore
        if not ready:
            word: dict[str, Any] = self.last_word or {}
            reason = word.get("failed") or b"".join(said)[-500:].decode(errors="replace")
            raise SandboxStartFailed(f"an interpreter died before it was ready: {reason}")
        self.meter.restart(self.interpreter)

    @property
    def ended(self) -> bool:
        """Whether the interpreter has."""
        return self.last_word is not None or self.gone.is_set()

    async def until(self, condition: Callable[[], bool]) -> bool:
        """Wait until ``condition`` holds, the interpreter has ended or broken the protocol; return the condition."""
        while not condition() and not self.ended and self.violation is None:
            self.changed.clear()
            await self.changed.wait()
        return condition()

    async def send(self, message: dict[str, Any], fd: int | None = None) -> None:
        """Send the interpreter a message, with a copy of ``fd``; one that has ended is no error."""
        if self.ended or self._protocol is None:
            return
        data = frames.encode(message)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if fd is not None:
                # One byte takes the descriptor along: sendmsg does not promise to send more.
                socket.send_fds(self._protocol, [data[:1]], [fd])
                data = data[1:]
            await self._loop.sock_sendall(self._protocol, data)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the program."""
        self._notify({"op": "interrupt"})

    async def resize(self, disk_mib: int) -> None:
        """Change how much the interpreter may write."""
        self.resized = False
        self._notify({"op": "resize", "disk_mib": disk_mib})
        await self.until(lambda: self.resized)

    def feed_stdin(self, fd: int, data: bytes) -> None:
        """Write ``data`` to a pipe as it is read, then close it."""
        self._close_stdin()
        os.set_blocking(fd, False)
        self._stdin = (fd, memoryview(data))
        self._loop.add_writer(fd, self._write_stdin)
        self._write_stdin()

    def drain(self) -> None:
        """Take what is in the socket and the pipes already."""
        while self._read_protocol():
            pass
        for stream in self._pipes:
            left = MAX_PIPE_BYTES
            while left > 0 and (count := self._read_pipe(stream)):
                left -= count

    def kill(self) -> None:
        """End the cell and all in it, at once. Idempotent."""
        if not self.gone.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def close(self) -> None:
        """Kill it and return when nothing of it runs any more.

        Raises:
            SandboxLost: it does not die; the kernel holds on to one of its processes.
        """
        self.kill()
        try:
            async with asyncio.timeout(DIES_S):
                await self.gone.wait()
        except TimeoutError:
            raise SandboxLost("a killed cell does not end") from None

    def _order_birth(self, disk_mib: int) -> None:
        self._protocol, protocol = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        out_r, out_w = os.pipe()
        error_r, error_w = os.pipe()
        self._pipes = {"stdout": out_r, "stderr": error_r}
        with protocol:
            self._life += 1
            self._notify({"op": "birth", "life": self._life, "disk_mib": disk_mib}, [protocol.fileno(), out_w, error_w])
        os.close(out_w)
        os.close(error_w)
        self._protocol.setblocking(False)
        self._watch(self._protocol.fileno(), self._read_protocol)
        for stream, pipe in self._pipes.items():
            os.set_blocking(pipe, False)
            self._watch(pipe, functools.partial(self._read_pipe, stream))

    def _notify(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        """Tell process 1 something; a cell that has ended is no error."""
        if not self.gone.is_set():
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                messages.send(self._control, message, fds)

    def _read_control(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while (word := messages.receive(self._control)[0]) is not None:
                if "resized" in word:
                    self.resized = True
                elif word.get("life", self._life) != self._life:
                    continue  # of an interpreter that is forgotten
                elif "cleared" in word:
                    self._set_cleared()
                elif "born" in word:
                    self.interpreter = word["born"]
                else:
                    self.drain()
                    self.last_word = word
                self.changed.set()
            self._loop.remove_reader(self._control)

    def _read_protocol(self) -> bool:
        if self._protocol is None or self._protocol.fileno() not in self._watched:
            return False
        try:
            data = self._protocol.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        if not data:
            # A live interpreter never closes its socket.
            self._unwatch(self._protocol.fileno())
            self._loop.call_later(0.1, self._break, self._protocol, "it closed its socket")
            return False
        try:
            for message, size in self._decoder.feed(data):
                self.on_message(message, size)
        except frames.ProtocolViolation as violation:
            self._break(self._protocol, f"it sent {violation}")
        self.changed.set()
        return self.violation is None

    def _break(self, protocol: socket.socket, violation: str) -> None:
        if self._protocol is protocol and self.violation is None and not self.ended:
            self.violation = violation
            self.kill()
            self.changed.set()

    def _read_pipe(self, stream: str) -> int:
        pipe = self._pipes[stream]
        if pipe < 0:
            return 0
        try:
            data = os.read(pipe, READ_BYTES)
        except BlockingIOError:
            return 0
        if data:
            self.on_output(stream, data)
            self.changed.set()
        else:
            self._unwatch(pipe)
            os.close(pipe)
            self._pipes[stream] = -1
        return len(data)

    def _write_stdin(self) -> None:
        if self._stdin is None:
            return
        fd, data = self._stdin
        try:
            written = os.write(fd, data[: 2**16])
        except BlockingIOError:
            return
        except BrokenPipeError:
            written = len(data)  # nobody reads it any more
        self._stdin = (fd, data[written:])
        if written == len(data):
            self._close_stdin()

    def _close_stdin(self) -> None:
        if self._stdin is not None:
            fd, _ = self._stdin
            self._loop.remove_writer(fd)
            os.close(fd)
            self._stdin = None

    def _watch(self, fd: int, callback: Callable[[], object]) -> None:
        self._loop.add_reader(fd, callback)
        self._watched.add(fd)

    def _unwatch(self, fd: int) -> None:
        if fd in self._watched:
            self._watched.remove(fd)
            self._loop.remove_reader(fd)

    def _leave(self) -> None:
        """Let go of the interpreter's ends."""
        self._close_stdin()
        for fd in list(self._watched):
            self._unwatch(fd)
        for pipe in self._pipes.values():
            if pipe >= 0:
                os.close(pipe)
        self._pipes = dict.fromkeys(self._pipes, -1)
        if self._protocol is not None:
            self._protocol.close()
            self._protocol = None

    def _end(self) -> None:
        """The kernel says that process 1, and so all of them, are gone."""
        self._read_control()
        self.drain()
        self._leave()
        self._loop.remove_reader(self._control)
        self._loop.remove_reader(self._pidfd)
        self._control.close()
        os.close(self._pidfd)
        self.meter.close()
        self.gone.set()
        self._set_cleared()
        self.changed.set()

    def _set_cleared(self) -> None:
        if not self.cleared.done():
            self.cleared.set_result(None)
