"""The ends of one interpreter that a supervisor holds: its pipes, its sockets and its life."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from actors.backends.jail import frames, messages

READ_BYTES = 2**18
MAX_PIPE_BYTES = 2**20  # as much as a program can enlarge a pipe to


def ignore(*_: object) -> None:
    """Let go by."""


class Process:
    """One interpreter and its process 1. Every byte that it sends may be hostile, process 1's excepted.

    ``on_message`` takes what the interpreter says and its size in bytes, ``on_notice`` what process 1 says,
    ``on_output`` what is written; all are called on the event loop. After any of them ``changed`` is set.
    """

    def __init__(self, fds: list[int]) -> None:
        control, protocol, out, error, self._pidfd = fds
        self._loop = asyncio.get_running_loop()
        self._control, self._protocol = socket.socket(fileno=control), socket.socket(fileno=protocol)
        self._pipes = {"stdout": out, "stderr": error}
        self._stdin: tuple[int, memoryview] | None = None
        self._decoder = frames.Decoder()
        self.on_message: Callable[[dict[str, Any], int], None] = ignore
        self.on_notice: Callable[[dict[str, Any]], None] = ignore
        self.on_output: Callable[[str, bytes], None] = ignore
        self.violation: str | None = None
        self.changed = asyncio.Event()
        self.dead = asyncio.Event()
        self._control.setblocking(False)
        self._protocol.setblocking(False)
        for pipe in self._pipes.values():
            os.set_blocking(pipe, False)
        self._watched: dict[int, Callable[[], object]] = {
            control: self._read_control,
            protocol: self._read_protocol,
            self._pidfd: self._end,
            out: functools.partial(self._read_pipe, "stdout"),
            error: functools.partial(self._read_pipe, "stderr"),
        }
        for fd, callback in self._watched.items():
            self._loop.add_reader(fd, callback)

    async def until(self, condition: Callable[[], bool]) -> bool:
        """Wait until ``condition`` holds, the process is dead or has broken the protocol; return the condition."""
        while not condition() and not self.dead.is_set() and self.violation is None:
            self.changed.clear()
            await self.changed.wait()
        return condition()

    async def send(self, message: dict[str, Any], fd: int | None = None) -> None:
        """Send the interpreter a message, with a copy of ``fd``; a dead one is no error."""
        if self.dead.is_set():
            return
        data = frames.encode(message)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if fd is not None:
                # One byte takes the descriptor along: sendmsg does not promise to send more.
                socket.send_fds(self._protocol, [data[:1]], [fd])
                data = data[1:]
            await self._loop.sock_sendall(self._protocol, data)

    def notify(self, message: dict[str, Any]) -> None:
        """Tell process 1 something; a dead one is no error."""
        if self.dead.is_set():
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            messages.send(self._control, message)

    def feed_stdin(self, fd: int, data: bytes) -> None:
        """Write ``data`` to a pipe as it is read, then close it."""
        self._close_stdin()
        os.set_blocking(fd, False)
        self._stdin = (fd, memoryview(data))
        self._loop.add_writer(fd, self._write_stdin)
        self._write_stdin()

    def drain(self) -> None:
        """Take what is in the pipes already."""
        for stream in self._pipes:
            left = MAX_PIPE_BYTES
            while left > 0 and (count := self._read_pipe(stream)):
                left -= count

    def kill(self) -> None:
        """End it with all its processes, at once. Idempotent."""
        if not self.dead.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def close(self) -> None:
        """Kill it and return when nothing of it runs any more."""
        self.kill()
        await self.dead.wait()

    def _read_control(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while (notice := messages.receive(self._control)[0]) is not None:
                self.on_notice(notice)
                self.changed.set()
            self._unwatch(self._control.fileno())

    def _read_protocol(self) -> None:
        try:
            data = self._protocol.recv(READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            # A live interpreter never closes its socket.
            self._unwatch(self._protocol.fileno())
            self._loop.call_later(0.1, self._break, "it closed its socket")
            return
        try:
            for message, size in self._decoder.feed(data):
                self.on_message(message, size)
        except frames.ProtocolViolation as violation:
            self._break(f"it sent {violation}")
        self.changed.set()

    def _break(self, violation: str) -> None:
        if self.violation is None and not self.dead.is_set():
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

    def _unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None):
            self._loop.remove_reader(fd)

    def _end(self) -> None:
        """The kernel says that process 1, and so all of them, are gone."""
        self._read_control()
        self.drain()
        self._close_stdin()
        for fd in list(self._watched):
            self._unwatch(fd)
        for pipe in self._pipes.values():
            if pipe >= 0:
                os.close(pipe)
        self._pipes = dict.fromkeys(self._pipes, -1)
        self._control.close()
        self._protocol.close()
        os.close(self._pidfd)
        self.dead.set()
        self.changed.set()
