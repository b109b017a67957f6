"""Sessions forked from a prepared one."""

from __future__ import annotations

import asyncio
import time

import pytest

from actors.backends.base import BackendSandbox
from actors.errors import ActionFailed, ContextLost, SessionBusy, UnknownSession
from actors.schemas import Outcome
from actors.schemas.action import ListContexts, PauseSession, ReadFile, RestartContext
from tests.backends import OpenSession, open_forkable

pytestmark = pytest.mark.asyncio(loop_scope="module")
real = pytest.mark.needs("real")
PREPARE = "number = 41\nwith open('shared.txt', 'w') as file: file.write('base')  # fake: write=shared.txt:base"
LOOK = "print(number)\nprint(open('shared.txt').read())  # fake: show=file:shared.txt"


async def test_forks_start_from_the_same_interpreter_and_files_and_go_their_own_ways(sandbox: BackendSandbox) -> None:
    origin = await open_forkable(sandbox)
    await origin.run(PREPARE)
    one, other = await origin.fork("one", "other")
    for fork in (one, other):
        assert (await fork.run(LOOK)).stdout == "41\nbase\n"
        change = (
            f"with open('shared.txt', 'w') as file: file.write('{fork.name}')  # fake: write=shared.txt:{fork.name}"
        )
        await fork.run(f"number = number + 1\n{change}")
        assert (await fork.run(LOOK)).stdout == f"42\n{fork.name}\n"
    assert (await origin.run(LOOK)).stdout == "41\nbase\n"
    await sandbox.close_session("one")
    with pytest.raises(UnknownSession):
        await one.run("1")
    assert (await other.run("number")).text == "42"


@real
async def test_a_fork_has_everything_that_was_loaded_and_random_numbers_go_on_alike(sandbox: BackendSandbox) -> None:
    origin = await open_forkable(sandbox)
    await origin.run(
        "import random, os\nimport numpy as np\nimport pandas as pd\nrandom.seed(1); np.random.seed(1)\n"
        "frame = pd.DataFrame({'a': range(100_000)})\nos.makedirs('sub/deep')\nos.chdir('sub')\n"
        "os.symlink('deep', 'link')\n"
        "open('deep/run.sh', 'w').write('echo hi'); os.chmod('deep/run.sh', 0o750)\nos.environ['KEPT'] = '1'\n"
        "open('/tmp/t', 'w').write('t')\ndef f(): return len(frame)"
    )
    draw = "random.random(), float(np.random.rand()), f()"
    forks = await origin.fork(*"abc")
    drawn = {(await fork.run(draw)).text for fork in forks} | {(await origin.run(draw)).text}
    assert len(drawn) == 1
    seeded = [(await fork.run(draw, seed=number)).text for number, fork in enumerate(forks)]
    assert len(set(seeded)) == 3
    look = "os.getcwd(), os.readlink('link'), oct(os.stat('deep/run.sh').st_mode), os.environ['KEPT'], "
    look += "open('/tmp/t').read()"
    assert (await forks[0].run(look)).text == "('/home/user/sub', 'deep', '0o100750', '1', 't')"
    assert (await forks[0].command("sh sub/deep/run.sh")).stdout == "hi\n"


@real
async def test_forks_do_not_meet(sandbox: BackendSandbox) -> None:
    origin = await open_forkable(sandbox)
    await origin.run("import os, socket, subprocess\nsecret = 'x'")
    one, other = await origin.fork("one", "other")
    await one.run(
        "child = subprocess.Popen(['sleep', '4771'])\nserver = socket.create_server(('127.0.0.1', 8765))\n"
        "open('/dev/shm/mine', 'w').write('1')"
    )
    for stranger in (other, origin):
        seen = await stranger.run(
            "names = [name for name in os.listdir('/proc') if name.isdigit()]\nfound = []\n"
            "for name in names:\n    try: found.append(open(f'/proc/{name}/cmdline').read())\n"
            "    except OSError: pass\n"
            "try: reached = socket.create_connection(('127.0.0.1', 8765), 1)\nexcept OSError as error: reached = None\n"
            "any('4771' in line for line in found), reached, os.path.exists('/dev/shm/mine')"
        )
        assert seen.text is not None
        assert seen.text.endswith("None, False)")
        if stranger is other:
            assert seen.text == "(False, None, False)"
    killed = await other.run("os.kill(-1, 9)")
    assert killed.outcome in (Outcome.ERROR, Outcome.OK, Outcome.CRASHED)
    assert (await one.run("child.poll(), secret")).text == "(None, 'x')"


@real
async def test_a_fork_is_a_session_like_any_other(sandbox: BackendSandbox) -> None:
    origin = await open_forkable(sandbox)
    await origin.run(PREPARE)
    [fork] = await origin.fork("fork")
    assert (await fork.command("cat shared.txt")).stdout == "base"
    assert (await fork.run("import time\ntime.sleep(60)", timeout_s=0.3)).outcome is Outcome.TIMEOUT
    assert (await fork.run("number")).text == "41"
    await fork.do(PauseSession())
    assert (await fork.run("number")).text == "41"
    assert (await fork.run("import os\nos._exit(1)")).outcome is Outcome.CRASHED
    with pytest.raises(ContextLost):
        await fork.run("1")
    await fork.do(RestartContext())
    assert (await fork.run("open('shared.txt').read()")).text == "'base'"
    assert [context.alive for context in await fork.do(ListContexts())] == [True]
    assert (await fork.run("x = b'x' * 900_000_000")).outcome is Outcome.OUT_OF_MEMORY
    assert (await origin.run("number")).text == "41"
    report = await origin.run("1")
    assert "forkable" in report.isolation


@real
async def test_forks_fork_and_outlive_their_origin(sandbox: BackendSandbox) -> None:
    origin = await open_forkable(sandbox)
    await origin.run(PREPARE + "\nimport subprocess\nchild = subprocess.Popen(['sleep', '4772'])")
    [fork] = await origin.fork("fork")
    await fork.run("number = 42")
    [grandchild] = await fork.fork("grandchild")
    await sandbox.close_session("origin")
    assert (await fork.run("number")).text == "42"
    await sandbox.close_session("fork")
    assert (await grandchild.run("number")).text == "42"
    assert (await grandchild.do(ReadFile(path="shared.txt"))).data == b"base"
    await sandbox.close_session("grandchild")
    again = await open_forkable(sandbox, "origin")
    assert (await again.run("number")).error is not None


@real
async def test_a_pause_is_of_one_session_alone(sandbox: BackendSandbox) -> None:
    origin = await open_forkable(sandbox)
    await origin.run(PREPARE)
    [fork] = await origin.fork("fork")
    [grandchild] = await fork.fork("grandchild")
    await origin.do(PauseSession())
    async with asyncio.timeout(5):
        assert (await fork.run("number")).text == "41"
        await fork.do(PauseSession())
        assert (await grandchild.run("number")).text == "41"
        assert (await origin.run("number")).text == "41"
        await origin.do(PauseSession())
        [late] = await origin.fork("late")
        assert (await late.run("number")).text == "41"
        await sandbox.close_session("fork")
    assert (await grandchild.run("number")).text == "41"


@real
async def test_what_cannot_be_forked_says_why(sandbox: BackendSandbox, session: OpenSession) -> None:
    with pytest.raises(ActionFailed, match="forkable=True"):
        await session.fork("fork")
    with pytest.raises(UnknownSession):
        await sandbox.fork_session("none", ["fork"])
    origin = await open_forkable(sandbox)
    running = asyncio.ensure_future(origin.run("import time\ntime.sleep(0.5)"))
    await asyncio.sleep(0.2)
    with pytest.raises(SessionBusy):
        await origin.fork("fork")
    await running
    await origin.run("import os\nos._exit(0)")
    with pytest.raises(ContextLost):
        await origin.fork("fork")
    shell = await open_forkable(sandbox, "shell")
    await shell.run("true", language="bash")
    with pytest.raises(ActionFailed, match="bash"):
        await shell.fork("fork")
    with pytest.raises(UnknownSession):
        await OpenSession(sandbox, "fork").run("1")


@real
async def test_background_threads_and_processes_stay_behind(sandbox: BackendSandbox) -> None:
    origin = await open_forkable(sandbox)
    await origin.run(
        "import threading, time, subprocess\nticks = 0\ndef tick():\n    global ticks\n"
        "    while True:\n        ticks += 1; time.sleep(0.01)\n"
        "threading.Thread(target=tick, daemon=True).start()\nchild = subprocess.Popen(['sleep', '4773'])"
    )
    [fork] = await origin.fork("fork")
    first = (await fork.run("ticks")).text
    assert (await fork.run("time.sleep(0.2)\nticks")).text == first
    assert (await origin.run("repr(child.poll())")).text == "'None'"
    assert "Warning" not in (await fork.run("1")).stderr


@real
async def test_forks_are_made_at_the_speed_of_forks(sandbox: BackendSandbox) -> None:
    """A new interpreter with as much loaded takes some hundred times as long; timed with much room."""
    origin = await open_forkable(sandbox)
    await origin.run("import pandas as pd\nframe = pd.DataFrame({'a': range(1_000_000)})")
    started = time.monotonic()
    forks = await origin.fork(*(f"f{number}" for number in range(16)))
    assert time.monotonic() - started < 4
    assert {(await fork.run("len(frame)")).text for fork in forks} == {"1000000"}
