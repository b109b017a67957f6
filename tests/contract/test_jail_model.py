"""Jails are copies of walls that bwrap has built once; where the machine refuses copies, each is built by itself."""

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
from actors.backends.jail import JailBackend
from tests.contract.conftest import program

pytestmark = pytest.mark.asyncio(loop_scope="module")
_TERMINALS_MOUNTED = """
print(sum(" /dev/pts " in line for line in open("/proc/self/mountinfo")))
"""


@pytest.fixture(scope="module")
def backend(jails: JailBackend) -> JailBackend:
    return jails


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two(backend: JailBackend) -> list[BackendSandbox]:
    return [await backend.create(), await backend.create()]


async def said(sandbox: BackendSandbox, code: str, **fields: Any) -> str:
    report = await sandbox.execute(program(code, **fields))
    assert report.outcome == "ok", report
    return report.stdout.strip()


def names_of_children(pid: int) -> set[str]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {Path(f"/proc/{child}/comm").read_text().strip() for child in children}


async def test_a_jail_that_stands_needs_no_bwrap(backend: JailBackend, two: list[BackendSandbox]) -> None:
    assert [await said(sandbox, _TERMINALS_MOUNTED) for sandbox in two] == ["2", "2"], "its own over the model's"
    running = names_of_children(backend.server_pid)
    assert "jail-shim" in running
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


async def test_nothing_of_the_model_can_be_changed(two: list[BackendSandbox]) -> None:
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
        subprocess.run, [sys.executable, "-c", _REFUSED], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["terminals"] == ["1", "1"], "bwrap's own alone"
    assert len(set(found["spaces"])) == 2


_REFUSED = """
import asyncio, ctypes, errno, json, platform, struct
from actors.backends.jail import JailBackend
from actors.config import JailSettings, RunLimits
from tests.contract.conftest import program

def refuse_copies():
    # As AppArmor may: user namespaces are for bwrap, which unshares nothing else with the one that it makes last.
    number = {"x86_64": 272, "aarch64": 97}[platform.machine()]
    steps = [
        (0x20, 0, 0, 0), (0x15, 0, 4, number),
        (0x20, 0, 0, 16), (0x45, 0, 2, 0x10000000), (0x15, 1, 0, 0x10000000),
        (0x06, 0, 0, 0x00050000 | errno.EPERM), (0x06, 0, 0, 0x7FFF0000),
    ]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code, len(code))
    filter = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter, 0, 0) == 0, ctypes.get_errno()

async def main():
    # Other settings than any other test's, and so a jail server of its own.
    backend = JailBackend(JailSettings(preload=("json",)), RunLimits())
    await backend.start()
    await backend.prove()
    found = {"terminals": [], "spaces": []}
    for _ in range(2):
        sandbox = await backend.create()
        for key, code in (
            ("terminals", 'print(sum(" /dev/pts " in line for line in open("/proc/self/mountinfo")))'),
            ("spaces", 'import os; print(os.readlink("/proc/self/ns/user"))'),
        ):
            found[key].append((await sandbox.execute(program(code))).stdout.strip())
    await backend.close()
    print(json.dumps(found))

refuse_copies()
asyncio.run(main())
"""
