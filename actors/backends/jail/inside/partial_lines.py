"""Writes out, while a program runs, what it has printed without ending the line: who watches it sees progress at once.

Runs in interpreters. A program that is killed then loses no more than it has printed in the last moment.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import fcntl
import os
import re
import struct
import sys
import time

PERIOD_S = 0.05
_STACK_BYTES = 2**18
_NUMBERS_FROM = 60  # where programs that count their descriptors do not meet it
_LIBC = ctypes.CDLL(None)
_MAY_PRINT_PARTS = re.compile(r"\bend\s*=|\bstd(?:out|err)\b|\binput\s*\(")
_ONCE = struct.pack("4q", 0, 0, 0, int(PERIOD_S * 1e9))


def may_occur(code: str) -> bool:
    """Whether a program's text looks as if it printed parts of lines; a thread costs too much to have one always."""
    return _MAY_PRINT_PARTS.search(code) is not None


class PartialLines:
    """A thread, unknown to ``threading``, that a timer wakes while a program runs; a short one hardly meets it."""

    def __init__(self) -> None:
        timer = _LIBC.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC)
        self._timer = fcntl.fcntl(timer, fcntl.F_DUPFD_CLOEXEC, _NUMBERS_FROM)
        os.close(timer)
        self._running = self._armed = False
        before = _thread.stack_size(_STACK_BYTES)
        _thread.start_new_thread(self._write_out, ())
        _thread.stack_size(before)

    def begin(self) -> None:
        """Begin to watch the output."""
        self._running = True
        if not self._armed:  # else by the last program, just before
            self._arm()

    def end(self) -> None:
        """Leave the output alone until the next program."""
        self._running = False

    def _arm(self) -> None:
        self._armed = True
        _LIBC.timerfd_settime(self._timer, 0, _ONCE, None)

    def _write_out(self) -> None:
        with contextlib.suppress(OSError):  # the program has closed the timer
            while os.read(self._timer, 8):
                self._armed = False  # first, so that a program that begins now arms it
                if not self._running:
                    continue
                for stream in (sys.__stdout__, sys.__stderr__):
                    with contextlib.suppress(Exception):  # the program has closed it, or nobody reads it
                        stream.flush()  # type: ignore[union-attr]
                self._arm()
