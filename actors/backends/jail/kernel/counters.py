"""Bounds on what the kernel counts in a user namespace, so that one jail leaves some for the others of the machine."""

from __future__ import annotations

import contextlib

_OWN = "/proc/sys/user"
_MACHINES = "/proc/sys/fs/inotify"
_SHARES = 8
"""As many jails must use up what they may before there is nothing left for another."""
_INOTIFY = {"max_inotify_instances": ("max_user_instances", 16), "max_inotify_watches": ("max_user_watches", 8192)}
"""What the machine calls it, and the least that a jail may have."""
_NONE = ("max_fanotify_groups", "max_fanotify_marks")


def limit() -> None:
    """Let this process's user namespace, over which it has every capability, have its share and no more."""
    for name, (machines, least) in _INOTIFY.items():
        _write(name, max(least, _read(machines) // _SHARES))
    for name in _NONE:
        _write(name, 0)


def _read(name: str) -> int:
    try:
        with open(f"{_MACHINES}/{name}") as file:
            return int(file.read())
    except FileNotFoundError:
        return 0


def _write(name: str, most: int) -> None:
    # Suppressed: an older kernel does not count it, or this machine shows its settings read-only.
    with contextlib.suppress(OSError), open(f"{_OWN}/{name}", "w") as file:
        file.write(str(most))
