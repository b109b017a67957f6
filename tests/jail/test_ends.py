"""The end of a program is the program's: whatever it does, no run is said to have failed for the service's reasons."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from actors.backends.jail import JailBackend
from actors.schemas import Outcome
from tests.backends import Run, program
from tests.jail.attacks import small

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROOT = Path(__file__).parents[2]
FULL_SOCKETS = """
import os, socket, time
kept = []
while True:
    try: kept.append(socket.socketpair())
    except OSError: break
    for end in kept[-1]:
        end.setblocking(False)
        try:
            while True: end.send(bytes(32768))
        except OSError: pass
time.sleep(5)
"""
"""Holds memory that no process is charged for, so that the kernel finds nobody large."""


@pytest.fixture
def grouped(backend: JailBackend) -> None:
    if "memory by cgroup" not in backend.capabilities.isolation:
        pytest.skip("this account may make no control groups")


# Memory runs out.


@pytest.mark.parametrize("language", ["python", "bash", "javascript"])
async def test_every_language_is_killed_before_the_service(run: Run, language: str) -> None:
    code = {
        "python": "print(open('/proc/self/oom_score_adj').read())",
        "bash": "cat /proc/self/oom_score_adj",
        "javascript": "console.log(require('fs').readFileSync('/proc/self/oom_score_adj', 'utf8'))",
    }[language]
    assert (await run(code, language=language)).stdout.strip() == "1000"


async def test_the_service_is_spared_though_ray_has_its_workers_killed_first() -> None:
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.jail.scripts.killed_first", stdout=subprocess.PIPE, cwd=ROOT
    )
    said, _ = await asyncio.wait_for(host.communicate(), 60)
    scores = [line.split() for line in said.decode().splitlines()]
    assert {name for name, score in scores if score != "1000"} >= {"zygote-lean", "jail-forkserver", "jail-shim"}
    assert {name for name, score in scores if score == "1000"} <= {"python"}


HOLDERS = {
    "sockets": FULL_SOCKETS,
    "files": "for n in range(4):\n    open(f'/tmp/{n}', 'wb').write(bytes(50 * 2**20))",
    "files of the workspace": "for n in range(4):\n    open(str(n), 'wb').write(bytes(50 * 2**20))",
    "small files": "import os\nfor n in range(100_000):\n    open(f'/tmp/{n}', 'wb').write(bytes(4096))",
    "files of children": (
        "import os, time\nfor n in range(8):\n    if os.fork() == 0:\n"
        "        open(f'/tmp/{n}', 'wb').write(bytes(25 * 2**20)); os._exit(0)\ntime.sleep(5)"
    ),
    "page tables": (
        "import mmap, time\nm = mmap.mmap(-1, 2**38, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)\n"
        "for at in range(0, 2**38, 2**21): m[at]\ntime.sleep(5)"
    ),
    "one list": "kept = []\nwhile True: kept.append(bytes(100_000))",
}


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize("spared", [False, True], ids=["", "as an ordinary process"])
@pytest.mark.parametrize("holder", HOLDERS)
async def test_what_needs_more_memory_than_its_limit_is_out_of_memory(
    backend: JailBackend, holder: str, spared: bool
) -> None:
    code = HOLDERS[holder]
    if spared:
        code = "open('/proc/self/oom_score_adj', 'w').write('0')\n" + code
    sandbox = await backend.create()
    report = await sandbox.execute(program(code, limits=small(memory_mib=64, disk_mib=500), timeout_s=10.0))
    assert report.outcome is Outcome.OUT_OF_MEMORY, report.error
    if not spared:
        assert not report.sandbox_spent
    if not report.sandbox_spent:
        assert (await sandbox.execute(program("1 + 1"))).text == "2"
    await sandbox.close()
