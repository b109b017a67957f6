"""The process that runs programs: takes them from its socket one after another, and says how each went.

From the first program on nothing here can be trusted any more; its supervisor does not.
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import struct
import sys
from typing import Any

from actors.backends.jail import bwrap, frames, lockdown, shell

_READ_BYTES = 2**20
_MAX_FDS = 1
_TRIFLE: dict[str, Any] = {"kind": "program", "code": "1+1", "env": {}, "limits": None, "nonce": ""}


def run(channel: socket.socket) -> None:
    """Make this fork ready, say so, and serve until the supervisor closes the socket."""
    _reseed()
    sys.path.insert(0, bwrap.HOME)
    _set_stdin(None)
    _Server(channel).serve()


class _Server:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._decoder = frames.Decoder()
        self._shell = shell.Shell.fresh(self._say)
        self._stdin: int | None = None

    def serve(self) -> None:
        self._rehearse()
        self._say({"kind": "ready"})
        while True:
            data, fds, _, _ = socket.recv_fds(self._channel, _READ_BYTES, _MAX_FDS)
            if not data:
                return
            if fds:
                self._stdin = fds[0]
            for request, _ in self._decoder.feed(data):
                self._obey(request)

    def _rehearse(self) -> None:
        """Run a trifle in full, to fault in what every program touches before anybody waits."""
        channel = self._channel
        self._channel, other = socket.socketpair()
        with self._channel, other:
            other.sendall(frames.encode(_TRIFLE))
            for request, _ in self._decoder.feed(self._channel.recv(_READ_BYTES)):
                self._obey(request)
        self._channel = channel
        self._shell.forget()

    def _obey(self, request: dict[str, Any]) -> None:
        match request["kind"]:
            case "file":
                _write_file(request["name"], base64.b64decode(request["data"]))
            case "program":
                if self._stdin is not None:
                    _set_stdin(self._stdin)
                os.environ.update(request["env"])
                if request["limits"] is not None:
                    lockdown.limit(**request["limits"])
                signal.signal(signal.SIGINT, signal.default_int_handler)
                self._shell.run(request["code"])
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # too late for this program, too early for the next
                self._shell.flush()
                if self._stdin is not None:
                    _set_stdin(None)
                    self._stdin = None
                self._say({"kind": "done", "nonce": request["nonce"]})

    def _say(self, message: dict[str, Any]) -> None:
        self._channel.sendall(frames.encode(message))


def _write_file(name: str, data: bytes) -> None:
    """Put a file into the workspace; names were checked to stay inside, and a link put there is not followed out."""
    path = os.path.join(bwrap.HOME, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644), "wb") as file:
        file.write(data)


def _set_stdin(fd: int | None) -> None:
    """Make a descriptor standard input; without one it is at its end."""
    source = os.open("/dev/null", os.O_RDONLY) if fd is None else fd
    os.dup2(source, 0, inheritable=True)
    os.close(source)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115


def _reseed() -> None:
    """Give this fork its own numpy randomness; ``random`` does so by itself after a fork."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(list(struct.unpack("4I", os.urandom(16))))  # without an argument ten times as dear
