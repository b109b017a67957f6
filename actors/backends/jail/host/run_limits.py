"""What one program may use, and what it used, as far as its jail's control group can tell."""

from __future__ import annotations

from typing import Any

from actors.backends.jail.kernel.cgroup import Group
from actors.config import RunLimits, Wall
from actors.schemas import Program

_SLACK_BYTES = 16 * 2**20  # for interpreters that are made ready meanwhile
_SLACK_PROCESSES = 64  # so that a program meets its own limit first, and new interpreters can be forked meanwhile


class Allowance:
    """The limits of one program, for whoever enforces each: the group, the supervisor or the interpreter itself."""

    def __init__(
        self, program: Program, default: RunLimits, group: Group | None, without: tuple[Wall, ...] = ()
    ) -> None:
        asked = program.limits
        self._by_process = "process_limits" not in without
        self._memory_mib = asked.memory_mib or default.memory_mib
        self._processes = asked.processes or default.processes
        self.disk_mib = asked.disk_mib or default.disk_mib
        """Of each place to write."""
        self.cpu_s = asked.cpu_s or default.cpu_s
        self.resized_mib = self.disk_mib if self.disk_mib != default.disk_mib else None
        """Size of the places to write, where it is not the one that they were made with."""
        self.watched_mib = self._memory_mib if group is None and "watch" not in without else None
        """Memory that the supervisor must watch, as no group does."""
        self._group = group
        self._before_bytes = self._kills_before = 0
        if group is not None:
            self._before_bytes, self._kills_before = group.used_bytes(), group.oom_kills()

    def begin(self, session_base_bytes: int | None = None) -> int:
        """Set the group's limits; return what its memory is counted from.

        ``session_base_bytes`` is what the first program of the session was counted from, so that a session cannot
        gather more with every program.
        """
        base_bytes = self._before_bytes if session_base_bytes is None else session_base_bytes
        if self._group is not None:
            limit_bytes = max(base_bytes + self._memory_mib * 2**20, self._before_bytes) + _SLACK_BYTES
            self._group.limit(limit_bytes, self._group.processes() + self._processes + _SLACK_PROCESSES)
            self._group.restart_peak()
        return base_bytes

    def own(self) -> dict[str, Any] | None:
        """Return what the interpreter sets on itself before the program starts, if anything."""
        if not self._by_process:
            return None
        return {
            "processes": self._processes,
            "disk_mib": self.disk_mib,
            "memory_mib": self._memory_mib if self._group is None else None,
        }

    def memory_ran_out(self) -> bool:
        """Whether the kernel killed something of this jail for its memory since the program began."""
        return self._group is not None and self._group.oom_kills() > self._kills_before

    def forget_kills(self) -> None:
        """Let ``memory_ran_out`` tell of what is killed from now on."""
        if self._group is not None:
            self._kills_before = self._group.oom_kills()

    def peak_mib(self) -> float | None:
        """Most memory in use at a time since the program began, in all its processes; None without a group."""
        peak = self._group.peak_bytes() if self._group is not None else None
        return None if peak is None else max(0, peak - self._before_bytes) / 2**20
