"""What a run uses, read from its cell's own /proc, where only its processes are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO, NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_INIT = "1"


class Used(NamedTuple):
    """CPU time of all processes of a run, and the most memory that its interpreter had resident at a time."""

    cpu_s: float
    peak_mib: float


class Meter:
    """Counts from the last ``restart``. Owns ``proc_fd``, the cell's /proc, readable for as long as the cell lives."""

    def __init__(self, proc_fd: int) -> None:
        self._proc_fd = proc_fd
        self._before_s = self._base_mib = 0.0

    def close(self) -> None:
        """From now on nothing more is counted."""
        if self._proc_fd >= 0:
            os.close(self._proc_fd)
            self._proc_fd = -1

    def restart(self, interpreter: int) -> None:
        """Count from now; most of what an interpreter has resident it shares with its kind."""
        self._before_s = self._total_cpu_s()
        # Needs to be its owner or root; else the peak is that of the interpreter's life.
        with contextlib.suppress(OSError), self._open(f"{interpreter}/clear_refs", "w") as file:
            file.write("5")
        self._base_mib = self._peak_mib(interpreter)

    def used(self, interpreter: int) -> Used:
        return Used(self.cpu_s(), max(0.0, self._peak_mib(interpreter) - self._base_mib))

    def used_by_ended(self, cpu_s: float, peak_mib: float) -> Used:
        """Return what was used where the interpreter has ended and whoever buried it says what it used by itself."""
        return Used(self.cpu_s() + cpu_s, max(0.0, peak_mib - self._base_mib))

    def cpu_s(self) -> float:
        return self._total_cpu_s() - self._before_s

    def memory_mib(self, enough_mib: float) -> float:
        """Memory of the processes beyond what the interpreter began with; exact only above ``enough_mib``.

        The exact count, where each shared page counts in parts, walks page tables for milliseconds, so a cheap one that
        never says less goes first.
        """
        upper_mib = sum(self._resident_kib(pid) for pid in self._pids()) / 1024 - self._base_mib
        if upper_mib <= enough_mib:
            return upper_mib
        return sum(self._proportional_kib(pid) for pid in self._pids()) / 1024

    def _total_cpu_s(self) -> float:
        """CPU seconds of every process, and of those that ended and were waited for."""
        ticks = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):  # it ended meanwhile
                ticks += sum(map(int, self._stat(pid)[11:15]))
        with contextlib.suppress(OSError):
            own = self._stat(_INIT)  # process 1 collects orphans; its own work is not theirs
            ticks += int(own[13]) + int(own[14])
        return ticks / _TICKS_PER_S

    def _peak_mib(self, pid: int) -> float:
        return self._status_kib(f"{pid}/status", "VmHWM:") / 1024

    def _resident_kib(self, pid: str) -> int:
        return self._status_kib(f"{pid}/status", "VmRSS:")

    def _proportional_kib(self, pid: str) -> int:
        """Return its share; a program that hides its memory map has all that it has resident counted."""
        return self._status_kib(f"{pid}/smaps_rollup", "Pss:") or self._resident_kib(pid)

    def _status_kib(self, path: str, field: str) -> int:
        with contextlib.suppress(OSError), self._open(path) as file:
            return next((int(line.split()[1]) for line in file if line.startswith(field)), 0)
        return 0

    def _stat(self, pid: int | str) -> list[str]:
        with self._open(f"{pid}/stat") as file:
            # The command's name is in brackets and may hold anything.
            return file.read().rpartition(")")[2].split()

    def _pids(self) -> Iterator[str]:
        try:
            names = os.listdir(self._proc_fd)
        except OSError:  # the cell has ended
            names = []
        return (name for name in names if name.isdigit() and name != _INIT)

    def _open(self, path: str, mode: str = "r") -> IO[str]:
        return open(path, mode, errors="replace", opener=lambda name, flags: os.open(name, flags, dir_fd=self._proc_fd))
