"""The jail's processes as the machine sees them, read from its /proc."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path

from actors.backends.jail import JailBackend, process_names

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def in_jails(backend: JailBackend) -> set[int]:
    """Every process of a backend's jails: all below the jail server except those that wait for a request."""
    return below(backend.server_pid, without=process_names.PREFORKED)


def below(top: int, without: str | None = None) -> set[int]:
    """Every process below one, except those of a name and those below them."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        if name(pid) != without and (stat := _stat(pid)):
            parents[pid] = int(stat[1])
    found = {top}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {top}


def children(pid: int) -> set[int]:
    return {int(child) for child in _read(Path(f"/proc/{pid}/task/{pid}/children")).split()}


def name(pid: int) -> str:
    """The name of a process; empty once it is gone."""
    return _read(Path(f"/proc/{pid}/comm")).removesuffix("\n")


def command_line(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/cmdline"))


def with_in_command_line(marker: str) -> set[int]:
    """Every process of the machine whose command line holds a text."""
    return {int(path.name) for path in Path("/proc").glob("[0-9]*") if marker in command_line(int(path.name))}


def alive(pids: Collection[int]) -> set[int]:
    """Those that have not ended; a zombie has."""
    return {pid for pid in pids if (stat := _stat(pid)) and stat[0] != "Z"}


def existing(pids: Collection[int]) -> set[int]:
    """Those that are there, if only as zombies."""
    return {pid for pid in pids if _stat(pid)}


def cpu_s(pids: Collection[int]) -> float:
    """CPU time of processes, without that of children which have ended."""
    return sum(int(ticks) for pid in pids for ticks in _stat(pid)[11:13]) / _TICKS_PER_S


async def gone(seen: Callable[[], Collection[object]], within_s: float = 2.0) -> None:
    """Wait until nothing is seen any more."""
    ends_at = time.monotonic() + within_s
    while left := seen():
        assert time.monotonic() < ends_at, f"still there: {left}"
        await asyncio.sleep(0.02)


def _stat(pid: int) -> list[str]:
    # The name is in brackets and may hold anything.
    return _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # its process is gone
        return ""
