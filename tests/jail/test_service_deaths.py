"""Processes of the service itself are killed, fail or end: nothing is left behind, and others take their place."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actors.backends.jail import JailBackend, process_names
from actors.backends.jail.host import image
from actors.backends.jail.kernel import orphans
from actors.config import JailSettings, RunLimits
from actors.errors import IsolationUnavailable, SandboxFailed
from tests.backends import Run, open_forkable, program
from tests.jail import processes

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROOT = Path(__file__).parents[2]
NOBODY = 4_194_303  # a pid that no process has


async def test_the_jail_server_survives_hostile_programs(backend: JailBackend, run: Run) -> None:
    pid = backend.server_pid
    for code in ("import os; os.kill(-1, 9)", "import ctypes; ctypes.string_at(0)", "x = 'x' * 10**10"):
        await run(code)
    assert backend.server_pid == pid
    assert processes.alive({pid})


async def test_a_killed_client_takes_its_jails_along(backend: JailBackend) -> None:
    before = processes.in_jails(backend)
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.jail.scripts.client", stdout=subprocess.PIPE, cwd=ROOT
    )
    assert client.stdout is not None
    assert await asyncio.wait_for(client.stdout.readline(), 30) == b"running\n"
    assert processes.in_jails(backend) - before
    client.kill()
    await client.wait()
    await processes.gone(lambda: processes.in_jails(backend) - before)


async def test_jails_that_are_given_up_while_they_are_built_leave_nothing(backend: JailBackend) -> None:
    before = processes.in_jails(backend)
    for delay_ms in range(40):
        making = asyncio.ensure_future(backend.create())
        await asyncio.sleep(delay_ms / 2000)
        making.cancel()
        for made in await asyncio.gather(making, return_exceptions=True):
            if not isinstance(made, BaseException):
                await made.close()
    await processes.gone(lambda: processes.in_jails(backend) - before, within_s=5.0)
    await processes.gone(_walls_of_jails, within_s=5.0)


def _walls_of_jails() -> set[int]:
    """The bwrap processes, except those of a shim that waits for its client."""
    found = set()
    for pid in processes.with_in_command_line(process_names.WALLS):
        first_word = processes.command_line(pid).partition("\0")[0]
        builder = first_word.removeprefix(process_names.WALLS)
        if builder.isdigit() and processes.name(int(builder)) != process_names.PREFORKED:
            found.add(pid)
    return found


async def test_walls_whose_builder_was_killed_are_swept_away() -> None:
    stuck = await asyncio.create_subprocess_exec(
        "bash", "-c", f"exec -a {process_names.walls(NOBODY)} sleep 600", stdin=subprocess.DEVNULL
    )
    await asyncio.sleep(0.1)
    orphans.sweep()
    assert await asyncio.wait_for(stuck.wait(), 5) == -signal.SIGKILL


@pytest.mark.parametrize("builder", sorted(process_names.BUILDERS))
async def test_walls_whose_builder_lives_are_left_alone(builder: str) -> None:
    code = f"import ctypes, time; ctypes.CDLL(None).prctl(15, {builder.encode()!r}); print(flush=True); time.sleep(60)"
    living = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    assert living.stdout is not None
    await living.stdout.readline()
    walls = await asyncio.create_subprocess_exec(
        "bash", "-c", f"exec -a {process_names.walls(living.pid)} sleep 60", stdin=subprocess.DEVNULL
    )
    await asyncio.sleep(0.1)
    orphans.sweep()
    await asyncio.sleep(0.1)
    assert walls.returncode is None
    for process in (walls, living):
        process.kill()
        await process.wait()


async def test_processes_that_wait_for_work_and_are_killed_are_replaced(backend: JailBackend) -> None:
    for _ in range(3):
        await asyncio.sleep(0.2)  # until there are some
        waiting = processes.below(backend.server_pid) - processes.in_jails(backend)
        assert waiting
        for pid in waiting:
            os.kill(pid, signal.SIGKILL)
        await processes.gone(lambda killed=waiting: processes.existing(killed))
        sandbox = await backend.create()
        assert (await sandbox.execute(program("1 + 1"))).text == "2"
        await sandbox.close()


async def test_a_killed_jail_server_is_noticed_and_replaced(backend: JailBackend) -> None:
    sandbox = await backend.create()
    await sandbox.execute(program("1"))
    before = processes.in_jails(backend)
    assert before
    os.kill(backend.server_pid, signal.SIGKILL)
    await processes.gone(lambda: processes.alive(before))
    with pytest.raises(SandboxFailed):
        await sandbox.execute(program("1"))
    await sandbox.close()
    successor = await backend.create()
    assert (await successor.execute(program("1 + 1"))).text == "2"
    await successor.close()


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("No permissions to create new namespace", "seccomp profile"),
        ("setting up uid map: Permission denied", "namespace"),
        ("loopback: Failed RTM_NEWADDR: Operation not permitted", "namespace"),
        ("Can't mount proc on /newroot/proc: Operation not permitted", "/proc are masked"),
    ],
)
async def test_what_bwrap_says_when_it_fails_reaches_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, cause: str
) -> None:
    failing = tmp_path / "bwrap"
    failing.write_text(f'#!/bin/sh\necho "bwrap: {said}" >&2\nexit 1\n')
    failing.chmod(0o755)
    monkeypatch.setattr(image, "find_bwrap", lambda: str(failing))
    backend = JailBackend(JailSettings(preload=()), RunLimits())
    try:
        with pytest.raises(IsolationUnavailable) as raised:
            await backend.start()
    finally:
        await backend.close()
    assert cause in raised.value.cause
    assert raised.value.hint


async def test_nothing_is_left_of_a_sandbox_with_sessions_and_forks(backend: JailBackend) -> None:
    before = processes.in_jails(backend)
    sandbox = await backend.create()
    origin = await open_forkable(sandbox)
    await origin.run("import subprocess\nchild = subprocess.Popen(['sleep', '600'], start_new_session=True)")
    await origin.fork(*"abcd")
    assert len(processes.in_jails(backend) - before) > 5
    await sandbox.close()
    await processes.gone(lambda: processes.in_jails(backend) - before)


async def test_nothing_is_left_after_closing() -> None:
    backend = JailBackend(JailSettings(preload=()), RunLimits())
    await backend.start()
    sandbox = await backend.create()
    await sandbox.open_session("s")
    await sandbox.execute(program("1", session="s"))
    open_before, server_pid = len(os.listdir("/proc/self/fd")), backend.server_pid
    await backend.close()
    await processes.gone(lambda: processes.alive({server_pid}))
    assert len(os.listdir("/proc/self/fd")) < open_before
    own = f"e2b-jail-{os.getpid()}-*"
    assert not await asyncio.to_thread(lambda: list(Path("/sys/fs/cgroup").rglob(own)))
