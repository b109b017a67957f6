"""Copying of a directory's content with its links, modes and times, for a forked session.

Runs in the init of the fork's container, which is trusted and trusts nothing in the directory.
"""

from __future__ import annotations

import contextlib
import os
import stat

_PART_BYTES = 2**22


def copy_tree(source: int, target: str) -> None:
    """Copy what is in the directory open at ``source``.

    Left out are sockets, pipes, what vanishes meanwhile, and what is mounted there: a Python below such a directory is
    shown in the copy too.

    Raises:
        OSError: there is no room for it.
    """
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _copy(source, fd, os.fstat(source).st_dev)
    finally:
        os.close(fd)


def _copy(source: int, target: int, device: int) -> None:
    for name in os.listdir(source):
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(name, dir_fd=source, follow_symlinks=False)
            if found.st_dev != device:
                continue
            if stat.S_ISLNK(found.st_mode):
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            elif stat.S_ISDIR(found.st_mode):
                with contextlib.suppress(FileExistsError):  # on the way to what is mounted
                    os.mkdir(name, 0o700, dir_fd=target)
                _within(source, target, name, found)
            elif stat.S_ISREG(found.st_mode):
                _copy_file(source, target, name, found)


def _within(source: int, target: int, name: str, found: os.stat_result) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    inner, made = os.open(name, flags, dir_fd=source), os.open(name, flags, dir_fd=target)
    try:
        _copy(inner, made, found.st_dev)
        _finish(made, found)
    finally:
        os.close(inner)
        os.close(made)


def _copy_file(source: int, target: int, name: str, found: os.stat_result) -> None:
    read = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=source)
    try:
        written = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=target)
        try:
            while os.sendfile(written, read, None, _PART_BYTES):
                pass
            _finish(written, found)
        finally:
            os.close(written)
    finally:
        os.close(read)


def _finish(fd: int, found: os.stat_result) -> None:
    os.fchmod(fd, stat.S_IMODE(found.st_mode))
    os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))
