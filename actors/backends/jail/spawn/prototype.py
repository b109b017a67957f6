"""The prototype of jails: a jail that the jail server has bwrap build once, and that each shim copies.

A mount namespace is copied in one step, where bwrap takes dozens of steps and two processes. What a copy cannot share
it gets anew: terminals, and the user, IPC, UTS and cgroup namespaces. The kernel locks the mounts of a copy, since they
come from a user namespace with more rights, so nothing inside can change them.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal

from actors.backends.jail import process_names
from actors.backends.jail.kernel import bwrap, identities, namespaces
from actors.backends.jail.spawn import inodes

_BUILD_S = 10.0
_NS_GET_USERNS = 0xB701  # of linux/nsfs.h
_SPACES = ("mnt", "ipc", "uts", "cgroup")
_COPIED = (
    namespaces.CLONE_NEWUSER
    | namespaces.CLONE_NEWNS
    | namespaces.CLONE_NEWIPC
    | namespaces.CLONE_NEWUTS
    | namespaces.CLONE_NEWCGROUP
)
_TERMINALS = "newinstance,ptmxmode=0666,mode=620,max=64"
"""The machine has some thousand for all."""


def build(walls: bwrap.Walls, user_namespace: int | None = None) -> list[int]:
    """Have bwrap build the walls of a jail, in a user namespace that is there or in its own.

    Returns their namespaces, to be entered in this order.

    They last for as long as a process is in them or holds these descriptors.

    Raises:
        RuntimeError: bwrap failed; holds its own words.
    """
    inside, stays_open = _start(walls, user_namespace)
    try:
        user, *spaces = (os.open(f"/proc/{inside}/ns/{name}", os.O_RDONLY) for name in ("user", *_SPACES))
        # First the user namespace that has rights over the mounts; only from there can the inner one be entered.
        return [fcntl.ioctl(spaces[0], _NS_GET_USERNS), *spaces, user]
    finally:
        os.close(stays_open)


def copy(spaces: list[int], uid: int, gid: int, *, own_id: bool, own_inodes: bool) -> list[int]:
    """Enter a copy of the prototype, in which this process's user has these ids; return the copy's namespaces.

    With ``own_id`` the prototype is in the user namespace of ``identities``, and the copy's user is one of them; with
    ``own_inodes`` the copy sees the prototype's files through overlays of its own.

    Raises:
        OSError: the kernel, or a policy of this machine, does not let this process make one.
    """
    own = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)  # inside it would be another's
    enter(spaces[:2])
    namespaces.unshare(namespaces.CLONE_NEWNS)
    if own_inodes:
        inodes.take_own(own)
    flags = namespaces.MS_NOSUID | namespaces.MS_NOEXEC
    namespaces.mount("devpts", "/dev/pts", "devpts", flags, _TERMINALS)
    outer = identities.take() if own_id else 0
    namespaces.unshare(_COPIED)
    namespaces.set_dumpable(True)  # to describe itself
    for name, number in (("uid_map", uid), ("gid_map", gid)):
        file = os.open(name, os.O_WRONLY, dir_fd=own)
        os.write(file, f"{number} {outer} 1".encode())
        os.close(file)
    namespaces.set_dumpable(False)
    namespaces.name_host(bwrap.HOST)
    found = [os.open(f"ns/{name}", os.O_RDONLY, dir_fd=own) for name in ("user", *_SPACES)]
    os.close(own)
    return found


def can_copy(spaces: list[int], uid: int, gid: int, *, own_id: bool, own_inodes: bool) -> bool:
    """Tell whether this process may make copies, and mount in them.

    On some machines AppArmor lets bwrap have user namespaces, and nobody else.
    """
    word_r, word_w = os.pipe()
    if os.fork() == 0:  # the kernel reaps it
        try:
            copy(spaces, uid, gid, own_id=own_id, own_inodes=own_inodes)
            namespaces.unshare(namespaces.CLONE_NEWNS)
            namespaces.mount("tmpfs", bwrap.HOME, "tmpfs", namespaces.MS_NOSUID)
            os.write(word_w, b".")
        finally:
            os._exit(0)  # on any failure: its silence is the answer, and it must not go on as a second jail server
    os.close(word_w)
    with os.fdopen(word_r, "rb") as word:
        ready, _, _ = select.select([word], [], [], _BUILD_S)
        return bool(ready and word.read(1))


def enter(spaces: list[int]) -> None:
    """Enter namespaces in this order: one that can only be entered from within another comes after it."""
    for space in spaces:
        namespaces.join_namespace(space, 0)


def _start(walls: bwrap.Walls, user_namespace: int | None) -> tuple[int, int]:
    """Start bwrap; return the pid of the one process inside, and a descriptor at whose closing it ends."""
    in_r, in_w = os.pipe()
    out_r, out_w = os.pipe()
    error_r, error_w = os.pipe()
    info_r, info_w = os.pipe()
    # Each has a higher number than its place, so none is overwritten before it is put there.
    given = {0: in_r, 1: out_w, 2: error_w, bwrap.INFO: info_w}
    given |= dict(enumerate(map(_readable, walls.files), bwrap.FIRST_FILE))
    if user_namespace is not None:
        given[bwrap.USER_NAMESPACE] = os.dup(user_namespace)
    os.write(in_w, b".")  # while this end is open: a bwrap that fails at once would break the pipe
    os.posix_spawn(
        walls.program,
        [process_names.walls(os.getpid()), *walls.arguments],
        {},
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, place) for place, fd in given.items()],
        setsigdef=[signal.SIGCHLD, signal.SIGINT],
    )
    for fd in given.values():
        os.close(fd)
    ready, _, _ = select.select([out_r], [], [], _BUILD_S)
    if not ready or os.read(out_r, 1) != b".":
        raise RuntimeError(f"bwrap: {os.read(error_r, 2000).decode(errors='replace') if ready else 'does not answer'}")
    info = b""
    while not info.rstrip().endswith(b"}"):
        info += os.read(info_r, 1000)
    for fd in (info_r, out_r, error_r):
        os.close(fd)
    return int(info.partition(b'"child-pid":')[2].split(b",")[0].split(b"}")[0]), in_w


def _readable(data: bytes) -> int:
    """Return a descriptor that reads as ``data``."""
    fd = os.memfd_create("given", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
