"""What language hosts share: the end of one, an interrupt that is passed on, and a standard input that can be opened.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

Send = Callable[[dict[str, Any]], None]
READ_BYTES = 2**16


class LanguageHostEnded(Exception):
    """The process of a session's language has ended, and with it what its programs had defined."""


def openable(stdin: int | None) -> str:
    """Return a path by which other processes of this container can open standard input, which may be none."""
    return os.devnull if stdin is None else f"/proc/{os.getpid()}/fd/{stdin}"


@contextlib.contextmanager
def interrupting(interrupt: Callable[[], None]) -> Iterator[None]:
    """Have a SIGINT of this process interrupt the program that runs in this context instead."""

    def handle(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            interrupt()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, discard_signal)


def discard_signal(*_: object) -> None:
    """Do nothing: the handler between programs. A signal that is ignored would stay so in every program started."""


def ended(how: str, status: int) -> dict[str, Any]:
    """Return the message that a program has ended with this status, for which ``how`` is the name."""
    return {"kind": "error", "name": how, "value": str(status), "traceback": f"{how}: {status}"}
