"""The table of system calls, ``system_calls.tbl``: what a program may do with each, and why. Standard library only."""

from __future__ import annotations

import os
from typing import NamedTuple

MACHINES = ("x86_64", "aarch64")
"""The machines that there are numbers for, in the order of the table's columns."""
_TABLE = os.path.join(os.path.dirname(__file__), "system_calls.tbl")


class SystemCall(NamedTuple):
    """A row of the table."""

    name: str
    numbers: tuple[int | None, ...]
    """Its number on each of ``MACHINES``, None where it does not exist."""
    verdict: str
    reason: str


def table() -> list[SystemCall]:
    """Return all rows."""
    with open(_TABLE) as file:
        return [_row(line) for line in file if not line.startswith("#")]


def numbered(machine: str) -> dict[str, int]:
    """Return the number of every system call that a machine has."""
    column = MACHINES.index(machine)
    return {call.name: number for call in table() if (number := call.numbers[column]) is not None}


def _row(line: str) -> SystemCall:
    *numbers, name, verdict, reason = [*line.split(None, len(MACHINES) + 2), ""][: len(MACHINES) + 3]
    return SystemCall(name, tuple(None if word == "-" else int(word) for word in numbers), verdict, reason.strip())
