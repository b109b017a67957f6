"""What a run has used, read by its process 1 from the run's own /proc, where only the run's processes are."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_OWN = 1


def cpu_s() -> float:
    """CPU seconds of every process of the run, and of those that ended and were waited for."""
    ticks = 0
    for pid in _pids():
        with contextlib.suppress(OSError):  # it ended meanwhile
            ticks += sum(map(int, _stat(pid)[11:15]))
    own = _stat(_OWN)  # process 1 collects orphans; its own work is not theirs
    return (ticks + int(own[13]) + int(own[14])) / _TICKS_PER_S


def memory_mib(enough_mib: float) -> float:
    """Memory of the run's processes, each shared page counted in parts; exact only above ``enough_mib``.

    The exact count walks page tables for milliseconds, so a cheap one that never says less goes first.
    """
    upper_mib = sum(_sum_kib(f"/proc/{pid}/status", "VmRSS:") for pid in _pids()) / 1024
    if upper_mib <= enough_mib:
        return upper_mib
    return sum(_sum_kib(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in _pids()) / 1024


def restart_peak(pid: int) -> float:
    """Forget the most that a process had resident so far; return what it has now, most of it shared with its kind."""
    with open(f"/proc/{pid}/clear_refs", "w") as file:
        file.write("5")
    return peak_mib(pid)


def peak_mib(pid: int) -> float:
    """Most memory that a process had resident at a time; once it has been waited for, the most of any."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _pids() -> Iterator[str]:
    return (name for name in os.listdir("/proc") if name.isdigit() and int(name) != _OWN)


def _sum_kib(path: str, field: str) -> int:
    with contextlib.suppress(OSError), open(path) as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(field))
    return 0


def _stat(pid: int | str) -> list[str]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        # The command's name is in brackets and may hold anything.
        return file.read().rpartition(b")")[2].decode().split()
