"""Jails see the machine's files through inodes of their own: nobody's program watches or locks another's."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys

import pytest
import pytest_asyncio

from actors.backends.base import BackendSandbox
from actors.backends.jail import JailBackend
from tests.backends import program

pytestmark = pytest.mark.asyncio(loop_scope="module")
FILES = ("/usr/bin/env", "/etc/passwd", "/etc/ld.so.cache", os.path.realpath(os.__file__))
DIRECTORIES = ("/", "/usr", "/usr/bin", "/etc", "/etc/fonts", os.path.dirname(os.path.realpath(os.__file__)))
WATCH = """
import ctypes, os, select, struct
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init1(0)
for path in {paths}:
    assert libc.inotify_add_watch(fd, path.encode(), 0xFFF) > 0, path
print("watching", flush=True)
seen = select.select([fd], [], [], {seconds})[0]
print([(mask, name) for data in [os.read(fd, 4096)] for _, mask, _, n in [struct.unpack_from("iIII", data)]
    for name in [data[16:16 + n]]] if seen else "nothing")
"""
USE = "import colorsys, subprocess\nfor p in {paths}:\n    os = __import__('os'); os.close(os.open(p, os.O_RDONLY))\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two(backend: JailBackend) -> list[BackendSandbox]:
    if "machine's own" in backend.capabilities.isolation:
        pytest.skip("this machine lets nobody but root have overlays")
    return [await backend.create(), await backend.create()]


async def watched(sandbox: BackendSandbox, paths: tuple[str, ...], seconds: float) -> str:
    report = await sandbox.execute(program(WATCH.format(paths=paths, seconds=seconds)))
    assert report.outcome == "ok", report.error
    return report.stdout.removeprefix("watching\n").strip()


async def test_a_program_does_not_see_what_another_opens(two: list[BackendSandbox]) -> None:
    watching = asyncio.ensure_future(watched(two[0], FILES + DIRECTORIES, 2.0))
    while not watching.done():
        report = await two[1].execute(
            program(f"{USE.format(paths=FILES + DIRECTORIES)}subprocess.run(['/usr/bin/env'])")
        )
        assert report.outcome == "ok", report.error
        argv = [sys.executable, "-S", "-c", USE.format(paths=FILES + DIRECTORIES)]
        await asyncio.to_thread(subprocess.run, argv, check=True, timeout=20)
    assert await watching == "nothing"


async def test_a_watch_sees_what_is_its_own(two: list[BackendSandbox]) -> None:
    code = WATCH.format(paths=FILES, seconds=2.0).replace("seen =", "open('/usr/bin/env').close()\nseen =")
    report = await two[0].execute(program(code))
    assert "(32, b'')" in report.stdout


LOCK = """
import fcntl, time
held = []
for path in {paths}:
    held.append(open(path))
    fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
print("locked")
time.sleep({seconds})
"""


async def test_a_program_locks_nobody_out(two: list[BackendSandbox]) -> None:
    locking = asyncio.ensure_future(two[0].execute(program(LOCK.format(paths=FILES, seconds=2.0))))
    await asyncio.sleep(1.0)
    second = await two[1].execute(program(LOCK.format(paths=FILES, seconds=0)))
    assert second.stdout == "locked\n"
    for path in FILES:
        fd = os.open(path, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
    assert (await locking).stdout == "locked\n"
