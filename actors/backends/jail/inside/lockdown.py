"""The lockdown: the steps that take a process's rights away before it may run a program; none can be undone.

Begins in fork servers and is completed in each process that they fork into a container.
"""

from __future__ import annotations

import os
import platform
import resource

from actors.backends.jail.kernel import landlock, namespaces, oom, process_limits, seccomp
from actors.backends.jail.kernel.process_limits import lower

_RESERVED_BYTES = 2**36
"""Of addresses, for runtimes that reserve and never use them: the page tables of so much are bounded all the same."""
_RESERVED_MIB = 1024  # Node.js 24 does not start with half as much
_FEWEST_FILES = 256
"""That any program gets, however little memory it may use; beyond that one for each MiB."""


class Lockdown:
    """The locks of one kind of interpreter, prepared in its zygote.

    A fork server begins with all that it can live with itself, and its forks inherit that. What is left for them is
    little more than system calls with arguments that are ready: whatever Python looks at in a fork it writes to, and so
    copies.
    """

    def __init__(self, without: frozenset[str]) -> None:
        self._keeps_capabilities = "capabilities" in without
        self._inherited: seccomp.Filter | None = None
        self._own: seccomp.Filter | None = None
        self._forkable: seccomp.Filter | None = None
        if "seccomp" not in without:
            self._inherited, self._own, self._forkable = map(seccomp.Filter, seccomp.assemble(platform.machine()))

    def begin(self) -> None:
        """Take away what neither this process needs nor any that it forks.

        Raises:
            OSError: some lock does not hold, so nothing may be run.
        """
        namespaces.bound_capabilities()
        namespaces.forbid_new_privileges()
        process_limits.lower_for_programs()
        if self._inherited is not None:
            self._inherited.install()

    def apply(self, rules: list[int], forkable: bool = False) -> None:
        """Give up capabilities, and add the last filter and ``rules``, except for walls that are left out on purpose.

        ``rules`` are Landlock's, where it is used. A ``forkable`` process may enter namespaces that it has a right to.

        Raises:
            OSError: as ``begin``.
        """
        if not self._keeps_capabilities:
            namespaces.drop_capabilities()
        for ruleset in rules:
            landlock.restrict(ruleset)
        last = self._forkable if forkable else self._own
        if last is not None:
            last.install()
        namespaces.set_dumpable(True)  # to use its own /proc/self; only processes of the same program see it
        oom.be_killed_first()


def limit(processes: int, disk_mib: int, memory_mib: int | None, *, reserves: bool = False) -> None:
    """Set the limits of this process, and of all that it will start; ``memory_mib`` only where no cgroup limits memory.

    With ``reserves`` there is room for what some runtimes reserve and never use; what is resident is then for the host
    to watch. What it cannot see, as the contents of pipes, is bounded by fewer descriptors.

    RLIMIT_NPROC counts the whole jail, so there is room for its waiting interpreters. CPU time is the host's to watch,
    since RLIMIT_CPU counts neither children nor each program of a session anew.
    """
    lower(resource.RLIMIT_NPROC, processes + 16)
    lower(resource.RLIMIT_FSIZE, disk_mib * 2**20)
    if memory_mib is not None:
        held = _status_kib("VmSize"), _status_kib("VmData")
        addresses = _RESERVED_BYTES if reserves else held[0] * 1024 + memory_mib * 2**20
        lower(resource.RLIMIT_AS, addresses)
        lower(resource.RLIMIT_NOFILE, max(_FEWEST_FILES, memory_mib))
        memory_mib += _RESERVED_MIB if reserves else 0
        lower(resource.RLIMIT_DATA, held[1] * 1024 + memory_mib * 2**20)


def _status_kib(field: str) -> int:
    with open(f"/proc/{os.getpid()}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{field}:"))
