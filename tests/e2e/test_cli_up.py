"""`up` and `down` by several at once, and after one of them was killed: never two deployments, and nothing is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from filelock import FileLock

from actors.clients.registry import actor_names

NAMESPACE = "raced"


class Account:
    """Runs the command with directories of its own; in the runtime directory `up` makes one for the deployment."""

    def __init__(self, home: Path) -> None:
        self.home = home
        own = {
            "TMPDIR": str(home),
            "XDG_RUNTIME_DIR": str(home / "run"),
            "XDG_STATE_HOME": str(home / "state"),
            "ORCHESTRATOR_NAMESPACE": NAMESPACE,
            "ORCHESTRATOR_ROUTER__LOCAL": "fake",
        }
        foreign = ("ORCHESTRATOR_", "RAY_")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)} | own
        (home / "run").mkdir(mode=0o700)
        self.runtime = home / "run" / "e2b-orchestrator"
        self.lock = self.runtime / f"{NAMESPACE}.lock"
        self.join_file = self.runtime / f"{NAMESPACE}.json"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "actors.cli", *arguments, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )

    def owners(self) -> list[int]:
        """Owning processes that live, of this account alone."""
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if self._is_owner(pid)]

    def _is_owner(self, pid: int) -> bool:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False
        return command[1:4] == [b"-m", b"actors.deployment.daemon", NAMESPACE.encode()] and (
            f"TMPDIR={self.home}".encode() in environment
        )

    def down(self) -> bool:
        ended: bool = json.loads(finished(self.start("down"))[0])["ended"]
        return ended


def finished(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, out + err
    return out, err


def until(reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def account() -> Iterator[Account]:
    # Short, since unix sockets lie under it.
    with tempfile.TemporaryDirectory(prefix="up-", dir="/tmp") as directory:
        account = Account(Path(directory))
        yield account
        account.down()
        until(lambda: not account.owners())
        until(lambda: {path.name for path in account.home.iterdir()} <= {"run", "state"})
        assert list((account.home / "run").iterdir()) == []


def test_two_at_once_bring_one_up_and_down_leaves_nothing(account: Account) -> None:
    both = [account.start("up") for _ in range(2)]
    outputs = [finished(process) for process in both]
    told = [json.loads(out) for out, _ in outputs]
    assert sorted(answer["started"] for answer in told) == [False, True]
    assert told[0]["pid"] == told[1]["pid"]
    assert account.owners() == [told[0]["pid"]]
    [waited] = [err for answer, (_, err) in zip(told, outputs, strict=True) if not answer["started"]]
    assert "another `up` is starting; waiting" in waited
    assert [path.name for path in account.runtime.iterdir()] == [account.join_file.name]
    assert account.down()
    assert not account.runtime.exists()


def test_a_killed_up_locks_nobody_out_and_what_it_started_does_not_come_up(account: Account) -> None:
    with account.start("up") as killed:
        until(account.owners)
        killed.kill()
    [orphan] = account.owners()
    # Its lock is released although what it started lives on.
    with FileLock(account.lock, blocking=False):
        assert account.owners() == [orphan]
    answer = json.loads(finished(account.start("up"))[0])
    assert answer["started"]
    assert answer["pid"] != orphan
    until(lambda: account.owners() == [answer["pid"]])
    assert json.loads(account.join_file.read_text())["pid"] == answer["pid"]
    # By whichever way a shell would join it, it is what `up` started here, and its process ends.
    account.environment |= {"RAY_ADDRESS": answer["address"], "RAY_AUTH_MODE": "token"}
    account.environment["RAY_AUTH_TOKEN_PATH"] = answer["token_path"]
    assert account.down()
    until(lambda: not account.owners())
    del account.environment["RAY_ADDRESS"]


STARTS = """
import os, sys
from pathlib import Path
from actors.deployment import start_lock
alone = Path(os.environ["HOME"]) / "alone"
for _ in range(40):
    with start_lock.held("raced", 60.0, lambda: None):
        os.close(os.open(alone, os.O_CREAT | os.O_EXCL))  # fails where another is in here too
        alone.unlink()
"""


def test_however_many_start_at_once_one_of_them_does(account: Account) -> None:
    # Each removes the lock's file and directory when it is through, under the feet of those that wait.
    environment = account.environment | {"HOME": str(account.home)}
    crowd = [
        subprocess.Popen([sys.executable, "-c", STARTS], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    for process in crowd:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
    assert not account.runtime.exists()


def test_down_clears_the_lock_file_of_a_killed_up(account: Account) -> None:
    account.runtime.mkdir(mode=0o700)
    account.lock.touch()
    assert not account.down()
    assert not account.runtime.exists()


def test_down_leaves_the_lock_of_one_that_is_starting(account: Account) -> None:
    account.runtime.mkdir(mode=0o700)
    with FileLock(account.lock):
        assert not account.down()
        assert account.lock.exists()


def test_up_and_down_are_for_the_cluster_that_ray_address_names(account: Account, orchestrator_cluster: None) -> None:
    account.environment |= {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH_")}
    account.environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    first, second = (json.loads(finished(account.start("up"))[0]) for _ in range(2))
    assert [first["started"], second["started"]] == [True, False]
    out, err = finished(account.start("run", "-c", "print(2)"))
    assert (json.loads(out)["stdout"], err) == ("2\n", "")
    assert json.loads(finished(account.start("status"))[0])["health"]["namespace"] == NAMESPACE
    assert [account.down(), account.down()] == [True, False]
    assert actor_names(NAMESPACE) == []
    assert account.owners() == []
    assert not account.runtime.exists()
