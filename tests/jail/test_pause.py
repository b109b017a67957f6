"""A paused session costs no CPU time, as the machine counts it."""

from __future__ import annotations

import asyncio

import pytest

from actors.backends.jail import JailBackend
from actors.schemas.action import PauseSession, StartCommand
from tests.backends import OpenSession
from tests.jail import processes

pytestmark = pytest.mark.asyncio(loop_scope="module")
SPINNING = """
import threading
def spin():
    while True: pass
threading.Thread(target=spin, daemon=True).start()
"""


async def test_a_paused_session_uses_no_cpu_time(backend: JailBackend, session: OpenSession) -> None:
    await session.run(SPINNING)
    await session.do(StartCommand(command="while :; do :; done", timeout_s=None))
    await asyncio.sleep(0.5)  # until spares are made
    pids = processes.in_jails(backend)
    before_s = processes.cpu_s(pids)
    await asyncio.sleep(0.5)
    assert processes.cpu_s(pids) - before_s > 0.1
    await session.do(PauseSession())
    await asyncio.sleep(0.1)
    paused_s = processes.cpu_s(pids)
    await asyncio.sleep(1.0)
    assert processes.cpu_s(pids) - paused_s < 0.05
