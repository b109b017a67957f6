"""What a forked interpreter keeps of what its origin holds open: copies, so that forks do not meet through them.

A fork of a process shares every open file, with its position, every pipe and socket, and all shared memory. A forked
session has a copy of the files: here it opens those in the place of the origin's, and gets new ends, which lead
nowhere, of what was a way to somebody else. Descriptors keep their numbers, and Python's objects go on with them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from actors.backends.jail.kernel import bwrap
from actors.backends.jail.kernel.namespaces import libc

_REOPENED = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_DIRECT | os.O_SYNC | os.O_NOATIME
_DELETED = " (deleted)"
_IN_MEMORY = "/memfd:"
_EPOLL, _EVENTS = "anon_inode:[eventpoll]", "anon_inode:[eventfd]"
_TERMINALS = (5, *range(136, 144))
"""Major numbers of devices that have two ends."""
_PIPE_BYTES = 2**20
_SPLICE_F_NONBLOCK = 2


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A descriptor, as it was found in the origin."""

    fd: int
    mode: int
    inode: int
    device: int
    flags: int
    path: str
    """What /proc says of it: a path, or the kind of what has none."""
    twin: int | None
    """A lower descriptor of the same opened file, with which it shares the position."""

    @property
    def writes(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY


def held(besides: Iterable[int]) -> list[OpenFile]:
    """Return what this process holds open, ``besides`` some descriptors."""
    found: list[OpenFile] = []
    for fd in sorted({int(name) for name in os.listdir("/proc/self/fd")} - set(besides)):
        with contextlib.suppress(OSError):  # the one by which the directory was read
            status, flags = os.fstat(fd), fcntl.fcntl(fd, fcntl.F_GETFL)
            path = os.readlink(f"/proc/self/fd/{fd}")
            twin = None
            if stat.S_ISREG(status.st_mode):
                twin = next((file.fd for file in found if file.path == path and _share_position(file.fd, fd)), None)
            found.append(OpenFile(fd, status.st_mode, status.st_ino, status.st_rdev, flags, path, twin))
    return found


def cut(inherited: list[OpenFile], outputs: dict[int, int]) -> None:
    """Replace what was ``held`` in the origin by this fork's own, in its own container.

    ``outputs`` are its standard streams by the inodes of those that the origin has.
    """
    pipes = {file.inode: os.pipe() for file in inherited if _has_both_ends(file, inherited)}
    for file in inherited:
        if file.twin is not None:
            new = os.dup(file.twin)
        elif stat.S_ISREG(file.mode):
            new = _reopened(file)
        elif stat.S_ISDIR(file.mode):
            new = _opened_at(file.path, os.O_RDONLY | os.O_DIRECTORY)
        elif stat.S_ISFIFO(file.mode) and file.inode in outputs:
            new = os.dup(outputs[file.inode])
        elif stat.S_ISFIFO(file.mode) and file.inode in pipes:
            new = _end_of(pipes[file.inode], file)
        elif stat.S_ISCHR(file.mode) and os.major(file.device) not in _TERMINALS:
            continue  # it has no state
        else:
            new = _dead_end(file)
        os.dup2(new, file.fd, os.get_inheritable(file.fd))
        os.close(new)
    for ends in pipes.values():
        for end in ends:
            os.close(end)


def _share_position(one: int, other: int) -> bool:
    at = os.lseek(one, 0, os.SEEK_CUR)
    os.lseek(one, at + 1, os.SEEK_SET)
    moved = os.lseek(other, 0, os.SEEK_CUR) == at + 1
    os.lseek(one, at, os.SEEK_SET)
    return moved and os.lseek(other, 0, os.SEEK_CUR) == at


def _reopened(file: OpenFile) -> int:
    """Open the copy of a file at the same position; one that has no name any more is copied here."""
    flags = file.flags & _REOPENED
    if file.path.startswith(bwrap.PRIVATE) and not file.path.endswith(_DELETED):
        new = _opened_at(file.path, flags)
    elif file.path.startswith(_IN_MEMORY) or not file.path.startswith(bwrap.PRIVATE):
        new = os.open(f"/proc/self/fd/{file.fd}", flags)  # of the image, or sealed: nobody writes to it
    else:
        new = _copied(file, flags)
    os.lseek(new, os.lseek(file.fd, 0, os.SEEK_CUR), os.SEEK_SET)
    return new


def _opened_at(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError:  # it was not copied, as it was just made or is in the way of something mounted
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)


def _copied(file: OpenFile, flags: int) -> int:
    path = f"/tmp/.inherited-{file.fd}"  # noqa: S108 - the jail's own
    source = os.open(f"/proc/self/fd/{file.fd}", os.O_RDONLY)
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        while os.sendfile(target, source, None, 2**22):
            pass
        return os.open(path, flags | os.O_CLOEXEC)
    finally:
        os.unlink(path)
        os.close(target)
        os.close(source)


def _has_both_ends(file: OpenFile, inherited: list[OpenFile]) -> bool:
    return stat.S_ISFIFO(file.mode) and any(
        other.inode == file.inode and other.writes != file.writes for other in inherited
    )


def _end_of(pipe: tuple[int, int], file: OpenFile) -> int:
    """Return an end of a new pipe, in which is what is in the origin's."""
    if not file.writes:
        libc.tee(file.fd, pipe[1], _PIPE_BYTES, _SPLICE_F_NONBLOCK)
    new = os.dup(pipe[file.writes])
    os.set_blocking(new, not file.flags & os.O_NONBLOCK)
    return new


def _dead_end(file: OpenFile) -> int:
    """Return something of the same kind that leads nowhere."""
    if stat.S_ISSOCK(file.mode):
        with socket.socket(fileno=os.dup(file.fd)) as old:
            new = socket.socket(old.family, old.type)
            new.setblocking(old.getblocking())
        return new.detach()
    if stat.S_ISFIFO(file.mode):
        ends = os.pipe()
        os.close(ends[not file.writes])
        return ends[file.writes]
    if file.path == _EPOLL:
        return int(libc.epoll_create1(os.O_CLOEXEC))
    if file.path == _EVENTS:
        return os.eventfd(0, file.flags & os.O_NONBLOCK)
    return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
