"""The walls of jails: built once by bwrap, and copied for each.

A namespace of mounts is copied in one step, where bwrap takes dozens and two processes. What a copy cannot share, it
gets anew: terminals, user, IPC and host name. Its mounts belong to a user namespace that cannot change them.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal

from actors.backends.jail.kernel import bwrap, namespaces, orphans

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
_TERMINALS = "newinstance,ptmxmode=0666,mode=620"


def build(walls: bwrap.Walls) -> list[int]:
    """Have bwrap build the walls; return their namespaces, to be entered in this order.

    They stand for as long as somebody is in them or holds these descriptors.

    Raises:
        RuntimeError: bwrap failed; holds its own words.
    """
    inmate, stays = _start(walls)
    try:
        user, *spaces = (os.open(f"/proc/{inmate}/ns/{name}", os.O_RDONLY) for name in ("user", *_SPACES))
        # Where the mounts may be changed; from there one gets into the user namespace inside, which has lost that.
        return [fcntl.ioctl(spaces[0], _NS_GET_USERNS), *spaces, user]
    finally:
        os.close(stays)


def copy(spaces: list[int], uid: int, gid: int) -> list[int]:
    """Enter a copy of such namespaces, in which this process's user has these ids; return the copy's own.

    Raises:
        OSError: the kernel, or a policy of this machine, does not let this process make one.
    """
    own = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)  # inside it would be another's
    enter(spaces[:2])
    namespaces.unshare(namespaces.CLONE_NEWNS)
    flags = namespaces.MS_NOSUID | namespaces.MS_NOEXEC
    namespaces.mount("devpts", "/dev/pts", "devpts", flags, _TERMINALS)
    namespaces.unshare(_COPIED)
    namespaces.set_dumpable(True)  # to describe itself
    for name, number in (("uid_map", uid), ("gid_map", gid)):
        file = os.open(name, os.O_WRONLY, dir_fd=own)
        os.write(file, f"{number} 0 1".encode())
        os.close(file)
    namespaces.set_dumpable(False)
    namespaces.name_host(bwrap.HOST)
    found = [os.open(f"ns/{name}", os.O_RDONLY, dir_fd=own) for name in ("user", *_SPACES)]
    os.close(own)
    return found


def can_copy(spaces: list[int], uid: int, gid: int) -> bool:
    """Whether processes of this service may make copies, and mount in them.

    AppArmor lets bwrap have user namespaces on machines where it lets nobody else.
    """
    told, tells = os.pipe()
    if os.fork() == 0:  # which the kernel reaps
        try:
            copy(spaces, uid, gid)
            namespaces.unshare(namespaces.CLONE_NEWNS)
            namespaces.mount("tmpfs", bwrap.HOME, "tmpfs", namespaces.MS_NOSUID)
            os.write(tells, b".")
        finally:
            os._exit(0)  # whatever it was, silence tells; and never go on as a second zygote
    os.close(tells)
    with os.fdopen(told, "rb") as word:
        ready, _, _ = select.select([word], [], [], _BUILD_S)
        return bool(ready and word.read(1))


def enter(spaces: list[int]) -> None:
    """Enter namespaces one after another: what can only be entered from within another comes after it."""
    for space in spaces:
        namespaces.join_namespace(space, 0)


def _start(walls: bwrap.Walls) -> tuple[int, int]:
    """Start bwrap; return the pid of the one process inside, and a descriptor: it ends when that is closed."""
    in_r, in_w = os.pipe()
    out_r, out_w = os.pipe()
    error_r, error_w = os.pipe()
    info_r, info_w = os.pipe()
    # Each has a higher number than its place, so none is overwritten before it is put there.
    given = [in_r, out_w, error_w, info_w, *map(_readable, walls.files)]
    os.write(in_w, b".")  # while this end is open: a bwrap that fails at once would break the pipe
    os.posix_spawn(
        walls.program,
        [orphans.name_of_walls(os.getpid()), *walls.arguments],
        {},
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, place) for place, fd in enumerate(given)],
        setsigdef=[signal.SIGCHLD, signal.SIGINT],
    )
    for fd in given:
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
    """Return a descriptor that reads as ``data``, which must fit a pipe's buffer."""
    read_fd, write_fd = os.pipe()
    os.write(write_fd, data)
    os.close(write_fd)
    return read_fd
