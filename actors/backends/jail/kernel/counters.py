"""Bounds on what the kernel counts in a user namespace, so that one jail leaves some for the others of the machine."""

from __future__ import annotations

import contextlib

_ALL = "/proc/sys/user"
_SHARES = 8
"""As many jails must use up what they may before there is nothing left for another."""
_LEAST = {"max_inotify_instances": 16, "max_inotify_watches": 8192}
_NONE = ("max_fanotify_groups", "max_fanotify_marks")


def shares() -> dict[str, int]:
    """Return what each jail may have, by what the user namespace of this process has."""
    return {name: max(least, _read(name) // _SHARES) for name, least in _LEAST.items()} | dict.fromkeys(_NONE, 0)


def limit(counters: dict[str, int]) -> None:
    """Let this process's user namespace, over which it has every capability, have no more than this."""
    for name, most in counters.items():
        # Suppressed: an older kernel does not count it, or this machine shows its settings read-only.
        with contextlib.suppress(OSError), open(f"{_ALL}/{name}", "w") as file:
            file.write(str(most))


def _read(name: str) -> int:
    try:
        with open(f"{_ALL}/{name}") as file:
            return int(file.read())
    except FileNotFoundError:
        return 0
