"""Ray on this machine: started lean and private for one driver, and gone with it, whatever ends it."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled, untyped

from actors.errors import NoDeployment

_JANITOR = Path(__file__).with_name("janitor.py")
OBJECT_STORE_BYTES = 160 * 2**20
MAX_BASE_LENGTH = 16
"""Of the directory for temporary files: what Ray adds to it leaves no more of a socket's 107 bytes."""


class LocalCluster:
    """A Ray head of this process's own, in a directory of its own.

    Ray's processes share this process's fate, by the kernel's parent-death signal. A janitor process, which notices the
    end of this one by a pipe, removes the directory even after a SIGKILL.
    """

    def __init__(self, directory: Path, janitor: subprocess.Popen[bytes], address: str) -> None:
        self.directory, self.address = directory, address
        self._janitor = janitor

    @classmethod
    def start(cls, cpus: int | None = None) -> LocalCluster:
        """Start Ray in this process; a few seconds."""
        # Short, since Ray puts unix sockets under it and their paths may have 107 bytes.
        base = tempfile.gettempdir()
        directory = Path(tempfile.mkdtemp(prefix="e2bo-", dir=base if len(base) <= MAX_BASE_LENGTH else "/tmp"))  # noqa: S108
        janitor = subprocess.Popen(
            [sys.executable, "-I", str(_JANITOR), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # Another account of this machine must not be able to join and run code as us.
        token = directory / "token"
        with open(os.open(token, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # A dead actor is noticed within 0.15 s instead of 1.1 s.
        os.environ.setdefault("RAY_timeout_ms_task_wait_for_death_info", "50")
        # What Ray counts of its own events, for its developers, takes a twentieth of short runs.
        os.environ.setdefault("RAY_event_stats", "0")
        cores = len(os.sched_getaffinity(0))
        # Else Ray warns on few cores, since it expects no more workers than cores.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(max(16, cores)))
        _use_token(token)
        context: Any = ray.init(
            num_cpus=cpus or cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(directory),
        )
        cluster = cls(directory, janitor, context.address_info["gcs_address"])
        atexit.register(cluster.stop)
        return cluster

    def join_file(self) -> dict[str, Any]:
        """What another driver of this account needs to join."""
        return {
            "pid": os.getpid(),
            "started_at": started_at(os.getpid()),
            "address": self.address,
            "token_path": str(self.directory / "token"),
        }

    def stop(self) -> None:
        """End Ray and remove its directory. Idempotent."""
        atexit.unregister(self.stop)
        if ray.is_initialized():
            ray.shutdown()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._janitor.stdin:
            self._janitor.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._janitor.wait(15)
        if os.environ.get("RAY_AUTH_TOKEN_PATH") == str(self.directory / "token"):
            del os.environ["RAY_AUTH_TOKEN_PATH"]


def runtime_directory() -> Path:
    """Where the address of this account's long-lived deployment is kept. Source: XDG Base Directory Specification."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) if base else Path(tempfile.gettempdir()) / f"e2b-orchestrator-{os.getuid()}"


def join_file_path(namespace: str) -> Path:
    return runtime_directory() / f"{namespace}.json"


def read_join_file(namespace: str) -> dict[str, Any] | None:
    """The running long-lived deployment of this account, if there is one.

    Raises:
        NoDeployment: the file is not this account's own, so what it says cannot be trusted.
    """
    path = join_file_path(namespace)
    try:
        status = path.stat()
        found: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    if status.st_uid != os.getuid():
        raise NoDeployment(f"{path} belongs to another account; remove it or set XDG_RUNTIME_DIR")
    # Not only of that id: a process that came later may have been given the same.
    return found if started_at(found["pid"]) == found["started_at"] else None


def forget_join_file(namespace: str) -> None:
    """Remove it, and the directory that was made for it if nothing else is in there."""
    join_file_path(namespace).unlink(missing_ok=True)
    forget_runtime_directory()


def make_runtime_directory() -> Path:
    """Make it if it is missing.

    Raises:
        NoDeployment: it cannot be made, or others could put files of theirs into it.
    """
    directory = runtime_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise NoDeployment(f"{directory}: {error.strerror}; set XDG_RUNTIME_DIR to a directory of yours") from None
    status = directory.stat()
    if status.st_mode & 0o022 or status.st_uid != os.getuid():
        raise NoDeployment(f"{directory} is not this account's alone; set XDG_RUNTIME_DIR to one that is")
    return directory


def forget_runtime_directory() -> None:
    """Remove the directory if it is empty and was made by ``make_runtime_directory`` for these files alone."""
    if "XDG_RUNTIME_DIR" not in os.environ:
        with contextlib.suppress(OSError):
            runtime_directory().rmdir()


def started_at(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot; None when there is none of this id."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None


def join(found: dict[str, Any]) -> None:
    """Connect this process to the Ray of a long-lived local deployment."""
    _use_token(found["token_path"])
    ray.init(address=found["address"], log_to_driver=False, logging_level=logging.WARNING)


def _use_token(path: Path | str) -> None:
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"] = "token", str(path)
    # Ray read its environment when it was imported, and keeps the first token that it finds.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
