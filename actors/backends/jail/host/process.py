"""The ends of one process of a cell that a supervisor holds: its socket, its pipes, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import Callable
from typing import Any

from actors.backends.jail import frames

READ_BYTES = 2**18
MAX_PIPE_BYTES = 2**20  # as much as a program can enlarge a pipe to


def ignore(*_: object) -> None:
    """Let go by."""


class Inmate:
    """An interpreter, or an attendant. Every byte that it sends may be hostile.

    ``on_message`` takes what it says and its size in bytes, ``on_output`` what is written; both are called on the event
    loop. After either, and when it ends, ``changed`` is set.
    """

    def __init__(self, life: int, on_violation: Callable[[Inmate], None]) -> None:
        self.life = life
        self._on_violation = on_violation
        self._loop = asyncio.get_running_loop()
        self._protocol, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        out_r, out_w = os.pipe()
        error_r, error_w = os.pipe()
        self._given = [out_w, error_w]
        self._pipes = {"stdout": out_r, "stderr": error_r}
        self._stdin: tuple[int, memoryview] | None = None
        self._watched: set[int] = set()
        self._decoder = frames.Decoder()
        self.on_message: Callable[[dict[str, Any], int], None] = ignore
        self.on_output: Callable[[str, bytes], None] = ignore
        self.pid = 0
        """Inside; known when it is born."""
        self.last_word: dict[str, Any] | None = None
        """How it ended, if it has."""
        self.violation: str | None = None
        self.changed = asyncio.Event()
        self._protocol.setblocking(False)
        self._watch(self._protocol.fileno(), self._read_protocol)
        for stream, pipe in self._pipes.items():
            os.set_blocking(pipe, False)
            self._watch(pipe, functools.partial(self._read_pipe, stream))

    @property
    def files(self) -> list[int]:
        """Descriptors of its own ends, to be given to it; closed by ``hand_over``."""
        return [self._theirs.fileno(), *self._given]

    def hand_over(self) -> None:
        """It has its ends, or never will."""
        self._theirs.close()
        for fd in self._given:
            os.close(fd)
        self._given = []

    @property
    def ended(self) -> bool:
        return self.last_word is not None

    def end(self, word: dict[str, Any]) -> None:
        """Take in how it ended, after what it had said."""
        self.drain()
        if self.last_word is None:
            self.last_word = word
        self.changed.set()

    async def until(self, condition: Callable[[], bool]) -> bool:
        """Wait until ``condition`` holds, it has ended or broken the protocol; return the condition."""
        while not condition() and not self.ended and self.violation is None:
            self.changed.clear()
            await self.changed.wait()
        return condition()

    async def send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        """Send it a message, with copies of ``fds``; one that has ended is no error."""
        if self.ended or self._protocol.fileno() < 0:
            return
        data = frames.encode(message)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if fds:
                # One byte takes the descriptors along: sendmsg does not promise to send more.
                socket.send_fds(self._protocol, [data[:1]], fds)
                data = data[1:]
            await self._loop.sock_sendall(self._protocol, data)

    def tell(self, message: dict[str, Any]) -> None:
        """Send it something small at once; what it does not take in time is not sent."""
        with contextlib.suppress(OSError):
            self._protocol.send(frames.encode(message))

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

    def leave(self) -> None:
        """Let go of the ends. Idempotent."""
        self._close_stdin()
        for fd in list(self._watched):
            self._unwatch(fd)
        for pipe in self._pipes.values():
            if pipe >= 0:
                os.close(pipe)
        self._pipes = dict.fromkeys(self._pipes, -1)
        self._protocol.close()

    def _read_protocol(self) -> bool:
        if self._protocol.fileno() not in self._watched:
            return False
        try:
            data = self._protocol.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        if not data:
            # A live one never closes its socket.
            self._unwatch(self._protocol.fileno())
            self._loop.call_later(0.1, self.misbehave, "it closed its socket")
            return False
        try:
            for message, size in self._decoder.feed(data):
                self.on_message(message, size)
        except frames.ProtocolViolation as violation:
            self.misbehave(f"it sent {violation}")
        self.changed.set()
        return self.violation is None

    def misbehave(self, violation: str) -> None:
        """It has broken the protocol, and is to be ended."""
        if self.violation is None and not self.ended and self._protocol.fileno() >= 0:
            self.violation = violation
            self._on_violation(self)
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
