"""The system calls that Python lacks, with errors as ``OSError``.

Imported by processes that were forked and hold no event loop; standard library only. Numbers are from the kernel's
``include/uapi`` and equal on x86_64 and aarch64 unless a table says otherwise.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import signal
import socket
import struct

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_PIDFD = 0x10000000, 0x20000000, 0x40000000, 0x1000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000

_MACHINE = platform.machine()
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}.get(_MACHINE, -1)
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(_MACHINE, -1)
_SYS_CLOSE_RANGE = 436
_MNT_DETACH = 2
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER = 1, 4, 24, 36
_PR_SET_NAME, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 15, 38, 47
_PR_CAP_AMBIENT_RAISE, _PR_CAP_AMBIENT_CLEAR_ALL = 2, 4
CAP_SYS_ADMIN = 21
_CAPABILITY_VERSION_3 = 0x20080522
_OWN_CAPABILITIES, _NO_CAPABILITIES = struct.pack("II", _CAPABILITY_VERSION_3, 0), bytes(24)
_LAST_FD = 2**32 - 1
_SIGKILL = int(signal.SIGKILL)

# PyDLL keeps the interpreter's lock: a forking call must not let it go half-way.
libc = ctypes.PyDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
# What forks call is looked up here and now: a lookup touches the dynamic linker's tables.
_setns, _capset, _set_name = libc.setns, libc.capset, ctypes.PyDLL(None).prctl
_prctl = ctypes.PyDLL(None, use_errno=True).prctl
_prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_close_range = ctypes.PyDLL(None, use_errno=True).syscall
_close_range.argtypes = [ctypes.c_long, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint]


def check(result: int, what: str) -> int:
    """Return ``result``, or raise the error that the last call left."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    check(libc.unshare(flags), "unshare")


def join_namespace(fd: int, kind: int) -> None:
    """Enter the namespace open at ``fd``; of ``CLONE_NEWPID``, only children that are forked from now on do."""
    check(_setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    arguments = (text.encode() or None for text in (source, target, kind))
    check(libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None), f"mount {target}")


def unmount(path: str) -> None:
    """Take a mount out of the file system; whoever has opened something there keeps it."""
    check(libc.umount2(path.encode(), _MNT_DETACH), f"umount {path}")


def change_root(path: str) -> None:
    """Make the mount point ``path`` the root of this mount namespace, and let go of what was there."""
    os.chdir(path)
    check(libc.syscall(ctypes.c_long(_SYS_PIVOT_ROOT), b".", b"."), "pivot_root")
    unmount(".")
    os.chdir("/")


def name_host(name: str) -> None:
    """Set what this process's UTS namespace is called."""
    check(libc.sethostname(name.encode(), len(name)), "sethostname")


def raise_loopback() -> None:
    """Switch on the loopback interface of this process's network namespace, where nothing else is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def fork_into(flags: int) -> tuple[int, int]:
    """Fork a child that begins in new namespaces; return (pid, pidfd), or (0, -1) in the child.

    Unlike ``unshare`` and then ``os.fork`` this can be repeated, for a process may unshare its children's pid
    namespace only once. The C library does not learn the child's thread id, so the child must be single-threaded
    and call neither ``raise`` nor ``abort``; what it forks with ``os.fork`` is ordinary again.
    """
    pidfd = ctypes.c_int(-1)
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = libc.syscall(
        ctypes.c_long(_SYS_CLONE),
        ctypes.c_ulong(flags | CLONE_PIDFD | signal.SIGCHLD),
        ctypes.c_void_p(None),
        ctypes.byref(pidfd),
        ctypes.c_void_p(None),
        ctypes.c_void_p(None),
    )
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    return check(pid, "clone"), pidfd.value


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends."""
    check(_prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "prctl(PDEATHSIG)")


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, in the place of the machine's process 1."""
    check(_prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(CHILD_SUBREAPER)")


def name_process(name: str) -> None:
    """Set what ``ps`` and ``top`` call this process, up to 15 characters."""
    _set_name(_PR_SET_NAME, name.encode())


def set_dumpable(dumpable: bool) -> None:
    """Say whether others of the same uid may look into this process through /proc."""
    check(_prctl(_PR_SET_DUMPABLE, dumpable, 0, 0, 0), "prctl(DUMPABLE)")


def forbid_new_privileges() -> None:
    check(_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(NO_NEW_PRIVS)")


def bound_capabilities() -> None:
    """Let no program that is executed from now on gain a capability; those held are kept until dropped."""
    for capability in range(64):
        if _prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # past the last one that this kernel knows


def keep_capability(capability: int) -> None:
    """Hold this one capability alone, also in the program that is executed next."""
    low, high = (1 << capability) & 0xFFFFFFFF, (1 << capability) >> 32
    check(_capset(_OWN_CAPABILITIES, struct.pack("6I", low, low, low, high, high, high)), "capset")
    check(_prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0), "prctl(CAP_AMBIENT)")


def drop_capabilities() -> None:
    """Give up every capability that is held or could be handed on, for good."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    check(_capset(_OWN_CAPABILITIES, _NO_CAPABILITIES), "capset")


def close_all_except(kept: set[int]) -> None:
    """Close every file descriptor that is not in ``kept``."""
    start = 0
    for fd in sorted(kept):
        if start < fd:
            check(_close_range(_SYS_CLOSE_RANGE, start, fd - 1, 0), "close_range")
        start = fd + 1
    close_from(start)


def close_from(fd: int) -> None:
    """Close every file descriptor from ``fd`` on."""
    check(_close_range(_SYS_CLOSE_RANGE, fd, _LAST_FD, 0), "close_range")
