"""The limits of one program: what it may use, who enforces it, and what its jail's control group says it used."""

from __future__ import annotations

from typing import Any

from actors.backends.jail.kernel.cgroup import Group
from actors.config import RunLimits, Wall
from actors.schemas import Program

_SLACK_BYTES = 16 * 2**20  # for interpreters that are made ready meanwhile
_SLACK_PROCESSES = 64  # so that a program meets its own limit first, and new interpreters can be forked meanwhile


class EnforcedLimits:
    """The limits that hold for one program: those it asked for, else the deployment's.

    Each is enforced by the control group, by the host, or by the interpreter on itself.
    """

    def __init__(
        self, program: Program, default: RunLimits, group: Group | None, without: tuple[Wall, ...] = ()
    ) -> None:
        asked = program.limits
        self._by_process = "process_limits" not in without
        self._memory_mib = asked.memory_mib or default.memory_mib
        self._processes = asked.processes or default.processes
        self.disk_mib = asked.disk_mib or default.disk_mib
        """The size of each place to write."""
        self.cpu_s = asked.cpu_s or default.cpu_s
        self.resized_mib = self.disk_mib if self.disk_mib != default.disk_mib else None
        """The size of each place to write if it differs from the one that they were made with, else None."""
        self.watched_mib = self._memory_mib if group is None and "watch" not in without else None
        """The memory limit if the host must watch it, since no group does, else None."""
        self._group = group
        self._charged_s = 0.0
        self._before_bytes = self._kills_before = 0
        if group is not None:
            self._before_bytes, self._kills_before = group.used_bytes(), group.oom_kills()

    def enforce(self, session_base_bytes: int | None = None) -> int:
        """Set the group's limits; return the group's memory that the program's own is counted from.

        ``session_base_bytes`` is what this returned for the session's first program: counting from it, a session cannot
        gather more memory with every program.
        """
        base_bytes = self._before_bytes if session_base_bytes is None else session_base_bytes
        if self._group is not None:
            limit_bytes = max(base_bytes + self._memory_mib * 2**20, self._before_bytes) + _SLACK_BYTES
            self._group.charge(0.0)
            self._group.limit(limit_bytes, self._group.processes() + self._processes + _SLACK_PROCESSES)
            self._group.restart_peak()
        return base_bytes

    def for_process(self) -> dict[str, Any] | None:
        """Return the limits that a process sets on itself before any program starts, or None."""
        if not self._by_process:
            return None
        return {
            "processes": self._processes,
            "disk_mib": self.disk_mib,
            "memory_mib": self._memory_mib if self._group is None else None,
        }

    def charge(self, cpu_s: float) -> None:
        """Have the CPU time that the program has used so far weigh in how processors are shared out."""
        if self._group is not None:
            self._group.charge(max(0.0, cpu_s - self._charged_s))
            self._charged_s = cpu_s

    def memory_ran_out(self) -> bool:
        """Tell whether the kernel killed a process of this jail for its memory since the program began."""
        return self._group is not None and self._group.oom_kills() > self._kills_before

    def forget_kills(self) -> None:
        """Have ``memory_ran_out`` count from now on."""
        if self._group is not None:
            self._kills_before = self._group.oom_kills()

    def peak_mib(self) -> float | None:
        """Return the most memory that all processes of the program used at a time; None without a group."""
        peak = self._group.peak_bytes() if self._group is not None else None
        return None if peak is None else max(0, peak - self._before_bytes) / 2**20
