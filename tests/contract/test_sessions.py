"""What a session keeps, and for how long: interpreters, variables, memory while it is paused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from actors.backends.base import BackendSandbox
from actors.errors import ActionFailed, ContextLost, InvalidRequest, SessionBusy, UnknownSession
from actors.schemas import Outcome
from actors.schemas.action import (
    CloseContext,
    FollowCommand,
    Interrupt,
    ListContexts,
    OpenContext,
    PauseSession,
    ReadFile,
    RestartContext,
    ResumeSession,
    StartCommand,
    WriteFile,
)
from tests.backends import OpenSession, Run, program

pytestmark = pytest.mark.asyncio(loop_scope="module")
contexts = pytest.mark.needs("processes")


async def test_an_interpreter_that_crashed_is_lost_until_it_is_restarted_and_files_are_kept(
    session: OpenSession,
) -> None:
    await session.run("x = 1")
    await session.do(WriteFile(path="kept", data=b"1"))
    assert (await session.run("import os; os._exit(1)  # fake: crash")).outcome is Outcome.CRASHED
    with pytest.raises(ContextLost, match="restart"):
        await session.run("x")
    assert (await session.do(ReadFile(path="kept"))).data == b"1"
    assert (await session.do(RestartContext())).alive
    assert (await session.run("print(open('kept').read())  # fake: show=file:kept")).stdout == "1\n"
    assert (await session.run("x")).error is not None


@contexts
async def test_contexts_have_names_of_their_own_and_the_same_files(session: OpenSession) -> None:
    await session.run("x = 'first'")
    opened = await session.do(OpenContext(context="second", cwd="sub/directory"))
    assert (opened.context, opened.language, opened.alive) == ("second", "python", True)
    assert (await session.run("x", context="second")).error is not None
    await session.run("x = 'second'\nopen('here', 'w').write('1')", context="second")
    assert (await session.run("x")).text == "'first'"
    assert (await session.run("x", context="second")).text == "'second'"
    assert (await session.run("open('sub/directory/here').read()")).text == "'1'"
    names = [(context.context, context.cwd) for context in await session.do(ListContexts())]
    assert names == [("default", "."), ("second", "sub/directory")]


@contexts
async def test_one_context_crashes_closes_and_restarts_without_the_others(session: OpenSession) -> None:
    await session.run("x = 1\nimport subprocess\nhelper = subprocess.Popen(['sleep', '4751'])")
    await session.do(OpenContext(context="other"))
    await session.run("import subprocess\nchild = subprocess.Popen(['sleep', '4752'])", context="other")
    await session.run("import os\nos.kill(os.getpid(), 9)", context="other")
    alive = {context.context: context.alive for context in await session.do(ListContexts())}
    assert alive == {"default": True, "other": False}
    assert (await session.run("x, helper.poll()")).text == "(1, None)"
    with pytest.raises(ContextLost):
        await session.run("1", context="other")
    await session.do(RestartContext(context="other"))
    assert (await session.run("1", context="other")).text == "1"
    await session.do(CloseContext(context="other"))
    await session.do(CloseContext(context="other"))
    with pytest.raises(ContextLost, match="open it"):
        await session.run("1", context="other")
    assert (await session.run("x")).text == "1"


@contexts
async def test_a_restart_ends_what_the_interpreter_runs_and_has_started(session: OpenSession) -> None:
    await session.do(OpenContext(context="busy"))
    running = asyncio.ensure_future(
        session.run(
            "import subprocess, time\nchild = subprocess.Popen(['sleep', '4753'])\n"
            "while True:\n    try: time.sleep(9)\n    except BaseException: pass",
            context="busy",
        )
    )
    await asyncio.sleep(0.3)
    assert (await session.do(RestartContext(context="busy"))).alive
    assert (await running).outcome is Outcome.CRASHED
    assert "4753" not in (await session.command("cat /proc/[0-9]*/cmdline | tr '\\0' ' '; : 475")).stdout
    assert (await session.run("1 + 1", context="busy")).text == "2"


@contexts
@pytest.mark.parametrize(
    ("action", "error"),
    [
        (OpenContext(context="default"), "exists"),
        (CloseContext(context="default"), "default_context"),
        (RestartContext(context="none"), "not_found"),
        (Interrupt(context="none"), "not_found"),
    ],
)
async def test_what_cannot_be_done_with_a_context(session: OpenSession, action: Any, error: str) -> None:
    with pytest.raises(ActionFailed) as failed:
        await session.do(action)
    assert failed.value.problem == error


@contexts
async def test_there_is_an_end_to_contexts(session: OpenSession) -> None:
    async def open_all() -> None:
        for number in range(20):
            await session.do(OpenContext(context=f"c{number}"))

    with pytest.raises(ActionFailed, match="too_many"):
        await open_all()
    assert (await session.run("1", context="c14")).text == "1"


@pytest.mark.needs("real")
@pytest.mark.parametrize(
    "busy",
    [
        "import time\ntime.sleep(60)",
        "while True: pass",
        "sum(n for n in range(10**12))",
        "input()",
        "import subprocess\nsubprocess.run(['sleep', '60'])",
    ],
)
async def test_an_interrupt_raises_in_the_program_and_state_is_kept(session: OpenSession, busy: str) -> None:
    await session.run("x = 1")
    stdin = {"stdin": None}
    if busy == "input()":
        busy = "import os\nr, w = os.pipe()\nos.read(r, 1)"
    running = asyncio.ensure_future(session.run(f"x = 2\n{busy}", **stdin))
    await asyncio.sleep(0.3)
    await session.do(Interrupt())
    report = await asyncio.wait_for(running, 5)
    assert report.outcome is Outcome.ERROR
    assert report.error is not None
    assert report.error.name == "KeyboardInterrupt"
    assert (await session.run("x")).text == "2"


@pytest.mark.needs("real")
async def test_an_interrupt_of_nothing_is_nothing(session: OpenSession) -> None:
    await session.do(Interrupt())
    assert (await session.run("1 + 1")).text == "2"


_TICKING = """
import threading, time
x, ticks, longest_pause_s = list(range(1000)), 0, 0.0
def tick():
    global ticks, longest_pause_s
    last_s = time.monotonic()
    while True:
        time.sleep(0.001)
        now_s = time.monotonic()
        longest_pause_s, last_s, ticks = max(longest_pause_s, now_s - last_s), now_s, ticks + 1
threading.Thread(target=tick, daemon=True).start()
"""


@contexts
async def test_a_paused_session_keeps_its_memory_and_nothing_in_it_runs(session: OpenSession) -> None:
    await session.run(_TICKING)
    counter = await session.do(StartCommand(command="while :; do echo . >> dots; sleep 0.01; done", timeout_s=None))
    await asyncio.sleep(0.1)
    await session.do(PauseSession())
    await session.do(PauseSession())
    await asyncio.sleep(1.0)
    await session.do(ResumeSession())
    assert float((await session.run("longest_pause_s")).text or 0) > 0.9
    before = (await session.do(ReadFile(path="dots"))).size
    await asyncio.sleep(0.3)
    assert (await session.do(ReadFile(path="dots"))).size > before
    assert (await session.run("len(x)")).text == "1000"
    ticks = int((await session.run("ticks")).text or 0)
    assert int((await session.run("import time\ntime.sleep(0.2)\nticks")).text or 0) > ticks
    listening = session.follow(FollowCommand(pid=counter.pid))
    assert (await anext(listening)).kind == "started"
    await listening.aclose()


@contexts
async def test_whatever_is_asked_of_a_paused_session_has_it_resume(session: OpenSession) -> None:
    await session.run("x = 1")
    for use in (session.run("x"), session.do(WriteFile(path="a", data=b"1")), session.command("true")):
        await session.do(PauseSession())
        async with asyncio.timeout(5):
            await use
    assert (await session.run("x")).text == "1"


@contexts
async def test_a_session_is_not_paused_under_a_program_and_can_be_closed_while_it_is(session: OpenSession) -> None:
    running = asyncio.ensure_future(session.run("import time\ntime.sleep(0.5)\n1"))
    await asyncio.sleep(0.2)
    with pytest.raises(SessionBusy, match="interrupt"):
        await session.do(PauseSession())
    assert (await running).text == "1"
    await session.do(PauseSession())
    async with asyncio.timeout(5):
        await session.sandbox.close_session(session.name)
    with pytest.raises(UnknownSession):
        await session.do(ResumeSession())


# Variables and chance.

HARD = {
    "QUOTE": "'\"\\",
    "CODE": "'); import os; os._exit(1) #",
    "LINES": "a\nb",
    "UNICODE": "é✓",
    "EMPTY": "",
    "LONG": "x" * 9999,
}


SHOW = f"""
import subprocess, sys
code = "import os, json; print(json.dumps([os.environ.get(name) for name in {list(HARD)!r}]), flush=True)"
exec(code)
subprocess.run([sys.executable, "-c", code])
"""


@pytest.mark.needs("real")
async def test_variables_of_any_value_reach_a_program_and_its_children_and_then_are_gone(session: OpenSession) -> None:
    inside = (await session.run(SHOW, env=HARD)).stdout.splitlines()
    assert [json.loads(line) for line in inside] == [list(HARD.values())] * 2
    after = (await session.run(SHOW)).stdout.splitlines()
    assert [json.loads(line) for line in after] == [[None] * len(HARD)] * 2


@pytest.mark.needs("real")
async def test_a_variable_that_was_there_before_comes_back(session: OpenSession) -> None:
    show = "import os\nos.environ['HOME'], os.environ.get('NEW')"
    assert (await session.run(show, env={"HOME": "/tmp", "NEW": "1"})).text == "('/tmp', '1')"
    assert (await session.run(show)).text == "('/home/user', None)"
    await session.run("import os\nos.environ['MINE'] = 'kept'\ndel os.environ['NEW']", env={"NEW": "2"})
    assert (await session.run("os.environ['MINE'], os.environ.get('NEW')")).text == "('kept', None)"


@pytest.mark.needs("real")
async def test_a_seed_makes_chance_the_same_again(run: Run, session: OpenSession) -> None:
    draw = "import random\nimport numpy as np\nrandom.random(), float(np.random.rand()), float(np.random.normal())"
    first, again, other, none = [(await run(draw, seed=seed)).text for seed in (7, 7, 8, None)]
    assert first == again
    assert len({first, other, none}) == 3
    assert (await session.run(draw, seed=7)).text == first
    assert (await run("import random\nrandom.random()", seed=7)).text == (first or "").strip("()").split(",")[0]


@contexts
async def test_a_context_is_a_session_s(sandbox: BackendSandbox, session: OpenSession) -> None:
    with pytest.raises(ContextLost):
        await session.run("1", context="missing")
    with pytest.raises(InvalidRequest):
        await session.run("x = 1", context="default", language="bash")
    assert (await sandbox.execute(program("1"))).text == "1"
