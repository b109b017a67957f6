"""Families of processes in a container, which are stopped, continued or killed together; read from its own /proc."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict


def kill_family(pid: int) -> None:
    """Kill a process and all that it has started, except what has detached itself from it.

    They are stopped first, so that none of them forks while the others are looked for; a family that forks faster than
    it is stopped is not caught whole.
    """
    family: set[int] = set()
    while found := ({pid} | _descendants({pid, *family})) - family:
        for member in found:
            _signal(member, signal.SIGSTOP)
        family |= found
    for member in family:
        _signal(member, signal.SIGKILL)


def interrupt_family(pid: int) -> None:
    """Interrupt a process, and what it has started that is still in its process group, as a terminal does.

    It comes first, since one that waits for a child which the interrupt ends would else go on before it is hit; last
    where it ignores interrupts while it waits, as C's ``system`` does.
    """
    group = _group(str(pid))
    family = [member for member in _descendants({pid}) if _group(str(member)) == group]
    for member in (*family, pid) if _ignores_interrupts(pid) else (pid, *family):
        _signal(member, signal.SIGINT)


def kill_outer() -> None:
    """Kill every process of this pid namespace except its init, and those in pid namespaces within it."""
    for pid in stop_outer():
        _signal(pid, signal.SIGKILL)


def stop_outer() -> set[int]:
    """Stop the processes that ``kill_outer`` would kill; return their pids."""
    stopped: set[int] = set()
    while found := _outer() - stopped:
        for pid in found:
            _signal(pid, signal.SIGSTOP)
        stopped |= found
    return stopped


def continue_outer() -> None:
    """Let the processes that ``stop_outer`` stopped go on."""
    for pid in _outer():
        _signal(pid, signal.SIGCONT)


def _outer() -> set[int]:
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1" and len(status(name, "NSpid")) == 1:
            found.add(int(name))
    return found


def status(pid: str, field: str) -> list[str]:
    """Return the values of one line of a process's status; none where it has ended."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((line.split()[1:] for line in file if line.startswith(f"{field}:")), [])
    except OSError:
        return []


def _ignores_interrupts(pid: int) -> bool:
    ignored = status(str(pid), "SigIgn")
    return bool(ignored) and bool(int(ignored[0], 16) >> (signal.SIGINT - 1) & 1)


def _descendants(of: set[int]) -> set[int]:
    children = defaultdict(list)
    for name in os.listdir("/proc"):
        if name.isdigit() and (parent := _parent(name)):
            children[parent].append(int(name))
    found: set[int] = set()
    left = list(of)
    while left:
        for child in children[left.pop()]:
            if child not in found:
                found.add(child)
                left.append(child)
    return found


def _parent(pid: str) -> int:
    return _stat(pid, 1)


def _group(pid: str) -> int:
    return _stat(pid, 2)


def _stat(pid: str, field: int) -> int:
    """Return a field of a process's stat, counted from behind its name; 0 where it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command's name is in brackets and may hold anything.
            return int(file.read().rpartition(b")")[2].split()[field])
    except OSError:
        return 0


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
