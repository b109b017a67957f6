"""The lock that lets one ``up`` at a time start the long-lived deployment of a namespace; its file is gone with it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from actors.deployment import join_file
from actors.errors import NoDeployment

POLL_S = 0.1


@contextlib.contextmanager
def held(namespace: str, timeout_s: float, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock; calls ``on_wait`` if another has to be waited for.

    Raises:
        NoDeployment: the other still has it after ``timeout_s``, or the runtime directory cannot be used.
    """
    deadline = time.monotonic() + timeout_s
    told = False
    while (lock := try_lock(namespace)) is None:
        if time.monotonic() > deadline:
            raise NoDeployment(f"another `up` is still starting after {timeout_s:g} s")
        if not told:
            on_wait()
            told = True
        time.sleep(POLL_S)
    try:
        yield
    finally:
        release(lock)


def path(namespace: str) -> Path:
    return join_file.directory() / f"{namespace}.lock"


def try_lock(namespace: str) -> FileLock | None:
    """Take the lock; None while another has it.

    The kernel releases it when this process ends; those that this one starts do not inherit it.

    Raises:
        NoDeployment: the runtime directory cannot be used.
    """
    file = path(namespace)
    lock = FileLock(file, mode=0o600)
    try:
        join_file.make_directory()
        lock.acquire(blocking=False)
        # A directory that another has removed meanwhile is made again by the lock, for everybody to look into.
        file.parent.chmod(0o700)
    except (Timeout, FileNotFoundError, FileExistsError):
        return None  # another has it, or has just removed the directory
    except OSError as error:
        raise NoDeployment(f"{file}: {error.strerror}") from None
    return lock


def release(lock: FileLock) -> None:
    """Give the lock back and leave nothing of it."""
    # While it is still locked, so that nobody's file but this one is removed; who has it open already looks again.
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
    join_file.remove_directory()
