"""How jails share the processors: those that keep them busy stand back, and nobody goes on unwatched."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from actors.backends.base import BackendSandbox
from actors.backends.jail import JailBackend
from actors.backends.jail.host import session as session_module
from actors.backends.jail.kernel import cgroup
from actors.config import JailSettings, RunLimits
from actors.errors import ContextLost
from actors.schemas import Limits
from tests.backends import OpenSession, Run, program
from tests.jail import processes
from tests.jail.attacks import small

pytestmark = pytest.mark.asyncio(loop_scope="module")
_GROUPS = cgroup.find()
_SHARED_OUT = pytest.mark.skipif(
    _GROUPS is None or _GROUPS.cpu is None, reason="no control group shares out processors here"
)
_BURN = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: pass
    os._exit(0)
"""


@pytest_asyncio.fixture(loop_scope="module")
async def spinners(backend: JailBackend) -> AsyncIterator[list[BackendSandbox]]:
    """As many sandboxes as cores and one more, each with programs that keep all of them busy."""
    made = [await backend.create() for _ in range((os.cpu_count() or 1) + 1)]
    spin = "import os\nfor _ in range(2): os.fork()\nwhile True: pass"
    runs = [asyncio.ensure_future(sandbox.execute(program(spin, timeout_s=60.0))) for sandbox in made]
    await asyncio.sleep(1.5)
    yield made
    for sandbox in made:
        await sandbox.close()
    await asyncio.gather(*runs, return_exceptions=True)


@_SHARED_OUT
async def test_beside_busy_jails_a_light_program_is_served_soon(
    sandbox: BackendSandbox, spinners: list[BackendSandbox]
) -> None:
    took_s = []
    for _ in range(40):
        began_at = time.monotonic()
        await sandbox.execute(program("print(sum(range(1000)))"))
        took_s.append(time.monotonic() - began_at)
    assert statistics.median(took_s) < 0.05


@_SHARED_OUT
async def test_a_busy_jail_stands_back_until_it_has_rested(backend: JailBackend) -> None:
    assert _GROUPS is not None
    assert _GROUPS.cpu is not None
    name = "cpu.weight" if _GROUPS.unified else "cpu.shares"
    pattern = f"e2b-jail-{os.getpid()}-*/{name}"
    others = set(_GROUPS.cpu.glob(pattern))
    sandbox = await backend.create()
    [file] = set(_GROUPS.cpu.glob(pattern)) - others

    def weight() -> int:
        return int(file.read_text())

    fresh = weight()
    spinning = asyncio.ensure_future(sandbox.execute(program("while True: pass", timeout_s=3.0)))
    await asyncio.sleep(2.0)
    assert weight() * 8 <= fresh
    await spinning
    await asyncio.sleep(3.0)
    await sandbox.execute(program("1"))
    assert weight() == fresh
    await sandbox.close()


@_SHARED_OUT
async def test_a_jail_keeps_no_more_cores_busy_than_it_may() -> None:
    backend = JailBackend(JailSettings(preload=(), cores=0.25), RunLimits())
    await backend.start()
    try:
        sandbox = await backend.create()
        report = await sandbox.execute(program("while True: pass", timeout_s=3.0))
    finally:
        await backend.close()
    assert report.usage.cpu_s is not None
    assert report.usage.cpu_s < 2.0


async def test_programs_stand_behind_the_service_for_good(run: Run) -> None:
    code = """
import os
print(os.nice(0))
for less in (4, 0, -5):
    try:
        os.setpriority(os.PRIO_PROCESS, 0, less)
        print(os.nice(0))
    except OSError: pass
"""
    shared_out = _GROUPS is not None and _GROUPS.cpu is not None
    behind = os.getpriority(os.PRIO_PROCESS, 0) + (0 if shared_out else 5)
    said = [int(word) for word in (await run(code)).stdout.split()]
    assert said[0] == behind
    assert all(priority >= behind for priority in said)


async def _open(sandbox: BackendSandbox, limits: Limits) -> OpenSession:
    await sandbox.open_session("watched", limits=limits)
    return OpenSession(sandbox, "watched")


async def _burnt_s(backend: JailBackend, seconds: float) -> float:
    """CPU time that all jails use in so many seconds, a moment from now."""
    await asyncio.sleep(0.1)
    pids = processes.in_jails(backend)
    before_s = processes.cpu_s(pids)
    await asyncio.sleep(seconds)
    return processes.cpu_s(pids & processes.existing(pids)) - before_s


async def test_what_a_program_leaves_burning_ends_with_its_cpu_time(
    backend: JailBackend, sandbox: BackendSandbox
) -> None:
    session = await _open(sandbox, small(cpu_s=1))
    assert (await session.run(_BURN, limits=small(cpu_s=1))).outcome == "ok"
    assert await _burnt_s(backend, 0.5) > 0.1, "it burns"
    await asyncio.sleep(3.0)
    assert await _burnt_s(backend, 0.5) < 0.1
    with pytest.raises(ContextLost):
        await session.run("1")


async def test_commands_that_burn_end_with_it_and_leave_the_interpreter(sandbox: BackendSandbox) -> None:
    session = await _open(sandbox, small(cpu_s=1))
    await session.run("x = 7")
    result = await session.command("while :; do :; done", timeout_s=20)
    assert (result.outcome, "CPU time" in (result.message or "")) == ("timeout", True)
    assert (await session.run("x")).text == "7"


async def test_what_waits_and_computes_little_is_left_alone(sandbox: BackendSandbox) -> None:
    session = await _open(sandbox, small(cpu_s=1))
    await session.run("import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()")
    await asyncio.sleep(4 * session_module.WATCH_S)
    assert (await session.run("threading.active_count()")).text not in (None, "1")


@pytest.mark.skipif(_GROUPS is not None, reason="a control group limits it")
async def test_what_a_program_leaves_hoarding_ends_too(backend: JailBackend, sandbox: BackendSandbox) -> None:
    session = await _open(sandbox, small(memory_mib=128))
    hoard = "import os, time\nfor _ in range(4):\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(1)\n"
    hoard += "        held = b'x' * 60_000_000\n        time.sleep(60)"
    await session.run(hoard, limits=small(memory_mib=128))
    hoarders = processes.in_jails(backend)
    await asyncio.sleep(4.0)
    assert len(processes.alive(hoarders)) <= len(hoarders) - 4
