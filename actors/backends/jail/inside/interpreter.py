"""The process that runs programs: takes them from its socket one after another, and says how each went.

From the first program on nothing here can be trusted any more; its supervisor does not.
"""

from __future__ import annotations

import ctypes
import os
import random
import select
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

from actors.backends.jail import frames
from actors.backends.jail.inside import files, fork, language_hosts, lockdown, rehearsal, shell

_READ_BYTES = 2**20
_MAX_FDS = 8
_TRIFLE = frames.encode(
    {
        "kind": "program",
        "language": "python",
        "code": "1+1",
        "env": {},
        "seed": None,
        "begin": None,
        "nonce": "",
        "ordered": False,
    }
)
_TWISTER_WORDS = 624
_SHOWN = frames.encode({"kind": "shown"})
_SHOWN_S = 1.0
_HOSTS = {"bash": "bash", "javascript": "javascript", "typescript": "javascript"}


def _unheard(_: bytes) -> None:
    """Nobody listens yet."""


class _Forked(Exception):
    """From here on this process is a fork, in a cell of its own, and has another channel."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel


class Interpreter:
    """Made in a mould, so that each fork begins with one that lacks only what must differ between them."""

    def __init__(self, languages: dict[str, str], add_package: str) -> None:
        self._languages = languages
        self._guest: language_hosts.Bash | language_hosts.JavaScript | None = None
        _set_stdin(None)
        self._send: Callable[[bytes], object] = _unheard
        self._decoder = frames.Decoder(trusting=True)
        self._shell = shell.make(self._show, add_package)
        self._channel: socket.socket | None = None
        self._showing, self._ordered = threading.Lock(), False
        self._given: list[int] = []
        """Descriptors that came with the message that is being read."""
        self._stdin: int | None = None
        self._twister: int | None = None

    def load(self, packages: tuple[str, ...]) -> None:
        """Import packages on top, as far as they are installed."""
        shell.load(packages)
        self._twister = _find_twister()

    def practise(self) -> None:
        """Do whatever takes long the first time, and forget it."""
        for program in (*rehearsal.rarer(sys.modules), *rehearsal.common(sys.modules)):
            self._shell.run(program)
        plots = sys.modules.get("matplotlib.pyplot")
        if plots is not None:
            plots.close("all")
        self._shell.reset()  # type: ignore[no-untyped-call]

    def rehearse(self) -> None:
        """Touch the memory that most programs touch."""
        for program in rehearsal.common(sys.modules):
            self._shell.run(program)
        self._warm_up()

    def serve(self, channel: socket.socket) -> None:
        """Make this fork ready, say so, and run programs until the supervisor closes the socket."""
        if self._twister is not None:
            _reseed(self._twister)
        self._warm_up()
        self._channel, self._send = channel, channel.sendall
        self._say({"kind": "ready"})
        while True:
            data, fds, _, _ = socket.recv_fds(channel, _READ_BYTES, _MAX_FDS)
            if not data:
                return
            if fds:
                self._given = fds
            try:
                for request, _ in self._decoder.feed(data):
                    self._obey(request)
            except language_hosts.GuestEnded:
                return
            except _Forked as forked:
                channel.detach()  # whose number the new one has
                self._channel = channel = forked.channel
                self._send = channel.sendall
                self._decoder = frames.Decoder(trusting=True)
                self._say({"kind": "ready"})

    def _warm_up(self) -> None:
        """Run a trifle without a word, so that nobody waits for what every program needs."""
        for request, _ in self._decoder.feed(_TRIFLE):
            self._obey(request)
        self._shell.forget()

    def _obey(self, request: dict[str, Any]) -> None:
        match request["kind"]:
            case "action":
                self._say(files.answer(request["id"], request["action"]))
            case "fork":
                given, self._given = self._given, []
                channel = fork.fork(given)
                if channel is not None:
                    raise _Forked(channel)
                self._say({"kind": "forked"})
            case "program":
                if self._given:
                    [self._stdin], self._given = self._given, []
                if request["begin"] is not None:
                    self._begin(request["language"], **request["begin"])
                if self._guest is None:
                    self._run(request)
                else:
                    self._run_guest(self._guest, request)

    def _begin(self, language: str, limits: dict[str, Any] | None, cwd: str, stays: bool) -> None:
        """Before the first program: its language and limits, which hold for good, and where it starts."""
        if limits is not None:
            lockdown.limit(**limits, reserves=language != "python")
        if cwd != ".":
            directory = files.resolve(cwd)
            os.makedirs(directory, exist_ok=True)
            os.chdir(directory)
            sys.path.insert(0, directory)
        if language != "python":
            self._guest = language_hosts.GUESTS[language](self._languages[_HOSTS[language]], self._say, stays)

    def _run_guest(self, guest: language_hosts.Bash | language_hosts.JavaScript, request: dict[str, Any]) -> None:
        stdin, self._stdin = self._stdin, None
        done = {"kind": "done", "nonce": request["nonce"]}
        try:
            guest.run(request, stdin)
        except language_hosts.GuestEnded:
            self._say(done)
            raise
        finally:
            if stdin is not None:
                os.close(stdin)
        self._say(done)

    def _run(self, request: dict[str, Any]) -> None:
        if self._stdin is not None:
            _set_stdin(self._stdin)
        env = request["env"]
        before = {name: os.environ.get(name) for name in env}
        if env:
            os.environ.update(env)
        if request["seed"] is not None:
            _seed(request["seed"])
        self._ordered = request["ordered"]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._shell.run(request["code"])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # too late for this program, too early for the next
        self._shell.flush()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self._stdin is not None:
            _set_stdin(None)
            self._stdin = None
        self._say({"kind": "done", "nonce": request["nonce"]})

    def _say(self, message: dict[str, Any]) -> None:
        self._send(frames.encode(message))

    def _show(self, message: dict[str, Any]) -> None:
        """Say what was displayed; one whose output is streamed waits until that has been passed on."""
        if message["kind"] != "result" or message["main"] or not self._ordered or self._channel is None:
            self._say(message)
            return
        with self._showing:
            self._say(message)
            if select.select([self._channel], [], [], _SHOWN_S)[0]:
                self._channel.recv(len(_SHOWN))


def _set_stdin(fd: int | None) -> None:
    """Make a descriptor standard input; without one it is at its end."""
    source = os.open("/dev/null", os.O_RDONLY) if fd is None else fd
    os.dup2(source, 0, inheritable=True)
    os.close(source)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115


def _seed(seed: int) -> None:
    """Have random numbers be the same in every run of this seed, as far as they come from the packages' own state."""
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed)


def _find_twister() -> int | None:
    """Return the address of the state of numpy's own Mersenne Twister, if it is there."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    numpy.random.seed(0)  # packages may have left half of a pair of normal numbers
    return int(numpy.random.mtrand._rand._bit_generator.ctypes.state_address)


def _reseed(twister: int) -> None:
    """Give this fork its own numpy randomness; ``random`` does so by itself after a fork.

    The state is so many random words, and how many of them are used up. ``numpy.random.seed`` copies 150 pages.
    """
    ctypes.memmove(twister, os.urandom(4 * _TWISTER_WORDS) + struct.pack("i", _TWISTER_WORDS), 4 * _TWISTER_WORDS + 4)
