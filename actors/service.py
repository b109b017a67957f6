"""The long-lived local deployment: a detached process that owns it, and the file by which others find it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from actors import local
from actors.config import Settings
from actors.errors import NoDeployment, ServiceError
from actors.ledger import state_directory

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0


def log_path(namespace: str) -> Path:
    return state_directory() / f"{namespace}.log"


def up(settings: Settings) -> dict[str, Any]:
    """Start the owning process and wait until programs can run.

    Raises:
        ServiceError: it did not come up; says why.
    """
    log = log_path(settings.namespace)
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(log, "wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "actors.service", settings.namespace],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        return _wait_until_up(settings.namespace, process, log)
    except BaseException:
        # Also when interrupted: what nobody waits for must not come up later.
        process.terminate()
        process.wait(STOP_TIMEOUT_S)
        raise


def _wait_until_up(namespace: str, process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if (found := local.read_join_file(namespace)) is not None:
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
    found = local.read_join_file(namespace)
    if found is None:
        local.forget_join_file(namespace)
        return False
    pid = found["pid"]
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while local.started_at(pid) == found["started_at"]:
        if time.monotonic() > deadline:
            raise NoDeployment(f"process {pid} did not end within {STOP_TIMEOUT_S:g} s; see {log_path(namespace)}")
        time.sleep(0.05)
    return True


def own(namespace: str) -> int:
    """The owning process: start, say so, wait to be told to end, leave nothing."""
    from actors import wiring

    settings = Settings.load(namespace=namespace)
    stop = False

    def on_signal(_number: int, _frame: object) -> None:
        nonlocal stop
        stop = True

    cluster = local.LocalCluster.start()
    path = local.join_file_path(namespace)
    try:
        wiring.start(settings)
        # After Ray, which sets handlers of its own.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, on_signal)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.parent.stat().st_mode & 0o022 or path.parent.stat().st_uid != os.getuid():
            raise NoDeployment(f"{path.parent} is not this account's alone; set XDG_RUNTIME_DIR to one that is")
        written = path.with_suffix(".new")
        with open(os.open(written, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            json.dump(cluster.join_file(), file)
        written.replace(path)
        while not stop:
            signal.sigtimedwait([signal.SIGUSR2], 1.0)
        wiring.end_deployment(namespace)
    except ServiceError as error:
        print(error, file=sys.stderr)
        return 3
    finally:
        local.forget_join_file(namespace)
        cluster.stop()
    return 0


if __name__ == "__main__":
    sys.exit(own(sys.argv[1]))
