"""Ray on this machine: started lean and private for one driver, and gone with it, whatever ends it."""

from __future__ import annotations

import atexit
import contextlib
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

from actors.deployment import join_file
from actors.deployment.join_file import LocalDeployment

_JANITOR = Path(__file__).with_name("janitor.py")
_TOKEN = "token"  # noqa: S105  # a file's name
OBJECT_STORE_BYTES = 160 * 2**20
MAX_BASE_LENGTH = 16
"""The longest path of the directory for temporary files: what Ray adds to it leaves no more of a socket's 107 bytes."""
JANITOR_TIMEOUT_S = 15.0
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A dead actor is noticed within 0.15 s instead of 1.1 s.
    "RAY_timeout_ms_task_wait_for_death_info": "50",
    # What Ray counts of its own events, for its developers, takes a twentieth of short runs.
    "RAY_event_stats": "0",
}
"""How such a Ray differs from others, where this process's environment says nothing."""


class LocalCluster:
    """A Ray head of this process's own, in a directory of its own.

    Ray's processes share this process's fate, by the kernel's parent-death signal. A janitor process, which notices the
    end of this one by a pipe, removes the directory even after a SIGKILL.
    """

    def __init__(self, directory: Path, janitor: subprocess.Popen[bytes], address: str) -> None:
        self.directory, self.address = directory, address
        self._janitor, self._token = janitor, directory / _TOKEN

    @classmethod
    def start(cls, cpus: int | None = None) -> LocalCluster:
        """Start Ray in this process; a few seconds."""
        base = tempfile.gettempdir()
        directory = Path(tempfile.mkdtemp(prefix="e2bo-", dir=base if len(base) <= MAX_BASE_LENGTH else "/tmp"))  # noqa: S108
        janitor = _start_janitor(directory)
        try:
            address = _start_ray(directory, cpus or len(os.sched_getaffinity(0)))
        except BaseException:
            _end_janitor(janitor)
            raise
        cluster = cls(directory, janitor, address)
        atexit.register(cluster.stop)
        return cluster

    def describe(self) -> LocalDeployment:
        """What another driver of this account needs to join."""
        started = join_file.started_s(os.getpid())
        assert started is not None
        return LocalDeployment(os.getpid(), started, self.address, str(self._token))

    def stop(self) -> None:
        """End Ray and remove its directory. Idempotent."""
        atexit.unregister(self.stop)
        if ray.is_initialized():
            ray.shutdown()
        shutil.rmtree(self.directory, ignore_errors=True)
        _end_janitor(self._janitor)
        if os.environ.get("RAY_AUTH_TOKEN_PATH") == str(self._token):
            del os.environ["RAY_AUTH_TOKEN_PATH"]


def _start_ray(directory: Path, cpus: int) -> str:
    # Another account of this machine must not be able to join and run code as us.
    token = directory / _TOKEN
    with open(os.open(token, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    # Else Ray warns on few cores, since it expects no more workers than cores.
    workers = {"RAY_worker_maximum_startup_concurrency": str(max(16, cpus))}
    for name, value in (ENVIRONMENT | workers).items():
        os.environ.setdefault(name, value)
    _use_token(token)
    context: Any = ray.init(
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=str(directory),
    )
    return str(context.address_info["gcs_address"])


def _start_janitor(directory: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", str(_JANITOR), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _end_janitor(janitor: subprocess.Popen[bytes]) -> None:
    """Let the janitor do its work now, and wait until it is done."""
    assert janitor.stdin is not None
    janitor.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        janitor.wait(JANITOR_TIMEOUT_S)


def join(found: LocalDeployment) -> None:
    """Connect this process to the Ray of a long-lived local deployment."""
    _use_token(found.token_path)
    ray.init(address=found.address, log_to_driver=False, logging_level=logging.WARNING)


def _use_token(path: Path | str) -> None:
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"] = "token", str(path)
    # Ray read its environment when it was imported, and keeps the first token that it finds.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
