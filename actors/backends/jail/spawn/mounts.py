"""The mounts that a container's init makes: its own /proc, and the empty places where programs may write."""

from __future__ import annotations

import errno
import os

from actors.backends.jail.kernel import bwrap, namespaces

_INODES_PER_MIB = 64
_MIN_INODES = 4096
_FLAGS = namespaces.MS_NOSUID | namespaces.MS_NODEV
_TRIES = 5


def mount_proc() -> None:
    """Mount the /proc of this process's pid namespace."""
    namespaces.mount("proc", "/proc", "proc", namespaces.MS_NOSUID | namespaces.MS_NODEV | namespaces.MS_NOEXEC)


def mount_private(disk_mib: int | None, prefixes: list[str]) -> None:
    """Mount empty places to write, each of at most ``disk_mib`` where that is not None."""
    options = "mode=0700"
    if disk_mib is not None:
        options += f",size={disk_mib}m,nr_inodes={_inodes(disk_mib)}"
    for path in bwrap.PRIVATE:
        # A Python that is installed below a private place must not vanish with it.
        below = [prefix for prefix in prefixes if prefix.startswith(path + "/")]
        covered = [(prefix, os.open(prefix, os.O_PATH)) for prefix in below]
        namespaces.mount("tmpfs", path, "tmpfs", _FLAGS, options)
        for prefix, fd in covered:
            os.makedirs(prefix)
            namespaces.mount(f"/proc/self/fd/{fd}", prefix, "", namespaces.MS_BIND | namespaces.MS_REC)
            os.close(fd)


def resize_private(disk_mib: int) -> None:
    """Change the size of the places to write. One that holds more already gets no more than it has."""
    for path in bwrap.PRIVATE:
        for _ in range(_TRIES):  # what still runs in a session may write meanwhile
            place = os.statvfs(path)
            size = max(disk_mib * 2**20, (place.f_blocks - place.f_bfree) * place.f_frsize)
            inodes = max(_inodes(disk_mib), place.f_files - place.f_ffree)
            options = f"mode=0700,size={size},nr_inodes={inodes}"
            try:
                namespaces.mount("tmpfs", path, "tmpfs", _FLAGS | namespaces.MS_REMOUNT, options)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            else:
                break


def _inodes(disk_mib: int) -> int:
    return max(_MIN_INODES, disk_mib * _INODES_PER_MIB)
