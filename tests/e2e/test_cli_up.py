"""`up` and `down` by several at once, and after one of them was killed: never two deployments, and nothing is left."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NAMESPACE = "raced"


class Account:
    """Runs the command with directories of its own, without XDG_RUNTIME_DIR, so that `up` makes its directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        own = {
            "TMPDIR": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "ORCHESTRATOR_NAMESPACE": NAMESPACE,
            "ORCHESTRATOR_ROUTER__LOCAL": "fake",
        }
        foreign = ("ORCHESTRATOR_", "RAY_", "XDG_RUNTIME_DIR")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)} | own
        self.runtime = home / f"e2b-orchestrator-{os.getuid()}"
        self.lock = self.runtime / f"{NAMESPACE}.lock"
        self.join_file = self.runtime / f"{NAMESPACE}.json"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "actors.cli.main", *arguments, "--json"],
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
        until(lambda: [path.name for path in account.home.iterdir()] in ([], ["state"]))


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
    with account.lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    answer = json.loads(finished(account.start("up"))[0])
    assert answer["started"]
    assert answer["pid"] != orphan
    until(lambda: account.owners() == [answer["pid"]])
    assert json.loads(account.join_file.read_text())["pid"] == answer["pid"]


def test_down_clears_the_lock_file_of_a_killed_up(account: Account) -> None:
    account.runtime.mkdir(mode=0o700)
    account.lock.touch()
    assert not account.down()
    assert not account.runtime.exists()


def test_down_leaves_the_lock_of_one_that_is_starting(account: Account) -> None:
    account.runtime.mkdir(mode=0o700)
    with account.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not account.down()
        assert account.lock.exists()
