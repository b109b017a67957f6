"""The long-lived local deployment: a detached process that owns it, and the file by which others find it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from actors.config import Settings
from actors.deployment import local_ray
from actors.errors import NoDeployment, ServiceError
from actors.runs.ledger import state_directory

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
LOCK_TIMEOUT_S = START_TIMEOUT_S + STOP_TIMEOUT_S
"""As long as another `up` may take to start, fail and end what it started."""


def log_path(namespace: str) -> Path:
    return state_directory() / f"{namespace}.log"


def up(settings: Settings, on_wait: Callable[[], None]) -> tuple[dict[str, Any], bool]:
    """Start the owning process unless there is one, and wait until programs can run.

    Calls ``on_wait`` if another ``up`` has to be waited for. Returns what the join file says, and whether this call
    started it.

    Raises:
        ServiceError: it did not come up; says why.
    """
    if (found := local_ray.read_join_file(settings.namespace)) is not None:
        return found, False
    with _alone(settings.namespace, on_wait):
        if (found := local_ray.read_join_file(settings.namespace)) is not None:
            return found, False
        return _start(settings.namespace), True


@contextlib.contextmanager
def _alone(namespace: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock from the look for a running deployment until the join file of a new one is there."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    told = False
    while (lock := _try_lock(namespace)) is None:
        if time.monotonic() > deadline:
            raise NoDeployment(f"another `up` is still starting after {LOCK_TIMEOUT_S:g} s; see {log_path(namespace)}")
        if not told:
            on_wait()
            told = True
        time.sleep(0.1)
    try:
        yield
    finally:
        _unlock(namespace, lock)


def lock_path(namespace: str) -> Path:
    return local_ray.runtime_directory() / f"{namespace}.lock"


def _try_lock(namespace: str) -> int | None:
    """Lock other starting processes out; None while one of them has the lock.

    The kernel releases it when this process ends. Those that this one starts do not get the descriptor, since Python
    opens files to be closed on exec.

    Raises:
        NoDeployment: the runtime directory cannot be used.
    """
    path = lock_path(namespace)
    try:
        local_ray.make_runtime_directory()
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None  # another has just removed the directory
    except OSError as error:
        raise NoDeployment(f"{path}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who had it may have removed the file since it was opened here; the next one would lock a new file.
        if os.path.samestat(os.fstat(lock), path.stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None


def _unlock(namespace: str, lock: int) -> None:
    # While it is still locked, so that nobody's file but this one is removed.
    lock_path(namespace).unlink(missing_ok=True)
    os.close(lock)
    local_ray.forget_runtime_directory()


def _start(namespace: str) -> dict[str, Any]:
    log = log_path(namespace)
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(log, "wb") as sink:
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


def _wait_until_up(namespace: str, process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if (found := local_ray.read_join_file(namespace)) is not None:
            process.returncode = 0  # it outlives this one, on purpose
            return found
        if process.poll() is not None:
            last = log.read_text(errors="replace").strip().splitlines()
            raise NoDeployment(last[-1] if last else f"it ended with status {process.returncode}; see {log}")
        time.sleep(0.1)
    raise NoDeployment(f"it was not ready within {START_TIMEOUT_S:g} s; see {log}")


def down(namespace: str) -> bool:
    """End the deployment and wait until it is gone; False when there was none.

    Raises:
        NoDeployment: it did not end in time.
    """
    found = local_ray.read_join_file(namespace)
    if found is not None:
        _end(namespace, found)
    _clear(namespace)
    return found is not None


def _end(namespace: str, found: dict[str, Any]) -> None:
    pid = found["pid"]
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while local_ray.started_at(pid) == found["started_at"]:
        if time.monotonic() > deadline:
            raise NoDeployment(f"process {pid} did not end within {STOP_TIMEOUT_S:g} s; see {log_path(namespace)}")
        time.sleep(0.05)


def _clear(namespace: str) -> None:
    """Remove what killed processes left, but nothing of an ``up`` that is just starting."""
    if not any(path.exists() for path in (local_ray.join_file_path(namespace), lock_path(namespace))):
        local_ray.forget_runtime_directory()
    elif (lock := _try_lock(namespace)) is not None:
        try:
            if local_ray.read_join_file(namespace) is None:
                local_ray.forget_join_file(namespace)
        finally:
            _unlock(namespace, lock)


def own(namespace: str) -> int:
    """The owning process: start, say so, wait to be told to end, leave nothing."""
    from actors.deployment import connect

    settings = Settings.load(namespace=namespace)
    stop = False

    def on_signal(_number: int, _frame: object) -> None:
        nonlocal stop
        stop = True

    cluster = local_ray.LocalCluster.start()
    try:
        connect.start(settings)
        # After Ray, which sets handlers of its own.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, on_signal)
        with _published(namespace, cluster.join_file()):
            while not stop:
                signal.sigtimedwait([signal.SIGUSR2], 1.0)
            connect.end_deployment(namespace)
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 3
    finally:
        cluster.stop()
    return 0


@contextlib.contextmanager
def _published(namespace: str, join_file: dict[str, Any]) -> Iterator[None]:
    """Let others find this process.

    Raises:
        NoDeployment: the ``up`` that started it was killed, so that another may be starting one, or has.
    """
    if _hung_up(sys.stdin.fileno()) or local_ray.read_join_file(namespace) is not None:
        raise NoDeployment("nobody waits for it any more")
    path = local_ray.make_runtime_directory() / local_ray.join_file_path(namespace).name
    written = path.with_suffix(".new")
    with open(os.open(written, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        json.dump(join_file, file)
    written.replace(path)
    try:
        yield
    finally:
        local_ray.forget_join_file(namespace)


def _hung_up(pipe: int) -> bool:
    """Whether a pipe's writing end is closed; False for what is no pipe."""
    poll = select.poll()
    poll.register(pipe, select.POLLHUP)
    return bool(poll.poll(0))


if __name__ == "__main__":
    sys.exit(own(sys.argv[1]))
