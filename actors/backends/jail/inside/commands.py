"""The shell commands of a session: each is a process group, and its output is passed on no faster than it is taken.

Runs in the guest agent, with the rights of the session's programs. Standard library only.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from typing import Any

from actors.backends.jail.inside import files
from actors.backends.jail.kernel import process_tree

WINDOW_BYTES = 2**18
"""Most output that is on its way; a command that writes more waits until some of it has been taken."""
REST_S = 0.005
"""How long a stream is left alone after it was read: what is written meanwhile is passed on together."""
MAX_INPUT_BYTES = 2**20
"""Most input that is kept for a command that does not read it."""
_READ_BYTES = 2**16
_DRAIN_BYTES = 2**20  # what a pipe can hold at most
_SHELLS = ("/bin/bash", "/bin/sh")

Send = Callable[[dict[str, Any]], None]


class RunningCommand:
    """A running command with its streams."""

    def __init__(self, action: dict[str, Any], send: Send) -> None:
        self._send = send
        self.line, self.cwd = action["command"], files.resolve(action["cwd"])
        self.terminal = action["pty"] is not None
        self._started_at = time.monotonic()
        self._credit = WINDOW_BYTES
        self._discarding = False
        self._input = bytearray()
        self._input_ends = False
        self._rests_until = 0.0
        start = self._start_on_terminal if self.terminal else self._start_on_pipes
        self._process, self.streams, self.stdin = start(action, os.environ | action["env"])
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def _start_on_pipes(
        self, action: dict[str, Any], env: dict[str, str]
    ) -> tuple[subprocess.Popen[bytes], dict[int, str], int | None]:
        source = subprocess.PIPE if action["stdin"] else subprocess.DEVNULL
        process = subprocess.Popen(
            _argv(self.line),
            cwd=self.cwd,
            env=env,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        streams = {os.dup(pipe.fileno()): name for name, pipe in _pipes(process)}
        stdin = os.dup(process.stdin.fileno()) if process.stdin else None
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        for fd in (*streams, *([] if stdin is None else [stdin])):
            os.set_blocking(fd, False)
        return process, streams, stdin

    def _start_on_terminal(
        self, action: dict[str, Any], env: dict[str, str]
    ) -> tuple[subprocess.Popen[bytes], dict[int, str], int | None]:
        ours, theirs = os.openpty()
        _set_size(theirs, **action["pty"])
        try:
            process = subprocess.Popen(
                _argv(self.line),
                cwd=self.cwd,
                env={"TERM": "xterm-256color"} | env,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
                # This process has one thread, so what runs between fork and exec is safe.
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        os.set_blocking(ours, False)
        return process, {ours: "pty"}, os.dup(ours)

    def describe(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "command": self.line,
            "cwd": self.cwd,
            "pty": self.terminal,
            "running_s": time.monotonic() - self._started_at,
        }

    @property
    def listened_to(self) -> list[int]:
        """The streams that are to be read as soon as something is in them."""
        if not self._discarding and (self._credit <= 0 or self.rest_s > 0):
            return []
        return list(self.streams)

    @property
    def rest_s(self) -> float:
        """How much longer its streams are left alone; 0 or less is no longer."""
        return 0.0 if self._discarding else self._rests_until - time.monotonic()

    @property
    def wants_to_write(self) -> bool:
        return self.stdin is not None and bool(self._input)

    def read(self, fd: int) -> None:
        """Pass on what is in a stream; one at its end is closed."""
        room = _READ_BYTES if self._discarding else min(_READ_BYTES, self._credit)
        if room <= 0 or fd not in self.streams:  # what else happened in the same turn may have closed it
            return
        try:
            data = os.read(fd, room)
        except BlockingIOError:
            return
        except OSError:  # a terminal that nobody has open any more
            data = b""
        if not data:
            os.close(fd)
            del self.streams[fd]
        elif not self._discarding:
            self._pass_on(fd, data)
            self._rests_until = time.monotonic() + REST_S

    def taken(self, count: int) -> None:
        """Take note that ``count`` bytes of output were taken, so that as many may follow."""
        self._credit += count

    def write(self, data: bytes, end: bool) -> None:
        """Put bytes on the command's standard input, and ``end`` it after them.

        Raises:
            OSError: it has none, or does not read it.
        """
        if self.stdin is None or self._input_ends:
            raise OSError(32, "its standard input is closed; start it with stdin=True")
        if len(self._input) + len(data) > MAX_INPUT_BYTES:
            raise OSError(11, "it does not read its standard input; try again later")
        self._input += data
        self._input_ends = end
        self.feed()

    def feed(self) -> None:
        """Write as much of the input as the pipe takes."""
        if self.stdin is None:
            return
        try:
            while self._input:
                del self._input[: os.write(self.stdin, bytes(self._input[:_READ_BYTES]))]
        except BlockingIOError:
            return
        except OSError:  # nobody reads it any more
            self._input.clear()
        if self._input_ends:
            if self.terminal:
                with contextlib.suppress(OSError):
                    os.write(self.stdin, b"\x04")
            os.close(self.stdin)
            self.stdin = None

    def signal(self, number: int) -> None:
        """Send the whole process group a signal; SIGKILL also what has left the group."""
        if number == signal.SIGKILL:
            process_tree.kill_family(self.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def resize(self, rows: int, cols: int) -> None:
        if not self.terminal:
            raise OSError(25, "it has no terminal; start it with pty=…")
        _set_size(next(iter(self.streams)), rows, cols)

    def ended(self) -> None:
        """Pass on what it wrote last, then how its first process ended; others may still hold its streams open."""
        status = self._process.wait()
        for fd in list(self.streams):
            left = _DRAIN_BYTES
            while left > 0 and fd in self.streams and select.select([fd], [], [], 0)[0]:
                self._credit = max(self._credit, _READ_BYTES)
                self.read(fd)
                left -= _READ_BYTES
        self._send({"event": "ended", "command": self.pid, "status": status})
        self._discarding = True
        os.close(self.pidfd)
        if self.stdin is not None:
            os.close(self.stdin)
            self.stdin = None

    def _pass_on(self, fd: int, data: bytes) -> None:
        self._credit -= len(data)
        self._send(
            {
                "event": "output",
                "command": self.pid,
                "stream": self.streams[fd],
                "data": base64.b64encode(data).decode(),
            }
        )


def _argv(line: str) -> list[str]:
    return [next(shell for shell in _SHELLS if os.path.exists(shell)), "-c", line]


def _pipes(process: subprocess.Popen[bytes]) -> list[tuple[str, Any]]:
    return [("stdout", process.stdout), ("stderr", process.stderr)]


def _set_size(terminal: int, rows: int, cols: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
