"""The mounts that a container's init makes: its own /proc, and the empty places where programs may write."""

from __future__ import annotations

import os

from actors.backends.jail.kernel import bwrap, namespaces

_INODES_PER_MIB = 64
_MIN_INODES = 4096


def mount_proc() -> None:
    """Mount the /proc of this process's pid namespace."""
    namespaces.mount("proc", "/proc", "proc", namespaces.MS_NOSUID | namespaces.MS_NODEV | namespaces.MS_NOEXEC)


def mount_private(disk_mib: int | None, prefixes: list[str], remount: bool = False) -> None:
    """Mount empty places to write, each of at most ``disk_mib`` where that is not None; or change their size."""
    flags = namespaces.MS_NOSUID | namespaces.MS_NODEV
    if remount:
        flags |= namespaces.MS_REMOUNT
    options = "mode=0700"
    if disk_mib is not None:
        options += f",size={disk_mib}m,nr_inodes={max(_MIN_INODES, disk_mib * _INODES_PER_MIB)}"
    for path in bwrap.PRIVATE:
        # A Python that is installed below a private place must not vanish with it.
        below = [prefix for prefix in prefixes if prefix.startswith(path + "/")]
        covered = [(prefix, os.open(prefix, os.O_PATH)) for prefix in below]
        namespaces.mount("tmpfs", path, "tmpfs", flags, options)
        for prefix, fd in covered:
            os.makedirs(prefix)
            namespaces.mount(f"/proc/self/fd/{fd}", prefix, "", namespaces.MS_BIND)
            os.close(fd)
