"""What the kernel says of a jailed process and all its children, seen from outside."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def pid_of(pidfd: int) -> int:
    """In this process's namespace; -1 once it has ended."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    return -1


def cpu_s(pid: int) -> float | None:
    """User and system time of a process and of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return sum(int(field) for field in fields[11:15]) / _TICKS


def tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    found, new = [pid], [pid]
    while new:
        parent = new.pop()
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                children = [int(c) for c in Path(f"/proc/{parent}/task/{task}/children").read_text().split()]
                found += children
                new += children
        except OSError:
            continue  # it ended meanwhile
    return found


def private_mib(pid: int) -> float:
    """Memory of the tree that it does not share with the zygote, shared pages counted in proportion."""
    total = 0
    for member in tree(pid):
        try:
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Private_Dirty:", "Pss_Shmem:")):
                    total += int(line.split()[1])
        except OSError:
            continue  # it ended meanwhile
    return total / 1024
