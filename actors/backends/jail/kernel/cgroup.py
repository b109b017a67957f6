"""Control groups: one for each jail, where this process may make them.

A jail's fork servers are put into its group once, and what they fork begins there, since moving a process costs
milliseconds. Names hold the owner's pid, so that groups whose owner was killed can be recognised and removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from actors.backends.jail.kernel.fair_share import FairShare

_NAME = re.compile(r"e2b-jail-(\d+)-[0-9a-f]+\Z")
_NEEDED, _WANTED = ("memory", "pids"), ("cpu",)
_LEAF = "e2b-leaf"
_MOVES = 20
_REMOVE_S = 2.0
_RETRY_S = 0.0005
_WEIGHTS = {False: (50, 512), True: (4, 32)}
"""What a jail weighs where processors are short, by versions 2 and 1: half of what the kernel gives any group, or any
process that is in none, and very little while it stands back, since it keeps processors busy."""
_BUFFERS_BYTES = 64 * 2**20
_PERIOD_US = 100_000


class Group:
    """The control group of one jail: a directory for each of memory, processes and, where that is controlled, CPU time.

    With cgroup v2 they are the same. Its files are kept open, since they are read before and after every program.
    """

    def __init__(self, memory: Path, pids: Path, unified: bool, cpu: Path | None = None) -> None:
        self.memory, self.pids, self.cpu, self._unified = memory, pids, cpu, unified
        self.directories = {memory, pids} | ({cpu} if cpu else set())
        self._memory_max = str(memory / ("memory.max" if unified else "memory.limit_in_bytes"))
        self._memory_used = str(memory / ("memory.current" if unified else "memory.usage_in_bytes"))
        self._memory_peak = str(memory / ("memory.peak" if unified else "memory.max_usage_in_bytes"))
        self._memory_events = str(memory / ("memory.events" if unified else "memory.oom_control"))
        self._pids_max, self._pids_used = str(pids / "pids.max"), str(pids / "pids.current")
        self._fds: dict[str, int] = {}
        self._share, self._stands_back = FairShare(), False

    def add(self, pid: int) -> None:
        for directory in self.directories:
            (directory / "cgroup.procs").write_text(str(pid))

    def limit(self, memory_bytes: int, processes: int) -> None:
        self._write(self._memory_max, memory_bytes)
        self._write(self._pids_max, processes)

    def share_processors(self, cores: float | None) -> None:
        """Give the jail its part of the processors where they are short, and never more than ``cores``."""
        if self.cpu is None:
            return
        self._weigh()
        if cores is not None:
            quota = int(cores * _PERIOD_US)
            name, text = ("cpu.max", f"{quota} {_PERIOD_US}") if self._unified else ("cpu.cfs_quota_us", f"{quota}")
            (self.cpu / name).write_text(text)

    def charge(self, cpu_s: float) -> None:
        """Take note of CPU time that was used since the last call: who uses much stands back behind other jails."""
        stands_back = self._share.charge(cpu_s)
        if stands_back != self._stands_back and self.cpu is not None:
            self._stands_back = stands_back
            self._weigh()

    def _weigh(self) -> None:
        if self.cpu is not None:
            weight, shares = _WEIGHTS[self._stands_back]
            name, value = ("cpu.weight", weight) if self._unified else ("cpu.shares", shares)
            with contextlib.suppress(FileNotFoundError):  # the jail has ended meanwhile
                self._write(str(self.cpu / name), value)

    def used_bytes(self) -> int:
        return int(self._read(self._memory_used))

    def processes(self) -> int:
        return int(self._read(self._pids_used))

    def restart_peak(self) -> None:
        """Forget the peak so far; kernels before 6.12 cannot with cgroup v2."""
        with contextlib.suppress(OSError):
            self._write(self._memory_peak, 0)

    def peak_bytes(self) -> int | None:
        try:
            return int(self._read(self._memory_peak))
        except OSError:
            return None

    def oom_kills(self) -> int:
        """Return how many processes the kernel has killed here because memory ran out."""
        lines = self._read(self._memory_events).splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    async def remove(self) -> None:
        """Remove the group as soon as its last process, which the caller has killed, is gone."""
        self.close()
        for directory in self.directories:
            for _ in range(int(_REMOVE_S / _RETRY_S)):
                try:
                    directory.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    await asyncio.sleep(_RETRY_S)
                else:
                    break

    def _read(self, path: str) -> str:
        return os.pread(self._open(path), 4096, 0).decode()

    def _write(self, path: str, value: int) -> None:
        os.pwrite(self._open(path), str(value).encode(), 0)

    def _open(self, path: str) -> int:
        if path not in self._fds:
            self._fds[path] = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
        return self._fds[path]


@dataclass(frozen=True, slots=True)
class Parents:
    """The directories in which groups can be made."""

    memory: Path
    pids: Path
    unified: bool
    cpu: Path | None = None
    """Where CPU time is controlled, if it can be."""

    def make(self, cores: float | None = None) -> Group:
        """Make a group, whose processes may keep at most so many cores busy."""
        name = f"e2b-jail-{os.getpid()}-{secrets.token_hex(6)}"
        group = Group(self.memory / name, self.pids / name, self.unified, self.cpu / name if self.cpu else None)
        for directory in group.directories:
            directory.mkdir()
        group.share_processors(cores)
        # A limit that swap can get around is none.
        with contextlib.suppress(OSError):
            (group.memory / ("memory.swap.max" if self.unified else "memory.swappiness")).write_text("0")
        if not self.unified:  # version 1 counts buffers of TCP and UDP apart, and only once they have a limit
            (group.memory / "memory.kmem.tcp.limit_in_bytes").write_text(str(_BUFFERS_BYTES))
        return group

    def sweep(self) -> None:
        """Remove the groups that dead owners have left; the kernel refuses for those still in use."""
        for parent in filter(None, {self.memory, self.pids, self.cpu}):
            for directory in parent.glob("e2b-jail-*"):
                match = _NAME.match(directory.name)
                if match and not Path("/proc", match[1]).exists():
                    with contextlib.suppress(OSError):
                        directory.rmdir()


def find() -> Parents | None:
    """Return where this process may make groups: v2 if that was delegated to it, v1 as root, else None."""
    return next((parents for parents in _candidates() if _works(parents)), None)


def delegate(group: Path, controllers: tuple[str, ...] = _NEEDED) -> None:
    """Enable ``controllers`` for the groups below a group of version 2.

    The kernel wants a group to hold either processes or controlled groups, so its processes move to one below.

    Raises:
        OSError: it may not be done here.
    """
    enabled = (group / "cgroup.subtree_control").read_text().split()
    if set(controllers) <= set(enabled):
        return
    wanted = " ".join(f"+{name}" for name in controllers)
    for _ in range(_MOVES):  # others may be started meanwhile
        try:
            (group / "cgroup.subtree_control").write_text(wanted)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        else:
            return
        leaf = group / _LEAF
        leaf.mkdir(exist_ok=True)
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(pid)
    raise OSError(errno.EBUSY, f"{group} gets new processes all the time")


def _candidates() -> Iterator[Parents]:
    mounts = _mounts()
    own = dict(_own_groups(mounts))
    if "" in own:
        with contextlib.suppress(OSError):
            group = _whole(own[""], mounts[""])
            delegate(group)
            yield Parents(group, group, unified=True, cpu=group if _delegated(group, _WANTED) else None)
    if all(name in own for name in _NEEDED):
        cpu = own.get("cpu")
        yield Parents(own["memory"], own["pids"], unified=False, cpu=cpu if cpu and os.access(cpu, os.W_OK) else None)


def _delegated(group: Path, controllers: tuple[str, ...]) -> bool:
    """Enable controllers that are wanted but not needed; tell whether they are."""
    try:
        delegate(group, controllers)
    except OSError:
        return False
    return True


def _whole(own: Path, mount: Path) -> Path:
    """Return the group of version 2 below which this process may make others: for root the mount, else its own.

    So root leaves alone the groups that a service manager has made, and finds the controllers enabled by it.
    """
    if os.geteuid() == 0:
        return mount
    return own.parent if own.name == _LEAF else own


def _mounts() -> dict[str, Path]:
    """Return where each controller's groups are mounted; those of version 2 by the empty name."""
    mounts: dict[str, Path] = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, options, *_ = line.split()
        if kind == "cgroup2":
            mounts[""] = Path(target)
        elif kind == "cgroup":
            mounts |= {name: Path(target) for name in (*_NEEDED, *_WANTED) if name in options.split(",")}
    return mounts


def _own_groups(mounts: dict[str, Path]) -> Iterator[tuple[str, Path]]:
    """Yield this process's own groups with their controllers."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            if name in mounts:
                own = mounts[name] / path.lstrip("/")
                yield name, own if own.is_dir() else mounts[name]  # a container may see its own group as the root


def _works(parents: Parents) -> bool:
    try:
        group = parents.make()
    except OSError:
        return False
    try:
        group.limit(2**30, 64)
        return group.used_bytes() >= 0 and group.oom_kills() == 0
    except OSError:
        return False
    finally:
        group.close()
        for directory in group.directories:
            with contextlib.suppress(OSError):
                directory.rmdir()
