"""The address of a jail server: a socket's file, in a directory that its account alone can look into.

No other account can take the address, as it could one that is a mere name. But such a file outlives whoever listens at
it, so it counts only while somebody does. Who changes anything holds the directory's lock, which the kernel gives back
whatever becomes of its holder. The directory is held open and never named: its path may be longer than an address.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator

SUFFIX = ".sock"
BACKLOG = 256


def connect(directory: int, name: str) -> socket.socket | None:
    """Return a connection, which does not block, to whoever listens; None when nobody does.

    Raises:
        BlockingIOError: somebody listens, and too many wait to be let in.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setblocking(False)
    try:
        connection.connect(_path(directory, name))
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


def listen(directory: int, name: str) -> socket.socket:
    """Return a socket that listens, in the place of one at which nobody listens any more.

    Raises:
        BlockingIOError: another does, or is just about to.
        FileNotFoundError: the directory was removed.
    """
    with _alone(directory):
        if (other := connect(directory, name)) is not None:
            other.close()
            raise BlockingIOError
        _remove(directory, name)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            listener.bind(_path(directory, name))
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener


def sweep(directory: int) -> None:
    """Remove the files at which nobody listens any more, and the directory if that leaves nothing in it.

    Raises:
        BlockingIOError: another is at it.
    """
    with _alone(directory):
        for name in os.listdir(directory):
            if name.endswith(SUFFIX) and not _is_alive(directory, name):
                _remove(directory, name)
        with contextlib.suppress(OSError):  # something is in it, or it is gone
            os.rmdir(os.readlink(f"/proc/self/fd/{directory}"))


@contextlib.contextmanager
def _alone(directory: int) -> Iterator[None]:
    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield
    finally:
        fcntl.flock(directory, fcntl.LOCK_UN)


def _is_alive(directory: int, name: str) -> bool:
    try:
        connection = connect(directory, name)
    except BlockingIOError:
        return True
    if connection is None:
        return False
    connection.close()
    return True


def _remove(directory: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _path(directory: int, name: str) -> str:
    return f"/proc/self/fd/{directory}/{name}"
