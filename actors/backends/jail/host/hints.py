"""Hints on why jails cannot be built on a machine, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_MAXIMUM = "/proc/sys/user/max_user_namespaces"
_CLONE = "/proc/sys/kernel/unprivileged_userns_clone"

Read = Callable[[str], str | None]


def read(path: str) -> str | None:
    """Return a file's text without its last newline; None if there is no such file."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def explain(failure: str, read: Read = read) -> tuple[str, str]:
    """Return why a jail could not be built, and a hint on what to do; ``failure`` is what bwrap said."""
    if read(_MAXIMUM) == "0":
        return "User namespaces are switched off", "Run: sysctl -w user.max_user_namespaces=15000"
    if read(_CLONE) == "0":
        return (
            "User namespaces are switched off for ordinary users",
            "Run: sysctl -w kernel.unprivileged_userns_clone=1",
        )
    if read(_APPARMOR) == "1" and any(word in failure for word in ("uid map", "RTM_NEWADDR", "Permission denied")):
        return (
            "AppArmor keeps programs without a profile from making user namespaces",
            "Install the profile for /usr/bin/bwrap (apt install apparmor-profiles), or run: "
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        )
    if "No permissions to create" in failure or "Creating new namespace failed" in failure:
        return (
            "A container's seccomp profile forbids new namespaces",
            "Start the container with --security-opt seccomp=unconfined --security-opt systempaths=unconfined "
            "(Kubernetes: procMount: Unmasked with hostUsers: false)",
        )
    if "uid map" in failure or "RTM_NEWADDR" in failure:
        return (
            "A policy of this machine or its container takes away what a new namespace should give",
            "Look for AppArmor or SELinux denials of bwrap in the kernel's log; in a container, start it with "
            "--security-opt apparmor=unconfined",
        )
    if "proc" in failure and ("mount" in failure or "Can't" in failure):
        return (
            "Parts of /proc are masked, as containers do, so that no jail can mount its own",
            "Start the container with --security-opt systempaths=unconfined (Kubernetes: procMount: Unmasked)",
        )
    if "clone:" in failure or "setns:" in failure:
        return "The kernel refuses what jails need", "Linux 5.8 or newer, with user namespaces, is needed"
    return f"The jail cannot be built: {failure}", "Run the doctor command for each requirement by itself"
