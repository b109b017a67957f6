"""The interpreter: the process that runs programs, which come on its socket one after another, and says how each went.

It is made in a zygote, so that each fork of a fork server begins with one. There it runs in a container without
capabilities, behind all walls. From the first program on nothing here can be trusted any more, and the host does not.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the part of ``signal`` that is written in C
import ctypes
import functools
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
from actors.backends.jail.inside import (
    ending,
    files,
    fork,
    language_hosts,
    lockdown,
    partial_lines,
    rehearsal,
    shell,
    streams,
    variables,
)

_READ_BYTES = 2**20
_MAX_FDS = 9
_FIRST_PROGRAM = frames.encode(
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
_ATOMIC_BYTES = select.PIPE_BUF
"""Size of a frame that a pipe takes whole or not at all."""
_TWISTER_WORDS = 624
_SHOWN = frames.encode({"kind": "shown"})
_SHOWN_S = 1.0
_SIGINT, _INTERRUPT, _IGNORE = int(signal.SIGINT), signal.default_int_handler, int(signal.SIG_IGN)
_handle_interrupts = _signal.signal  # without the search for names in enumerations, of which a fork copies ten pages
_PROGRAMS = {"bash": "bash", "javascript": "javascript", "typescript": "javascript"}
"""The program that runs each language, by its key among those that the image has."""


def _discard(_: bytes) -> None:
    """Send nothing: the writer of an interpreter that has no channel yet."""


class _Forked(Exception):
    """Raised in a fork of the interpreter: from here on it is in a container of its own and has other channels."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel


class Interpreter:
    """An interpreter that lacks only what must differ between its forks.

    ``languages`` are the programs that run other languages; ``add_package`` says how to add a package to the image.
    """

    def __init__(self, languages: dict[str, str], add_package: str) -> None:
        self._languages = languages
        self._language_host: language_hosts.Bash | language_hosts.JavaScript | None = None
        streams.set_stdin(None)
        self._write: Callable[[bytes], object] = _discard
        self._decoder = frames.Decoder(trusting=True)
        self._shell = shell.make(self._show, add_package)
        self._channel: socket.socket | None = None
        self._writing, self._showing, self._ordered = threading.Lock(), threading.Lock(), False
        self._given: list[int] = []
        """The descriptors that came with the message that is being read."""
        self._stdin: int | None = None
        self._mender: streams.Mender | None = None
        self._partial_lines: partial_lines.PartialLines | None = None
        self._twister: int | None = None
        self._harmless: frozenset[type] = frozenset()
        self._ending: ending.Ending | None = None
        self._alone = False
        """Whether the program that runs is the only one, and so ends as a script does."""

    def load(self, packages: tuple[str, ...]) -> None:
        """Import packages on top, as far as they are installed."""
        shell.load(packages)
        self._twister = _find_twister()

    def practise(self) -> None:
        """Do whatever takes long the first time, and forget it."""
        for program in (*rehearsal.rarer(sys.modules), *rehearsal.common(sys.modules)):
            self._shell.run_program(program)
        plots = sys.modules.get("matplotlib.pyplot")
        if plots is not None:
            plots.close("all")
        self._shell.reset()
        self._shell.forget()  # an error with all that it refers to, which each fork would free
        self._harmless = ending.harmless_types()

    def complete(self) -> None:
        """Make what programs change, and take note of what is there before they do.

        Not before the garbage collector has been told to forget all that there is: nothing of a program that is reached
        from there would ever be collected.
        """
        self._shell.begin_main()
        self._ending = ending.Ending(self._harmless)

    def rehearse(self) -> None:
        """Touch the memory that most programs touch."""
        self._warm_up()
        self._begin_ending()
        for program in rehearsal.common(sys.modules):
            self._shell.run_program(program, alone=True)
            self._end(program)

    def serve(self, channel: socket.socket, answers: int) -> None:
        """Make this fork ready, say so on the pipe ``answers``, and run programs until the host closes the socket."""
        if self._twister is not None:
            _reseed(self._twister)
        self._warm_up()
        self._begin_ending()
        self._channel, self._write = channel, functools.partial(frames.write, answers)
        self._send({"kind": "ready"})
        while True:
            data, fds, _, _ = socket.recv_fds(channel, _READ_BYTES, _MAX_FDS)
            if not data:
                return
            if fds:
                self._given = fds
            try:
                for request, _ in list(self._decoder.feed(data)):
                    self._obey(request)
            except language_hosts.LanguageHostEnded:
                return
            except _Forked as forked:
                channel.detach()  # the new channel has its number
                self._keep_outputs()
                self._partial_lines = partial_lines.PartialLines()  # threads are not forked
                self._channel = channel = forked.channel
                self._writing, self._showing = threading.Lock(), threading.Lock()  # threads that held them are gone
                self._shell.forget_threads()
                self._decoder = frames.Decoder(trusting=True)
                self._send({"kind": "ready"})

    def _warm_up(self) -> None:
        """Run a first program unseen, so that nobody waits for what every program needs."""
        for request, _ in self._decoder.feed(_FIRST_PROGRAM):
            self._obey(request)
        self._shell.forget()

    def _obey(self, request: dict[str, Any]) -> None:
        match request["kind"]:
            case "action":
                self._send(files.answer(request["id"], request["action"]))
            case "fork":
                given, self._given = self._given, []
                channel = fork.fork(given)
                if channel is not None:
                    raise _Forked(channel)
                self._send({"kind": "forked"})
            case "program":
                if self._given:
                    [self._stdin], self._given = self._given, []
                if request["begin"] is not None:
                    self._begin(request["language"], **request["begin"])
                if self._language_host is None:
                    self._run_python(request)
                else:
                    self._run_in_host(self._language_host, request)

    def _begin(self, language: str, limits: dict[str, Any] | None, cwd: str, persistent: bool) -> None:
        """Become, before the first program, what all programs here will find: language, limits and directory."""
        if limits is not None:
            lockdown.limit(**limits, reserves=language != "python")
        if cwd != ".":
            directory = files.resolve(cwd)
            os.makedirs(directory, exist_ok=True)
            os.chdir(directory)
            sys.path.insert(0, directory)
        if persistent:
            sys.path.insert(0, "")  # whatever the directory is by then, as in a notebook
        if language != "python":
            host = language_hosts.HOSTS[language]
            self._language_host = host(self._languages[_PROGRAMS[language]], self._send, persistent)
        elif persistent:
            sys.argv[:], sys.orig_argv[:] = [""], [sys.executable]
            self._keep_outputs()
            self._shell.keep_history()
            self._partial_lines = partial_lines.PartialLines()
        else:
            self._alone = True

    def _keep_outputs(self) -> None:
        if self._mender is not None:
            self._mender.close()
        self._mender = streams.Mender()

    def _run_in_host(self, host: language_hosts.Bash | language_hosts.JavaScript, request: dict[str, Any]) -> None:
        stdin, self._stdin = self._stdin, None
        done = {"kind": "done", "nonce": request["nonce"]}
        try:
            host.run_program(request, stdin)
        except language_hosts.LanguageHostEnded:
            self._send(done)
            raise
        finally:
            if stdin is not None:
                os.close(stdin)
        self._send(done)

    def _run_python(self, request: dict[str, Any]) -> None:
        given = self._stdin is not None
        if given:
            streams.set_stdin(self._stdin)
            self._stdin = None
        if self._mender is not None:
            self._mender.mend(new_input=given)
        before = variables.put(request["env"]) if request["env"] else {}
        if request["seed"] is not None:
            _seed(request["seed"])
        self._ordered = request["ordered"]
        _handle_interrupts(_SIGINT, _INTERRUPT)
        if self._partial_lines is None and (request["ordered"] or partial_lines.may_occur(request["code"])):
            self._partial_lines = partial_lines.PartialLines()
        if self._partial_lines is not None:
            self._partial_lines.begin()
        pid = os.getpid()
        status = self._shell.run_program(request["code"], alone=self._alone)
        if self._alone:
            with ending.unraisable("the end of the program"):
                self._end(request["code"])
        _handle_interrupts(_SIGINT, _IGNORE)  # too late for this program, too early for the next
        if os.getpid() != pid:  # the program has forked this process, whose end is its own
            ending.flush()
            os._exit(status & 255)
        if self._partial_lines is not None:
            self._partial_lines.end()
        self._shell.displays.finish()
        ending.flush()
        if self._ordered:
            with self._showing:
                self._ordered = False
        if before:
            variables.put(before)
        if given:
            streams.set_stdin(None)
        self._send({"kind": "done", "nonce": request["nonce"], "status": status})

    def _begin_ending(self) -> None:
        assert self._ending is not None
        self._ending.begin()

    def _end(self, code: str) -> None:
        assert self._ending is not None
        self._ending.end(code, self._shell.user_ns, self._shell.names, self._shell.begin_main)

    def _send(self, message: dict[str, Any]) -> None:
        frame = frames.encode(message)
        with self._writing:  # threads of a program display too
            if len(frame) <= _ATOMIC_BYTES:
                self._write(frame)
                return
            # An interrupt in the middle would leave half a frame.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                self._write(frame)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _show(self, message: dict[str, Any]) -> None:
        """Send what was displayed; where output is streamed, wait until it has been passed on, to keep the order."""
        if message["kind"] != "result" or message["main"] or not self._ordered or self._channel is None:
            self._send(message)
            return
        with self._showing:
            self._send(message)
            if select.select([self._channel], [], [], _SHOWN_S)[0]:
                self._channel.recv(len(_SHOWN))


def _seed(seed: int) -> None:
    """Seed the random numbers that come from the state of ``random`` and of numpy."""
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed)


def _find_twister() -> int | None:
    """Return the address of the state of numpy's Mersenne Twister, if numpy is there."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    numpy.random.seed(0)  # packages may have left half of a pair of normal numbers
    return int(numpy.random.mtrand._rand._bit_generator.ctypes.state_address)


def _reseed(twister: int) -> None:
    """Give this fork numpy randomness of its own; ``random`` sees to that by itself after a fork.

    The state is random words and how many of them are used up. ``numpy.random.seed`` would copy 150 pages.
    """
    ctypes.memmove(twister, os.urandom(4 * _TWISTER_WORDS) + struct.pack("i", _TWISTER_WORDS), 4 * _TWISTER_WORDS + 4)
