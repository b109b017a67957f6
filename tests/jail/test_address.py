"""Where a jail server is found: nobody else can be there first, and nothing that is left keeps one from starting."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors import directories
from actors.backends.jail import JailBackend, address, process_names
from actors.config import JailSettings, RunLimits
from actors.errors import IsolationUnavailable
from tests.accounts import ATTACKER, as_root
from tests.jail import processes

ROOT = Path(__file__).parents[2]
NAME = "jail-0.sock"
STARTS_AT_ONCE = 6
CLIENT = """
import asyncio
from actors.backends.jail import JailBackend
from actors.config import JailSettings, RunLimits

async def main():
    backend = JailBackend(JailSettings(preload=()), RunLimits())
    await backend.start()
    print(backend.server_pid, flush=True)
    input()
    await backend.close()

asyncio.run(main())
"""


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory in which no jail server is, nor anything else."""
    base = directories.secure(tmp_path / "run")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    return base / directories.NAME


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    with directories.opened(directories.secure(tmp_path / "addresses")) as descriptor:
        yield descriptor


def lean() -> JailBackend:
    return JailBackend(JailSettings(preload=()), RunLimits())


async def test_the_address_is_in_a_directory_of_this_account_alone_and_gone_with_the_server(runtime: Path) -> None:
    backend = lean()
    await backend.start()
    [file] = names(runtime)
    assert file.endswith(address.SUFFIX)
    assert os.stat(runtime).st_mode & 0o777 == 0o700
    server = backend.server_pid
    await backend.close()
    await processes.gone(lambda: processes.alive({server}), within_s=5.0)
    await processes.gone(lambda: names(runtime.parent))


async def test_a_killed_server_leaves_no_address_either(runtime: Path) -> None:
    backend = lean()
    await backend.start()
    os.kill(backend.server_pid, signal.SIGKILL)
    await processes.gone(lambda: names(runtime.parent))
    await backend.start()
    await backend.close()


async def test_nothing_dead_keeps_a_server_from_starting(runtime: Path) -> None:
    backend = lean()
    await backend.start()
    # The janitor first, as whoever kills everything may.
    for pid in [*janitors(runtime), backend.server_pid]:
        os.kill(pid, signal.SIGKILL)
    await processes.gone(lambda: processes.alive({backend.server_pid}))
    assert len(names(runtime)) == 1
    await backend.start()
    assert len(names(runtime)) == 1
    await backend.close()


async def test_many_that_start_at_once_share_one_server(runtime: Path) -> None:
    crowd = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        for _ in range(STARTS_AT_ONCE)
    ]
    told = [await asyncio.wait_for(each.stdout.readline(), 60) for each in crowd if each.stdout]
    assert len(set(told)) == 1
    assert len(names(runtime)) == 1
    for each in crowd:
        await each.communicate(b"\n")
        assert each.returncode == 0


async def test_a_python_that_does_not_start_leaves_no_address(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = lean()
    described = backend._server_of_image()
    described._config["python"] = "/bin/false"
    monkeypatch.setattr(backend, "_server", described)
    with pytest.raises(IsolationUnavailable, match="Python does not start"):
        await backend.start()
    assert not names(runtime.parent)


@as_root
async def test_a_directory_of_another_account_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    taken = directories.secure(directories.runtime())
    os.chown(taken, ATTACKER, ATTACKER)
    with pytest.raises(IsolationUnavailable, match="belongs to another account"):
        await lean().start()


async def test_an_account_without_any_place_of_its_own_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise directories.ExposedDirectory(Path("/place"), "others may replace what is in it; set TMPDIR")

    monkeypatch.setattr(directories, "runtime", none)
    with pytest.raises(IsolationUnavailable, match="/place: others may replace"):
        await lean().start()


def test_only_one_can_listen_at_an_address_until_it_is_dead(directory: int) -> None:
    listener = address.listen(directory, NAME)
    with pytest.raises(BlockingIOError):
        address.listen(directory, NAME)
    address.sweep(directory)
    found = address.connect(directory, NAME)
    assert found is not None
    found.close()
    listener.close()
    assert address.connect(directory, NAME) is None
    address.listen(directory, NAME).close()
    address.sweep(directory)
    with pytest.raises(FileNotFoundError):
        os.stat(os.readlink(f"/proc/self/fd/{directory}"))
    with pytest.raises(FileNotFoundError):
        address.listen(directory, NAME)


def test_an_address_at_which_too_many_wait_is_alive(directory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "BACKLOG", 0)
    crowd: list[socket.socket] = []
    with address.listen(directory, NAME):
        with contextlib.suppress(BlockingIOError):
            while (waiting := address.connect(directory, NAME)) is not None:
                crowd.append(waiting)
        with pytest.raises(BlockingIOError):
            address.connect(directory, NAME)
        address.sweep(directory)
        assert NAME in os.listdir(directory)
    for each in crowd:
        each.close()


def test_the_lock_of_a_killed_process_holds_nobody_up(directory: int) -> None:
    # By a descriptor of its own: those that are inherited share one lock.
    path = Path(os.readlink(f"/proc/self/fd/{directory}"))

    def hold() -> None:
        with directories.opened(path) as own, address._alone(own):
            ready.set()
            signal.pause()

    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold)
    holder.start()
    assert ready.wait(10)
    with pytest.raises(BlockingIOError):
        address.listen(directory, NAME)
    holder.kill()
    holder.join(10)
    address.listen(directory, NAME).close()


def names(path: Path) -> list[str]:
    return os.listdir(path)


def janitors(runtime: Path) -> list[int]:
    """Those of servers whose addresses are in a directory."""
    return [int(pid) for pid in filter(str.isdigit, os.listdir("/proc")) if _is_janitor(int(pid), runtime)]


def _is_janitor(pid: int, runtime: Path) -> bool:
    try:
        held = {os.readlink(descriptor) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:  # it has ended, or is another account's
        return False
    return processes.name(pid) == process_names.JANITOR and str(runtime) in held
