"""The standard streams of an interpreter: what a script finds that is started with pipes.

They are made in a zygote, so that a fork need only put its own descriptors below them. In a session they are mended
between one program and the next, which is not to suffer from what the last has closed or left unread.
"""

from __future__ import annotations

import fcntl
import io
import os
import stat
import sys

_NAMES = ("stdin", "stdout", "stderr")
_COPIES_FROM = 60
"""Copies have numbers from here on, where programs that count their descriptors do not meet them."""


def make() -> None:
    """Make the streams of descriptors 0, 1 and 2, which need not be what they will be when the streams are used."""
    kept = [os.dup(fd) for fd in range(3)]
    # Streams remember of what kind their descriptor was: of pipes, which cannot seek.
    for fd, end in enumerate((*(pipe := os.pipe()), pipe[1])):
        os.dup2(end, fd)
    for fd in range(3):
        _renew(fd)
    for fd, copy in enumerate(kept):
        os.dup2(copy, fd)
    for fd in (*pipe, *kept):
        os.close(fd)


def set_stdin(fd: int | None) -> None:
    """Make a descriptor standard input; without one, standard input is at its end."""
    source = os.open(os.devnull, os.O_RDONLY) if fd is None else fd
    if source == 0:  # the program has closed it
        os.set_inheritable(0, True)
        return
    os.dup2(source, 0, inheritable=True)
    os.close(source)
    if fd is not None and stat.S_ISREG(os.fstat(0).st_mode):
        _renew(0)  # it can seek


class Mender:
    """Puts the streams of a session right before each of its programs."""

    def __init__(self) -> None:
        self._copies = {fd: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _COPIES_FROM) for fd in (1, 2)}
        self._had_input = True  # a fork may have

    def close(self) -> None:
        """Forget the descriptors that it has copies of, which are about to be replaced."""
        for copy in self._copies.values():
            os.close(copy)

    def mend(self, *, new_input: bool) -> None:
        """Open anew what a program has closed; with ``new_input`` nothing of the last input is left to read."""
        for fd, copy in self._copies.items():
            if not _is_open(fd):
                os.dup2(copy, fd)
        if not _is_open(0):
            set_stdin(None)
        for fd, name in enumerate(_NAMES):
            if _is_closed(getattr(sys, name)):
                _renew(fd)
        if new_input or (self._had_input and sys.stdin is sys.__stdin__):
            _renew(0)
        self._had_input = new_input


def _renew(fd: int) -> None:
    """Make a new stream of a standard descriptor, as CPython makes it."""
    name, mode = _NAMES[fd], "w" if fd else "r"
    buffered = open(fd, f"{mode}b", closefd=False)  # noqa: SIM115
    buffered.raw.name = f"<{name}>"  # type: ignore[attr-defined]
    stream = io.TextIOWrapper(
        buffered,
        encoding="utf-8",
        errors="backslashreplace" if name == "stderr" else "surrogateescape",
        newline="\n",
        # A program that is killed must not take printed lines with it.
        line_buffering=fd > 0,
    )
    stream.mode = mode  # type: ignore[misc]
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _is_closed(stream: object) -> bool:
    try:
        return bool(getattr(stream, "closed", False))
    except ValueError:  # its buffer has been detached
        return True
