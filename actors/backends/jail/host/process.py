"""The host's ends of one process in a container: its socket, its pipes, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import logging
import os
import socket
import sys
import termios
import time
from collections.abc import Callable
from typing import Any

from actors.backends.jail import frames
from actors.backends.output import Stream

READ_BYTES = 2**18
MAX_UNHEARD_BYTES, MESSAGE_BYTES = 16 * 2**20, 1000
"""How much a process may send while nobody listens, and what a message costs beyond its own bytes."""
SEND_S = 30.0
"""How long a process may read nothing of what it is sent, when there is no room for more."""
_END_S = 0.5
"""How long the event that a process has ended may take after its pipe was closed, on a busy machine."""
_RESTS = 10
"""For how many times as long as its reading took a process is not listened to while nobody waits for it."""
_SEALED = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
log = logging.getLogger(__name__)


def nobody() -> bool:
    """Say that nobody waits for a process."""
    return False


def somebody() -> bool:
    """Say that somebody waits for a process."""
    return True


def discard(*_: object) -> None:
    """Do nothing with a message or output: the callback of a process that nobody listens to."""


def open_pipe() -> tuple[int, int]:
    """Make a pipe whose end a program can open once more, by its name in /proc or /dev, though its uid be another."""
    ends = os.pipe()
    os.fchmod(ends[0], 0o666)  # of the pipe, so of both; nobody can name it who has no end of it
    return ends


def open_file(data: bytes) -> int:
    """Open a file in memory that holds ``data`` and that nobody can write to."""
    with open(os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb") as file:
        file.write(data)
        file.flush()
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALED)
        return os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY | os.O_CLOEXEC)


class ContainerProcess:
    """An interpreter or a guest agent, each byte of which may be hostile.

    ``on_message`` is called with each message that it sends and the message's size in bytes, ``on_output`` with the
    stream and data of what is written; both on the event loop. After either, and when it ends, ``changed`` is set.

    All that is read comes by pipes: unlike a socket they bring no descriptors, which would have to be closed here.
    """

    def __init__(self, number: int, on_violation: Callable[[ContainerProcess], None]) -> None:
        self.number = number
        self._on_violation = on_violation
        self._loop = asyncio.get_running_loop()
        self._requests, self._remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._requests.shutdown(socket.SHUT_RD)
        self._answers, answers_w = os.pipe()
        out_r, out_w = open_pipe()
        error_r, error_w = open_pipe()
        self._remote_pipes = [answers_w, out_w, error_w]
        self._pipes: dict[Stream, int] = {"stdout": out_r, "stderr": error_r}
        self._stdin: tuple[int, memoryview] | None = None
        self._watched: dict[int, Callable[[], object]] = {}
        self._resting: dict[int, asyncio.TimerHandle] = {}
        self._decoder = frames.Decoder()
        self._reading = False
        self._unheard_bytes = 0
        self.on_message: Callable[[dict[str, Any], int], None] = discard
        self.on_output: Callable[[Stream, bytes], None] = discard
        self.pid = 0
        """Its pid in the container; 0 until it has started."""
        self.end_event: dict[str, Any] | None = None
        """The event that says how it ended, if it has."""
        self.violation: str | None = None
        """How it broke the protocol, if it has."""
        self.last_call = 0
        """The number of the last call that it was sent (see ``RpcClient``)."""
        self.unanswered: set[int] = set()
        """The numbers of calls that it may still answer, also of those that were given up."""
        self.host_cpu_s = 0.0
        """The CPU time that the host has spent on what it sent."""
        self.somebody_waits: Callable[[], bool] = nobody
        """Whether what it sends now is waited for; if not, it is listened to now and then."""
        self.changed = asyncio.Event()
        self._requests.setblocking(False)
        self._sending = asyncio.Lock()
        self._watch(self._answers, self._read_answers)
        for stream, pipe in self._pipes.items():
            self._watch(pipe, functools.partial(self._read_pipe, stream))

    @property
    def remote_ends(self) -> list[int]:
        """The descriptors that the process is given: for requests, answers, output and errors."""
        return [self._remote.fileno(), *self._remote_pipes]

    def close_remote_ends(self) -> None:
        """Close those descriptors here, when the process has been given them or never will be."""
        self._remote.close()
        for fd in self._remote_pipes:
            os.close(fd)
        self._remote_pipes = []

    @property
    def ended(self) -> bool:
        return self.end_event is not None

    def record_end(self, event: dict[str, Any]) -> None:
        """Take note of how the process ended, after what it had sent."""
        self.drain()
        if self.end_event is None:
            self.end_event = event
        self.changed.set()

    async def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait until ``condition`` holds, or the process has ended or broken the protocol; return the condition."""
        while not condition() and not self.ended and self.violation is None:
            self.changed.clear()
            await self.changed.wait()
        return condition()

    async def send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        """Send the process a message, with copies of ``fds``; that it has ended is no error."""
        left = memoryview(frames.encode(message))
        async with self._sending:
            if self.ended or self._requests.fileno() < 0:
                return
            self._end_rests()
            try:
                if fds:
                    # One byte takes the descriptors along: sendmsg does not promise to send more.
                    left = left[socket.send_fds(self._requests, [left[:1]], fds) :]
                while left:
                    try:
                        left = left[self._requests.send(left) :]
                    except BlockingIOError:
                        await self._wait_for_room()
            except OSError:
                return  # it has ended, or is about to
            finally:
                if left and not self.ended:
                    self.report_violation("it does not read what it is sent")

    async def _wait_for_room(self) -> None:
        """Wait until the socket takes more.

        Raises:
            OSError: it did not for ``SEND_S``, or was closed.
        """
        room = self._loop.create_future()
        self._loop.add_writer(self._requests, room.set_result, None)
        try:
            async with asyncio.timeout(SEND_S):
                await room
        finally:
            self._loop.remove_writer(self._requests)

    def send_nowait(self, message: dict[str, Any]) -> None:
        """Send the process something small, or nothing if its socket has no room for it."""
        if not self._sending.locked():
            with contextlib.suppress(OSError):
                self._requests.send(frames.encode(message))

    def feed_stdin(self, fd: int, data: bytes) -> None:
        """Write ``data`` to the pipe ``fd`` as fast as that is read, then close it."""
        self._close_stdin()
        os.set_blocking(fd, False)
        self._stdin = (fd, memoryview(data))
        self._loop.add_writer(fd, self._write_stdin)
        self._write_stdin()

    def drain(self) -> None:
        """Read what is in the pipes already."""
        _read_what_is_there(self._answers, self._read_answers)
        self.drain_output()

    def drain_output(self) -> None:
        """Read what is in the pipes of the standard streams already."""
        for stream, pipe in self._pipes.items():
            _read_what_is_there(pipe, functools.partial(self._read_pipe, stream))

    def close(self) -> None:
        """Close the host's ends. Idempotent."""
        self._close_stdin()
        for fd in list(self._watched):
            self._unwatch(fd)
        for pipe in self._pipes.values():
            if pipe >= 0:
                os.close(pipe)
        self._pipes = dict.fromkeys(self._pipes, -1)
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1
        self._requests.close()

    def _read_answers(self) -> int:
        """Read from the pipe and handle each message; return how many bytes there were.

        Reading within the handler of a message would have a program's messages pile up on this process's stack.
        """
        if self._reading or self._answers not in self._watched:
            return 0
        try:
            data = os.read(self._answers, READ_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            # Only one that has ended may close its pipe, and then the event of its end arrives soon.
            self._unwatch(self._answers)
            self._loop.call_later(_END_S, self.report_violation, "it closed its channel")
            return 0
        self._reading = True
        try:
            for message, size in self._decoder.feed(data):
                self._handle(message, size)
        except frames.ProtocolViolation as violation:
            self.report_violation(f"it sent {violation}")
        except Exception:
            # A message is all that its handling depends on, so whoever sent it answers for it.
            log.exception("a message from a jail could not be handled")
            self.report_violation("it sent a message that cannot be handled")
        finally:
            self._reading = False
        self.changed.set()
        return len(data)

    def _handle(self, message: dict[str, Any], size: int) -> None:
        if self.on_message is not discard:
            self._unheard_bytes = 0
        else:
            self._unheard_bytes += size + MESSAGE_BYTES
            if self._unheard_bytes > MAX_UNHEARD_BYTES:
                raise frames.ProtocolViolation("more than anybody listened to")
        self.on_message(message, size)

    def report_violation(self, violation: str) -> None:
        """Take note that the process has broken the protocol, hear no more of it, and have it ended."""
        if self.violation is None and not self.ended and self._answers >= 0:
            self.violation = violation
            self._unwatch(self._answers)
            self._on_violation(self)
            self.changed.set()

    def _read_pipe(self, stream: Stream) -> int:
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

    def _watch(self, fd: int, read: Callable[[], object]) -> None:
        os.set_blocking(fd, False)
        self._watched[fd] = read
        self._loop.add_reader(fd, self._on_readable, fd)

    def _unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._loop.remove_reader(fd)
            if (rest := self._resting.pop(fd, None)) is not None:
                rest.cancel()

    def _on_readable(self, fd: int) -> None:
        """Read once, and count what it takes of this process's time; then rest, unless somebody waits for more."""
        began_s = time.thread_time()
        self._watched[fd]()
        took_s = time.thread_time() - began_s
        self.host_cpu_s += took_s
        if fd in self._watched and not self.somebody_waits():
            self._loop.remove_reader(fd)
            self._resting[fd] = self._loop.call_later(_RESTS * took_s, self._end_rest, fd)

    def _end_rest(self, fd: int) -> None:
        self._resting.pop(fd).cancel()
        self._loop.add_reader(fd, self._on_readable, fd)

    def _end_rests(self) -> None:
        for fd in list(self._resting):
            self._end_rest(fd)


def _read_what_is_there(pipe: int, read: Callable[[], int]) -> None:
    """Read from a pipe as much as it holds now; who writes on meanwhile does not keep the reader."""
    if pipe < 0:
        return
    held = bytearray(4)
    fcntl.ioctl(pipe, termios.FIONREAD, held)
    left = int.from_bytes(held, sys.byteorder)
    while left > 0 and (count := read()):
        left -= count
