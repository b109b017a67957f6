"""The metering of what a program uses, read from its container's own /proc, where only its processes are."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator
from typing import NamedTuple

from actors.backends.jail.kernel import heap

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_INIT = "1"
_MOST_BYTES, _MOST_MAPS_BYTES = 2**14, 2**18
_LOOK_S, _MOST_PAUSES = 0.1, 5
"""How long an exact look at a program's memory may hold up this process, and how often it may pause and go on later."""
_HEAP = f"/memfd:{heap.NAME} (deleted)\n".encode()
_FREE_SOCKETS, _SOCKET_MIB = 100, 0.25
"""How many sockets count for nothing, and for what each more counts: its buffers may hold as much, and the kernel does
not say how much they do."""


class ProgramUsage(NamedTuple):
    """The CPU time of all processes of a program, and the most memory that its interpreter had resident at a time."""

    cpu_s: float
    peak_mib: float


class BackgroundUsage:
    """What goes on in a session's container while no program runs, counted from the end of the last one.

    Containers nested in it have meters of their own.
    """

    def __init__(self, meter: UsageMeter) -> None:
        self._meter = meter
        self._before_s: float | None = None

    def restart(self) -> None:
        """Count from the next look on."""
        self._before_s = None

    def cpu_s(self) -> float:
        """Return the CPU time of all processes since the first look."""
        total_s = self._meter.total_cpu_s(nested=False)
        if self._before_s is None:
            self._before_s = total_s
        return total_s - self._before_s


class UsageMeter:
    """The meter of one container, which counts from the last ``begin``.

    Owns ``proc_fd``, the container's /proc, which is readable for as long as the container lives.
    """

    def __init__(self, proc_fd: int) -> None:
        self._proc_fd = proc_fd
        self._before_s = self._initial_mib = self._base_mib = self._base_shared_mib = 0.0
        self._heap_kib: int | None = None
        self._waits_ns: dict[str, int] = {}
        self._waited_s = 0.0
        self._look: Generator[None, None, float] | None = None
        self._pauses = 0

    def close(self) -> None:
        """Stop counting: all that is measured from now on is nothing."""
        if self._proc_fd >= 0:
            os.close(self._proc_fd)
            self._proc_fd = -1

    def restart(self, interpreter: int) -> None:
        """Count from now for a new interpreter; what it has resident already, it shares with its kind."""
        self.begin(interpreter)
        self._initial_mib = self._base_mib
        if self._heap_kib is None:  # not later: a program could make up another
            self._heap_kib = self._size_of_heap(interpreter)

    def begin(self, interpreter: int) -> None:
        """Count from now for another program of the same interpreter."""
        self._end_look()
        self._before_s = self.total_cpu_s()
        # This resets the peak, and takes the process's owner or root; without it the peak is over all programs.
        with contextlib.suppress(OSError):
            fd = os.open(f"{interpreter}/clear_refs", os.O_WRONLY, dir_fd=self._proc_fd)
            try:
                os.write(fd, b"5")
            finally:
                os.close(fd)
        self._base_mib, self._base_shared_mib = self._resident_mib(interpreter)

    def measure(self, interpreter: int) -> ProgramUsage:
        """Return what the program of a live interpreter has used."""
        peak_mib, shared_mib = self._resident_mib(interpreter)
        shared_mib = max(0.0, shared_mib - self._base_shared_mib)  # libraries, and what it has read of its kind's heap
        return ProgramUsage(self.cpu_s(), max(0.0, peak_mib - shared_mib - self._base_mib))

    def measure_ended(self, cpu_s: float, peak_mib: float) -> ProgramUsage:
        """Return what the program of an ended interpreter used; the arguments are what that process used itself."""
        return ProgramUsage(self.cpu_s() + cpu_s, max(0.0, peak_mib - self._base_mib))

    def cpu_s(self) -> float:
        """Return the CPU time of all processes since ``begin``."""
        return self.total_cpu_s() - self._before_s

    def begin_waits(self) -> None:
        """Have ``waited_s`` count from now."""
        self._waits_ns, self._waited_s = self._waits(), 0.0

    def waited_s(self) -> float:
        """Return for how long the program was ready to run and no core was free.

        Between two calls that is what the thread that waited longest has waited; the more often this is called, the
        less is missed of threads that have ended.
        """
        waits_ns = self._waits()
        waited_ns = max((ns - self._waits_ns.get(thread, 0) for thread, ns in waits_ns.items()), default=0)
        self._waits_ns = waits_ns
        self._waited_s += waited_ns / 1e9
        return self._waited_s

    def memory_mib(self, enough_mib: float) -> float:
        """Return the memory of all processes beyond what the interpreter began with; exact only above ``enough_mib``.

        The exact count, in which a shared page counts in parts, walks page tables for milliseconds, so a cheap one that
        never says less goes first; and a long look goes on at the next call, until which ``enough_mib`` is returned.
        Counted are page tables too, and buffers of sockets by the number of these.
        """
        sockets_mib = self._sockets_mib()
        held_kib = sum(map(self._held_kib, self._pids()))
        upper_mib = held_kib / 1024 - self._initial_mib + sockets_mib
        if upper_mib <= enough_mib:
            return upper_mib
        self._look = self._look or self._exact_mib()
        pauses_at = time.monotonic() + _LOOK_S
        try:
            while time.monotonic() < pauses_at:
                next(self._look)
        except StopIteration as found:
            exact_mib: float = found.value
            self._end_look()
            return exact_mib + sockets_mib
        self._pauses += 1
        if self._pauses < _MOST_PAUSES:
            return enough_mib
        self._end_look()
        return upper_mib  # nothing honest is so dear to look at

    def _exact_mib(self) -> Generator[None, None, float]:
        """Look at one process after another; return what they hold in all."""
        exact = shared = 0
        for pid in self._pids():
            rollup = self._read(f"{pid}/smaps_rollup")
            status = self._read(f"{pid}/status")
            # A program that hides its memory map has all that it has resident counted.
            exact += (_kib(rollup, b"Pss:") or _kib(status, b"VmRSS:")) + _kib(status, b"VmPTE:")
            shared += _kib(rollup, b"Pss_Shmem:")
            yield
        return (exact - min(shared, self._heap_kib or 0)) / 1024

    def _end_look(self) -> None:
        self._look, self._pauses = None, 0

    def _resident_mib(self, pid: int) -> tuple[float, float]:
        """Return the most that was resident at a time, and how much of what is resident now belongs to files."""
        status = self._read(f"{pid}/status")
        return _kib(status, b"VmHWM:") / 1024, (_kib(status, b"RssFile:") + _kib(status, b"RssShmem:")) / 1024

    def _held_kib(self, pid: str) -> int:
        """Return what a process has resident and the tables of its pages."""
        status = self._read(f"{pid}/status")
        return _kib(status, b"VmRSS:") + _kib(status, b"VmPTE:")

    def _sockets_mib(self) -> float:
        """Return what the sockets in the container's network may hold."""
        used = self._read(f"{_INIT}/net/sockstat").partition(b"sockets: used ")[2].split(maxsplit=1)
        return max(0, int(used[0]) - _FREE_SOCKETS) * _SOCKET_MIB if used else 0.0

    def _size_of_heap(self, pid: int) -> int:
        """Return the KiB of the heap that a process shares with others of its kind (see ``heap``)."""
        try:
            with open(
                f"{pid}/maps", "rb", opener=lambda path, flags: os.open(path, flags, dir_fd=self._proc_fd)
            ) as maps:
                lines = maps.read(_MOST_MAPS_BYTES).splitlines(keepends=True)
        except OSError:  # as in _read
            return 0
        ends = [line.split()[0].split(b"-") for line in lines if line.endswith(_HEAP)]
        return sum(int(end, 16) - int(start, 16) for start, end in ends) // 1024

    def total_cpu_s(self, *, nested: bool = True) -> float:
        """Return the CPU seconds of every process, and of those that ended and were waited for.

        Without ``nested`` those in containers within this one are left out.
        """
        # Of the init only what it has reaped counts: its own work is the service's.
        of_ended = sum(map(int, self._stat(_INIT)[13:15]))
        running_s = 0.0
        for pid in self._pids():
            if not nested and _is_nested(self._read(f"{pid}/status")):
                continue
            stat = self._stat(pid)
            of_ended += sum(map(int, stat[13:15]))
            # Whole ticks of 10 ms, longer than most programs run, or exactly, but of the first thread alone.
            first_ns = int((self._read(f"{pid}/schedstat").split() or [b"0"])[0])
            running_s += max(sum(map(int, stat[11:13])) / _TICKS_PER_S, first_ns / 1e9)
        return of_ended / _TICKS_PER_S + running_s

    def _waits(self) -> dict[str, int]:
        """Return for how many nanoseconds each thread has waited for a core in its life."""
        waits = {}
        for pid in self._pids():
            for thread in self._threads(pid):
                fields = self._read(f"{thread}/schedstat").split()
                if len(fields) > 1:
                    waits[thread] = int(fields[1])
        return waits

    def _threads(self, pid: str) -> list[str]:
        try:
            fd = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._proc_fd)
        except OSError:  # as in _read
            return []
        try:
            return [f"{pid}/task/{thread}" for thread in os.listdir(fd)]
        except OSError:
            return []
        finally:
            os.close(fd)

    def _stat(self, pid: str) -> list[bytes]:
        # The command's name is in brackets and may hold anything.
        return self._read(f"{pid}/stat").rpartition(b")")[2].split()

    def _pids(self) -> list[str]:
        try:
            names = os.listdir(self._proc_fd)
        except OSError:  # the container has ended
            names = []
        return [name for name in names if name.isdigit() and name != _INIT]

    def _read(self, path: str) -> bytes:
        """Return the content of a small file; nothing where its process has ended meanwhile, or hides it."""
        try:
            fd = os.open(path, os.O_RDONLY, dir_fd=self._proc_fd)
        except OSError:
            return b""
        try:
            return os.read(fd, _MOST_BYTES)
        except OSError:
            return b""
        finally:
            os.close(fd)


def _is_nested(status: bytes) -> bool:
    """Tell whether a process has a pid in a namespace below that of the container's /proc, too."""
    return len(status.partition(b"\nNSpid:")[2].partition(b"\n")[0].split()) > 1


def _kib(text: bytes, field: bytes) -> int:
    """Return a number of kilobytes from lines as ``VmRSS:  123 kB``; 0 where it is missing."""
    at = text.find(b"\n" + field) + 1
    if at == 0 and not text.startswith(field):
        return 0
    return int(text[at + len(field) :].split(maxsplit=1)[0])
