"""``up`` and ``down``: start the process that owns a long-lived deployment of this machine, and end it.

However many do so at once, and whichever of them is killed meanwhile, there is never more than one deployment of a
namespace and account, and nothing is left of one that ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from actors import directories
from actors.config import Settings
from actors.deployment import join_file, start_lock
from actors.deployment.join_file import LocalDeployment
from actors.errors import NoDeployment

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
LOCK_TIMEOUT_S = START_TIMEOUT_S + STOP_TIMEOUT_S
"""As long as another `up` may take to start, fail and end what it started."""


def log_path(namespace: str) -> Path:
    """Where the owning process and its Ray say what they do."""
    return directories.state() / f"{namespace}.log"


def up(settings: Settings, on_wait: Callable[[], None]) -> tuple[LocalDeployment, bool]:
    """Start the owning process unless there is one, and wait until programs can run.

    Calls ``on_wait`` if another ``up`` has to be waited for. Returns the deployment, and whether this call started it.

    Raises:
        NoDeployment: it did not come up; says why.
    """
    if (found := join_file.read(settings.namespace)) is not None:
        return found, False
    # From this look for a running deployment until the join file of the new one is there.
    with start_lock.held(settings.namespace, LOCK_TIMEOUT_S, on_wait):
        if (found := join_file.read(settings.namespace)) is not None:
            return found, False
        return _start_owner(settings.namespace), True


def down(namespace: str) -> bool:
    """End the deployment and wait until it is gone; False when there was none.

    Raises:
        NoDeployment: it did not end in time.
    """
    found = join_file.read(namespace)
    if found is not None:
        _end_owner(namespace, found)
    _clear(namespace)
    return found is not None


def _start_owner(namespace: str) -> LocalDeployment:
    log = log_path(namespace)
    try:
        directories.secure(log.parent)
        sink = open(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb")  # noqa: SIM115
    except OSError as error:
        raise NoDeployment(f"{error.filename}: {error.strerror}; set XDG_STATE_HOME to a directory of yours") from None
    with sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "actors.deployment.daemon", namespace],
            stdin=subprocess.PIPE,  # nothing is ever sent; it hangs up when this process ends
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        return _wait_until_up(namespace, process, log)
    except BaseException:
        # Also when interrupted: what nobody waits for must not come up later.
        process.terminate()
        process.wait(STOP_TIMEOUT_S)
        raise


def _wait_until_up(namespace: str, process: subprocess.Popen[bytes], log: Path) -> LocalDeployment:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if (found := join_file.read(namespace)) is not None:
            process.returncode = 0  # it outlives this one, on purpose
            return found
        if process.poll() is not None:
            last = log.read_text(errors="replace").strip().splitlines()
            raise NoDeployment(last[-1] if last else f"it ended with status {process.returncode}; see {log}")
        time.sleep(0.1)
    raise NoDeployment(f"it was not ready within {START_TIMEOUT_S:g} s; see {log}")


def _end_owner(namespace: str, found: LocalDeployment) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while found.lives:
        if time.monotonic() > deadline:
            raise NoDeployment(
                f"process {found.pid} did not end within {STOP_TIMEOUT_S:g} s; see {log_path(namespace)}"
            )
        time.sleep(0.05)


def _clear(namespace: str) -> None:
    """Remove what killed processes left, but nothing of an ``up`` that is just starting."""
    if not any(path.exists() for path in (join_file.path(namespace), start_lock.path(namespace))):
        join_file.remove_directory()
    elif (lock := start_lock.try_lock(namespace)) is not None:
        try:
            if join_file.read(namespace) is None:
                join_file.remove(namespace)
        finally:
            start_lock.release(lock)
