"""The program file of jailed processes, out of their reach.

A fork runs the file that its ancestor was started from, and ``/proc/self/exe`` leads there by the ancestor's mounts,
past those of the jail. Where the account owns its Python, a program of the same account could change that file's mode
or times. So the jail server is started a second time, from a read-only mount of that file.
"""

from __future__ import annotations

import os
import sys

from actors.backends.jail.kernel import namespaces

_SEALED = "sealed"
_KEPT = {0x2: 0x2, 0x4: 0x4, 0x8: 0x8, 0x400: 0x400, 0x800: 0x800, 0x1000: 1 << 21}
"""What a mount forbids, as ``statvfs`` tells it, and the flag by which a mount of it must go on to forbid it."""


def seal() -> None:
    """Execute this process anew from a read-only mount, unless it has been, or this machine lets nobody make one.

    Root's jail server runs programs as somebody who does not own the file.
    """
    if _SEALED in sys.argv:
        # Gone from the file system, where it would keep jails from overlays, and held by this process and its forks.
        namespaces.unmount(os.path.realpath(sys.executable))
        namespaces.drop_capabilities()
        return
    if os.geteuid() == 0 or not _can_seal():
        return
    _mount_read_only()
    namespaces.keep_capability(namespaces.CAP_SYS_ADMIN)
    os.execv(sys.executable, [sys.executable, "-I", "-S", *sys.argv, _SEALED])  # noqa: S606 - itself


def _can_seal() -> bool:
    """Tell whether it works, in a child: a process does not leave a user namespace again."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _mount_read_only()
            status = 0
        except OSError:
            pass  # the status tells it
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _mount_read_only() -> None:
    ids = {"uid_map": os.geteuid(), "gid_map": os.getegid()}
    namespaces.unshare(namespaces.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), *((name, f"{number} {number} 1") for name, number in ids.items())):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    namespaces.unshare(namespaces.CLONE_NEWNS)
    namespaces.mount("", "/", "", namespaces.MS_REC | namespaces.MS_PRIVATE)
    path = os.path.realpath(sys.executable)
    forbidden = os.statvfs(path).f_flag
    kept = sum(flag for told, flag in _KEPT.items() if forbidden & told)
    namespaces.mount(path, path, "", namespaces.MS_BIND)
    namespaces.mount(
        "", path, "", namespaces.MS_BIND | namespaces.MS_REMOUNT | namespaces.MS_RDONLY | namespaces.MS_NOSUID | kept
    )
