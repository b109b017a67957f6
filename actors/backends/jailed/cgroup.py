"""Control groups, where this process may make them: v2 delegated, v1 as root, or none."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "e2bo-"


@dataclass(frozen=True, slots=True)
class Group:
    """A control group of one jail: memory and number of processes limited, what it used counted."""

    version: int
    directories: tuple[Path, ...]

    def add(self, pid: int) -> None:
        for directory in self.directories:
            (directory / "cgroup.procs").write_text(str(pid))

    def limit(self, memory_mib: int, processes: int) -> None:
        memory = memory_mib * 2**20
        if self.version == 2:
            self._write("memory.max", memory)
            self._write("memory.swap.max", 0)
            self._write("pids.max", processes)
        else:
            self._write("memory.limit_in_bytes", memory)
            self._write("pids.max", processes)

    def oom_kills(self) -> int:
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        found = re.search(r"oom_kill (\d+)", self._read(name))
        return int(found[1]) if found else 0

    def peak_bytes(self) -> int | None:
        text = self._read("memory.peak" if self.version == 2 else "memory.max_usage_in_bytes")
        return int(text) if text.strip().isdigit() else None

    def reset_peak(self) -> None:
        self._write("memory.peak" if self.version == 2 else "memory.max_usage_in_bytes", 0)

    def remove(self) -> None:
        """Works once its processes are gone, which takes the kernel a moment."""
        for directory in self.directories:
            with contextlib.suppress(FileNotFoundError):
                directory.rmdir()

    def _write(self, name: str, value: int) -> None:
        for directory in self.directories:
            if (file := directory / name).exists():
                with contextlib.suppress(OSError):
                    file.write_text(str(value))

    def _read(self, name: str) -> str:
        for directory in self.directories:
            if (file := directory / name).exists():
                return file.read_text()
        return ""


def parents() -> tuple[int, tuple[Path, ...]] | None:
    """Version and directories under which groups can be made here; None where they cannot."""
    own = {line.split(":")[1]: line.rstrip().split(":", 2)[2] for line in Path("/proc/self/cgroup").open()}
    if "" in own:
        directory = Path(str(_ROOT) + own[""])
        with contextlib.suppress(OSError):
            controllers = (directory / "cgroup.subtree_control").read_text().split()
            if {"memory", "pids"} <= set(controllers) and os.access(directory, os.W_OK):
                return 2, (directory,)
    named = [(name, path) for names, path in own.items() for name in names.split(",") if name in ("memory", "pids")]
    found = tuple(Path(f"{_ROOT}/{name}{path}") for name, path in named)
    if len(found) == 2 and all(os.access(directory, os.W_OK) for directory in found):
        return 1, found
    return None


def create(name: str) -> Group | None:
    """A group of this process's, or None. Its name carries this process's id, for ``sweep``."""
    where = parents()
    if where is None:
        return None
    version, directories = where
    made = tuple(directory / f"{_PREFIX}{os.getpid()}-{name}" for directory in directories)
    try:
        for directory in made:
            directory.mkdir()
    except OSError:
        Group(version, made).remove()
        return None
    return Group(version, made)


def sweep() -> None:
    """Remove the groups of processes that were killed before they could."""
    where = parents()
    for directory in where[1] if where else ():
        for stale in directory.glob(f"{_PREFIX}*"):
            owner = stale.name.removeprefix(_PREFIX).split("-")[0]
            if not Path(f"/proc/{owner}").exists():
                with contextlib.suppress(OSError):
                    stale.rmdir()
