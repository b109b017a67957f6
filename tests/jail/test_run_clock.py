"""The time of a program on a machine that has too little of it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from actors.backends.jail import JailBackend
from actors.schemas import Limits, Outcome, ProgramReport
from tests.backends import Run, program

pytestmark = pytest.mark.asyncio(loop_scope="module")

BUSY = "import time\nwhile time.process_time() < 0.5: pass\nprint('done')"
THREADED = f"import threading\ndef work():\n    exec({BUSY!r})\nthread = threading.Thread(target=work)\nthread.start()"
CHILD = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BUSY!r}], check=True)"


async def side_by_side(backend: JailBackend, code: str, count: int, **fields: Any) -> list[ProgramReport]:
    """Run the same in several sandboxes at once."""
    sandboxes = [await backend.create() for _ in range(count)]
    try:
        return await asyncio.gather(*(sandbox.execute(program(code, **fields)) for sandbox in sandboxes))
    finally:
        await asyncio.gather(*(sandbox.close() for sandbox in sandboxes))


@pytest.mark.parametrize("code", [BUSY, THREADED + "\nthread.join()", CHILD], ids=["plain", "thread", "child"])
async def test_programs_that_crowd_the_cores_have_the_wall_time_that_they_would_have_alone(
    backend: JailBackend, code: str
) -> None:
    count = 4 * (os.cpu_count() or 1)
    fields = {"timeout_s": 1.5, "limits": Limits(cpu_s=5.0, cpu_wait_s=120.0, memory_mib=256, processes=16)}
    reports = await side_by_side(backend, code, count, **fields)
    assert [report.outcome for report in reports] == [Outcome.OK] * count, [report.message for report in reports]
    assert max(report.usage.wall_s for report in reports) > 1.5, "else nothing was shown"


async def test_the_time_that_is_up_is_named(run: Run) -> None:
    limits = Limits(cpu_s=0.3, cpu_wait_s=30.0)
    slept = await run("import time\ntime.sleep(20)", timeout_s=0.5, limits=limits)
    assert (slept.outcome, slept.usage.wall_s < 2) == (Outcome.TIMEOUT, True)
    assert "after 0.5 s of wall time" in (slept.message or "")
    worked = await run("while True: pass", timeout_s=20.0, limits=limits)
    assert worked.outcome is Outcome.TIMEOUT
    assert (worked.message or "").startswith("used more than 0.3 s of CPU time")


async def test_a_plain_run_is_told_of_no_waits(run: Run) -> None:
    assert (await run("1")).usage.cpu_wait_s is None
