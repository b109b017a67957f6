"""The order in which the kernel kills when memory runs out: programs first, the service's own processes after them.

Standard library only, since processes that were forked import it.
"""

from __future__ import annotations

import contextlib
import os

_OWN = "/proc/self/oom_score_adj"
_PROGRAM, _SERVICE = 1000, 500
"""Thousandths of the limit that a process counts for, beyond what it holds."""


def be_killed_first() -> None:
    """Have the kernel choose this process, and all that it will start, before the service's own.

    The process must be dumpable, else the file is root's. A program may lower it again; what the kernel kills then, the
    control group counts.

    Raises:
        OSError: the kernel does not take it.
    """
    _set(_PROGRAM)


def be_killed_after_programs() -> None:
    """Have the kernel spare this process, and all that it will start, while there are programs.

    Ray has its workers killed first, and what they start inherits that.
    """
    with open(_OWN) as file:
        inherited = int(file.read())
    if inherited > _SERVICE:
        # Suppressed: whoever started Ray forbids to lower it, and then the kernel chooses by size.
        with contextlib.suppress(PermissionError):
            _set(_SERVICE)


def _set(score: int) -> None:
    fd = os.open(_OWN, os.O_WRONLY)
    try:
        os.write(fd, b"%d" % score)
    finally:
        os.close(fd)
