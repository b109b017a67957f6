"""Every attack of the tables is refused; each of its walls stops it alone; without them it gets through."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
import pytest_asyncio

from actors.backends.base import BackendSandbox
from actors.backends.jail import JailBackend
from actors.backends.jail.kernel import cgroup
from actors.config import JailSettings, RunLimits, Wall
from actors.schemas import ProgramReport
from tests.backends import program
from tests.jail.attacks import REFUSED, THROUGH, Attack
from tests.jail.attacks.exhaustion import EXHAUSTION
from tests.jail.attacks.kernel import KERNEL
from tests.jail.attacks.places import PLACES

pytestmark = pytest.mark.asyncio(loop_scope="module")
ALL = (*KERNEL, *PLACES, *EXHAUSTION)
NONE: frozenset[Wall] = frozenset()
Hit = Callable[[Attack, frozenset[Wall]], Coroutine[Any, Any, ProgramReport]]


def ids(attacks: list[Attack]) -> list[str]:
    return [attack.name for attack in attacks]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Canaries on the host: a file, a secret in a process's environment, and servers that answer whoever comes."""
    directory = tmp_path_factory.mktemp("canary")
    file, path = directory / "file", directory / "socket"
    file.write_text("untouched")
    name = f"e2b-canary-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as local,
    ):
        udp.bind(("127.0.0.1", 0))
        abstract.bind(f"\0{name}")
        local.bind(str(path))
        for server in (abstract, local):
            server.listen()
        echo = threading.Thread(target=_echo, args=(udp,))
        echo.start()
        bystander = subprocess.Popen(["sleep", "600"], env={"CANARY": "halves-joined"})
        yield {
            "canary": str(file),
            "socket": str(path),
            "abstract": name,
            "tcp": str(tcp.getsockname()[1]),
            "udp": str(udp.getsockname()[1]),
            "pid": str(bystander.pid),
            "secret_a": "halves-",
            "secret_b": "joined",
        }
        bystander.kill()
        bystander.wait()
        udp.sendto(b"", udp.getsockname())
        echo.join()
    assert file.read_text() == "untouched"
    assert sorted(os.listdir(directory)) == ["file", "socket"]


def _echo(udp: socket.socket) -> None:
    while (received := udp.recvfrom(10))[0]:
        udp.sendto(*received)


def text(attack: Attack, planted: dict[str, str]) -> str:
    code = attack.code
    for name, value in planted.items():
        code = code.replace(f"{{{name}}}", value)
    return code


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backends() -> AsyncIterator[dict[frozenset[Wall], JailBackend]]:
    backends: dict[frozenset[Wall], JailBackend] = {}
    yield backends
    for backend in backends.values():
        await backend.close()


@pytest.fixture
def hit(backends: dict[frozenset[Wall], JailBackend], planted: dict[str, str]) -> Hit:
    """Run an attack in a jail without some of its walls, and see that the jail is as it was."""

    async def hit(attack: Attack, without: frozenset[Wall] = NONE) -> ProgramReport:
        if without not in backends:
            backends[without] = JailBackend(JailSettings(preload=(), without=tuple(sorted(without))), RunLimits())
            await backends[without].start()
        sandbox = await backends[without].create()
        try:
            before = await _look(sandbox)
            more = {"limits": attack.limits} if attack.limits else {}
            report = await sandbox.execute(program(text(attack, planted), timeout_s=attack.timeout_s, **more))
            # In as many runs as there are places that one could have been in.
            assert [await _look(sandbox) for _ in range(4)] == [before] * 4
        finally:
            await sandbox.close()
        for wall in without:
            assert wall in (report.isolation or "")
        return report

    return hit


async def _look(sandbox: BackendSandbox) -> str | None:
    """What a program finds in the places to write, and how many processes."""
    look = "import os; (os.listdir(), os.listdir('/tmp'), len([p for p in os.listdir('/proc') if p.isdigit()]))"
    text = (await sandbox.execute(program(look))).text
    assert text is not None
    assert text.endswith(", 2)")
    return text


def refused(attack: Attack, report: ProgramReport) -> bool:
    assert report.outcome in attack.ends, (report.outcome, report.message, report.error)
    return THROUGH not in report.stdout and (report.stdout == f"{REFUSED}\n" or report.outcome != "ok")


@pytest.mark.parametrize("attack", ALL, ids=ids(list(ALL)))
async def test_it_is_refused(hit: Hit, attack: Attack) -> None:
    assert refused(attack, await hit(attack, NONE))


WALLED = [attack for attack in ALL if attack.walls]


@pytest.mark.parametrize("attack", WALLED, ids=ids(WALLED))
async def test_without_its_walls_it_gets_through(hit: Hit, attack: Attack) -> None:
    report = await hit(attack, attack.walls)
    assert THROUGH in report.stdout, (report.outcome, report.message, report.stdout, report.stderr)


ALONE = [(attack, wall) for attack in WALLED for wall in sorted(attack.walls) if len(attack.walls) > 1]


@pytest.mark.parametrize(("attack", "wall"), ALONE, ids=[f"{attack.name}-{wall}" for attack, wall in ALONE])
async def test_each_wall_stops_it_alone(hit: Hit, attack: Attack, wall: Wall) -> None:
    if wall == "control_group" and cgroup.find() is None:
        pytest.skip("this account may make no control group")
    if wall == "identity" and os.geteuid() != 0:
        pytest.skip("only root can give ids")
    assert refused(attack, await hit(attack, attack.walls - {wall}))


OUTSIDE = [attack for attack in ALL if attack.outside]


@pytest.mark.parametrize("attack", OUTSIDE, ids=ids(OUTSIDE))
async def test_outside_a_jail_it_succeeds(planted: dict[str, str], attack: Attack) -> None:
    argv = [sys.executable, "-c", text(attack, planted)]
    ran = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=20, check=False)
    assert ran.stdout == f"{THROUGH}\n", ran.stderr


async def test_there_are_no_two_attacks_of_a_name() -> None:
    assert len({attack.name for attack in ALL}) == len(ALL)
