"""The program file of a jailed process, which is the machine's: no program changes it, whoever owns it."""

from __future__ import annotations

import os
import sys

import pytest

from tests.backends import OpenSession, Run

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHANGES = """
import os, sys
for path in ("/proc/self/exe", sys.executable, os.path.realpath(sys.executable), os.readlink("/proc/self/exe")):
    for change in (
        lambda: os.chmod(path, 0o4755),
        lambda: os.chmod(path, os.stat(path).st_mode),
        lambda: os.utime(path, (1, 1)),
        lambda: os.setxattr(path, "user.a", b"b"),
        lambda: os.chown(path, os.getuid(), os.getgid()),
        lambda: os.open(path, os.O_RDWR),
        lambda: os.truncate(path, 0),
        lambda: os.fchmod(os.open(path, os.O_RDONLY), 0o777),
        lambda: os.chmod(f"/proc/self/fd/{os.open(path, os.O_RDONLY)}", 0o777),
    ):
        try:
            change()
            print("changed", path)
        except OSError:
            pass
print("tried")
"""


def state() -> tuple[int, float]:
    found = os.stat(os.path.realpath(sys.executable))
    return found.st_mode, found.st_mtime


async def test_a_program_cannot_change_it(run: Run) -> None:
    before = state()
    report = await run(CHANGES)
    assert report.stdout == "tried\n"
    assert state() == before


async def test_nor_can_a_command_nor_a_session(session: OpenSession) -> None:
    before = state()
    assert (await session.run(CHANGES)).stdout == "tried\n"
    command = "chmod 4755 /proc/self/exe /proc/$$/exe; ls -lL /proc/$$/exe | cut -c4"
    assert (await session.command(command)).stdout == "x\n"
    assert state() == before
