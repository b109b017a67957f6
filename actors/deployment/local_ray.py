"""Ray on this machine: started lean and private for one driver, and gone with it, whatever ends it."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled, untyped

from actors import directories
from actors.deployment import join_file
from actors.deployment.join_file import LocalDeployment
from actors.errors import NoDeployment

_JANITOR = Path(__file__).with_name("janitor.py")
_TOKEN, _RAY = "token", "ray"
OBJECT_STORE_BYTES = 160 * 2**20
MAX_BASE_LENGTH = 16
"""The longest path of the directory for temporary files: what Ray adds to it leaves no more of a socket's 107 bytes."""
JANITOR_TIMEOUT_S = 15.0
PROBE_S = 1.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A dead actor is noticed within 0.15 s instead of 1.1 s.
    "RAY_timeout_ms_task_wait_for_death_info": "50",
    # What Ray counts of its own events, for its developers, takes a twentieth of short runs.
    "RAY_event_stats": "0",
}
"""How such a Ray differs from others, where this process's environment says nothing."""


class LocalCluster:
    """A Ray head of this process's own, in a directory of its own, reached from this machine alone.

    Ray lets everybody write to its directories, to serve several accounts, so they lie below one that is closed.

    Ray's processes share this process's fate, by the kernel's parent-death signal. A janitor process, which notices the
    end of this one by a pipe, removes the directory even after a SIGKILL.
    """

    def __init__(self, directory: Path, janitor: subprocess.Popen[bytes], address: str) -> None:
        self.directory, self.address = directory, address
        self._janitor, self._token = janitor, directory / _TOKEN

    @classmethod
    def start(cls, cpus: int | None = None) -> LocalCluster:
        """Start Ray in this process; a few seconds.

        Raises:
            NoDeployment: there is no directory for temporary files in which other accounts cannot replace them.
        """
        directory = _make_directory()
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
        _use_loopback(only=False)


def _make_directory() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="e2bo-", dir=directories.temporary(MAX_BASE_LENGTH)))
    except OSError as error:
        raise NoDeployment(f"{error.filename}: {error.strerror}") from None


def _start_ray(directory: Path, cpus: int) -> str:
    # Another account of this machine must not be able to join and run code as us.
    token = directory / _TOKEN
    with open(os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    # Else Ray warns on few cores, since it expects no more workers than cores.
    workers = {"RAY_worker_maximum_startup_concurrency": str(max(16, cpus))}
    for name, value in (ENVIRONMENT | workers).items():
        os.environ.setdefault(name, value)
    _use_token(token)
    _use_loopback(only=True)
    context: Any = ray.init(
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=str(directory / _RAY),
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
    """Connect this process to the Ray of a long-lived local deployment.

    Raises:
        NoDeployment: another account could have put its own token, or Ray, in the place of ours.
    """
    _require_own(Path(found.token_path).parent)
    _use_token(found.token_path)
    _use_loopback(only=True)
    ray.init(address=found.address, log_to_driver=False, logging_level=logging.WARNING)


def join_cluster(address: str) -> None:
    """Connect this process to the cluster that ``RAY_ADDRESS`` names, which may be a local one."""
    _use_loopback(only=False)
    _use_loopback(only=_listens_on_loopback_alone(address))
    ray.init(log_to_driver=False, logging_level=logging.WARNING)


def _require_own(directory: Path) -> None:
    """Insist on a directory that no other account can replace.

    Raises:
        NoDeployment: another could.
    """
    try:
        with directories.opened(directory):
            pass
    except OSError as error:
        raise NoDeployment(f"{error.filename}: {error.strerror}") from None


def _listens_on_loopback_alone(address: str) -> bool:
    host, _, port = address.rpartition(":")
    if host.strip("[]") not in LOOPBACK or not port.isdigit():
        return False
    try:
        socket.create_connection((ray.util.get_node_ip_address(), int(port)), PROBE_S).close()
    except OSError:
        return True
    return False


def _use_loopback(*, only: bool) -> None:
    """Let Ray take 127.0.0.1 for this machine's address, so that all its processes listen there and nowhere else.

    Else it listens on every address, and takes 127.0.0.1 for the address of the machine in its network.
    """
    if only:
        os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    else:
        os.environ.pop(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, None)
    ray_constants.ENABLE_RAY_CLUSTER = not only  # it read its environment when it was imported


def _use_token(path: Path | str) -> None:
    os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"] = "token", str(path)
    # Ray read its environment when it was imported, and keeps the first token that it finds.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
