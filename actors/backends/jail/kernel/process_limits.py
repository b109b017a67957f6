"""What the kernel limits by process: high for the service, low for programs. Standard library only.

Some of it is summed up for an account, as descriptors in flight or signals that wait: who has the higher limit still
gets some where others have used up theirs.
"""

from __future__ import annotations

import resource

_SERVICE = (resource.RLIMIT_MEMLOCK, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_SIGPENDING)
_OPEN_FILES = 1024
_PROGRAMS = {
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_MEMLOCK: 2**16,
    resource.RLIMIT_MSGQUEUE: 0,
    resource.RLIMIT_NICE: 0,
    resource.RLIMIT_RTPRIO: 0,
    resource.RLIMIT_SIGPENDING: 1024,
}


def raise_for_service() -> None:
    """Let this process, all that it will start, and the user namespaces below it in sum, have as much as it may."""
    for limit in _SERVICE:
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (hard, hard))


def lower_for_programs() -> None:
    """Leave this process, and all that it will start, what honest programs need."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower(resource.RLIMIT_NOFILE, _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard // 2))
    for limit, value in _PROGRAMS.items():
        lower(limit, value)


def lower(limit: int, value: int) -> None:
    """Set one limit for good, unless it is lower already."""
    _, hard = resource.getrlimit(limit)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))
