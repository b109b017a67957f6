"""Jails are copies of a prototype that bwrap has built; where the machine refuses copies, each is built by itself."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from actors.backends.base import BackendSandbox
from actors.backends.jail import JailBackend, process_names
from tests.backends import program
from tests.jail import processes

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROOT = Path(__file__).parents[2]
_TERMINALS_MOUNTED = """
print(sum(" /dev/pts " in line for line in open("/proc/self/mountinfo")))
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two(backend: JailBackend) -> list[BackendSandbox]:
    return [await backend.create(), await backend.create()]


async def said(sandbox: BackendSandbox, code: str, **fields: Any) -> str:
    report = await sandbox.execute(program(code, **fields))
    assert report.outcome == "ok", report
    return report.stdout.strip()


async def test_a_jail_that_stands_needs_no_bwrap(backend: JailBackend, two: list[BackendSandbox]) -> None:
    assert [await said(sandbox, _TERMINALS_MOUNTED) for sandbox in two] == ["2", "2"], "its own over the prototype's"
    running = {processes.name(pid) for pid in processes.children(backend.server_pid)}
    assert process_names.SHIM in running
    assert "bwrap" not in running


@pytest.mark.parametrize("space", ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"])
async def test_jails_share_no_namespace(two: list[BackendSandbox], space: str) -> None:
    own = os.readlink(f"/proc/self/ns/{space}")
    seen = {await said(sandbox, f"import os; print(os.readlink('/proc/self/ns/{space}'))") for sandbox in two}
    assert len(seen) == 2
    assert own not in seen


async def test_terminals_are_of_one_jail_alone(two: list[BackendSandbox]) -> None:
    code = "import os, time; main, end = os.openpty(); print(os.ttyname(end), flush=True); time.sleep({pause})"
    holding = asyncio.ensure_future(said(two[0], code.format(pause=1.0)))
    await asyncio.sleep(0.5)
    assert await said(two[1], "import os; print(os.listdir('/dev/pts'))") == "['ptmx']"
    assert await said(two[1], code.format(pause=0)) == await holding == "/dev/pts/0"


async def test_nothing_of_the_prototype_can_be_changed(two: list[BackendSandbox]) -> None:
    code = """
import os
for directory in ("/", "/etc", "/dev", "/usr", "/proc/sys/kernel"):
    try:
        open(os.path.join(directory, "left"), "w")
        print("wrote to", directory)
    except OSError:
        pass
for path in ("/etc/passwd", "/etc/build-tag"):
    try:
        os.chmod(path, 0o666)
        print("changed", path)
    except OSError:
        pass
"""
    assert await said(two[0], code) == ""


async def test_where_copies_are_refused_each_jail_is_built_by_itself() -> None:
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.jail.scripts.without_copies"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["terminals"] == ["1", "1"], "bwrap's own alone"
    assert len(set(found["spaces"])) == 2
