"""The end of a program is the program's: whatever it does, no run is said to have failed for the service's reasons."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from actors.backends.jail import JailBackend
from actors.backends.jail.host import execution, results
from actors.backends.jail.host.execution import Execution
from actors.backends.jail.host.process import ContainerProcess
from actors.config import JailSettings, RunLimits
from actors.errors import ContextLost, SandboxLost
from actors.schemas import Outcome
from actors.schemas.action import ReadFile, StartCommand, WriteFile
from tests.backends import OpenSession, Run, program
from tests.jail import processes
from tests.jail.attacks import small

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROOT = Path(__file__).parents[2]
FULL_SOCKETS = """
import os, socket, time
kept = []
while True:
    try: kept.append(socket.socketpair())
    except OSError: break
    for end in kept[-1]:
        end.setblocking(False)
        try:
            while True: end.send(bytes(32768))
        except OSError: pass
time.sleep(5)
"""
"""Holds memory that no process is charged for, so that the kernel finds nobody large."""


@pytest.fixture
def grouped(backend: JailBackend) -> None:
    if "memory by cgroup" not in backend.capabilities.isolation:
        pytest.skip("this account may make no control groups")


# Memory runs out.


@pytest.mark.parametrize("language", ["python", "bash", "javascript"])
async def test_every_language_is_killed_before_the_service(run: Run, language: str) -> None:
    code = {
        "python": "print(open('/proc/self/oom_score_adj').read())",
        "bash": "cat /proc/self/oom_score_adj",
        "javascript": "console.log(require('fs').readFileSync('/proc/self/oom_score_adj', 'utf8'))",
    }[language]
    assert (await run(code, language=language)).stdout.strip() == "1000"


async def test_the_service_is_spared_though_ray_has_its_workers_killed_first() -> None:
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.jail.scripts.killed_first", stdout=subprocess.PIPE, cwd=ROOT
    )
    said, _ = await asyncio.wait_for(host.communicate(), 60)
    scores = [line.split() for line in said.decode().splitlines()]
    assert {name for name, score in scores if score != "1000"} >= {"zygote-lean", "jail-forkserver", "jail-shim"}
    assert {name for name, score in scores if score == "1000"} <= {"python"}


HOLDERS = {
    "sockets": FULL_SOCKETS,
    "files": "for n in range(4):\n    open(f'/tmp/{n}', 'wb').write(bytes(50 * 2**20))",
    "files of the workspace": "for n in range(4):\n    open(str(n), 'wb').write(bytes(50 * 2**20))",
    "small files": "import os\nfor n in range(100_000):\n    open(f'/tmp/{n}', 'wb').write(bytes(4096))",
    "files of children": (
        "import os, time\nfor n in range(8):\n    if os.fork() == 0:\n"
        "        open(f'/tmp/{n}', 'wb').write(bytes(25 * 2**20)); os._exit(0)\ntime.sleep(5)"
    ),
    "page tables": (
        "import mmap, time\nm = mmap.mmap(-1, 2**38, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)\n"
        "for at in range(0, 2**38, 2**21): m[at]\ntime.sleep(5)"
    ),
    "one list": "kept = []\nwhile True: kept.append(bytes(100_000))",
}


@pytest.mark.usefixtures("grouped")
@pytest.mark.parametrize("spared", [False, True], ids=["", "as an ordinary process"])
@pytest.mark.parametrize("holder", HOLDERS)
async def test_what_needs_more_memory_than_its_limit_is_out_of_memory(
    backend: JailBackend, holder: str, spared: bool
) -> None:
    code = HOLDERS[holder]
    if spared:
        code = "open('/proc/self/oom_score_adj', 'w').write('0')\n" + code
    sandbox = await backend.create()
    report = await sandbox.execute(program(code, limits=small(memory_mib=64, disk_mib=500), timeout_s=10.0))
    assert report.outcome is Outcome.OUT_OF_MEMORY, report.error
    if not spared:
        assert not report.sandbox_spent
    if not report.sandbox_spent:
        assert (await sandbox.execute(program("1 + 1"))).text == "2"
    await sandbox.close()


# What it sends in the interpreter's place.

FRAMES = """
import json, os, stat, time
known = {os.fstat(fd).st_ino for fd in range(3)}
pipes = {fd: os.fstat(fd) for fd in range(3, 100) if os.path.exists(f"/proc/self/fd/{fd}")}
fd = next(fd for fd, found in pipes.items() if stat.S_ISFIFO(found.st_mode) and found.st_ino not in known)
def send(data):
    while data: data = data[os.write(fd, data):]
def frame(body):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return len(body).to_bytes(4, "little") + body
"""
INTERPRETER = """
import sys
at = sys._getframe()
while "files" not in at.f_globals or not hasattr(at.f_globals["files"], "_ACTIONS"): at = at.f_back
actions = at.f_globals["files"]._ACTIONS
"""
"""Gets at what answers the host."""


async def test_values_shown_as_fast_as_can_be_end_the_run_and_never_the_host(run: Run) -> None:
    shown = "{'kind': 'result', 'main': False, 'formats': {'text/plain': 'x' * 60_000}}"
    started_at = time.monotonic()
    report = await run(f"{FRAMES}one = frame({shown})\nfor _ in range(1200): send(one)\nwhile True: pass")
    assert report.outcome is Outcome.OUTPUT_LIMIT
    assert time.monotonic() - started_at < 5


async def test_handling_one_value_never_handles_the_next(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    deepest = 0
    add = Execution._on_message

    def measured(execution: Execution, message: dict[str, Any], size: int) -> None:
        nonlocal deepest
        frame, depth = sys._getframe(), 0
        while frame.f_back is not None:
            depth += frame.f_code.co_name == "_read_answers"
            frame = frame.f_back
        deepest = max(deepest, depth)
        add(execution, message, size)

    monkeypatch.setattr(Execution, "_on_message", measured)
    await run("for n in range(300): print(n); display(n)")
    assert deepest == 1


async def test_output_keeps_its_place_among_values(run: Run) -> None:
    seen: list[str] = []
    emit = lambda event: seen.append(event.text or (event.result and event.result.text) or "")  # noqa: E731
    report = await run("for n in range(50): print('p', n); display(n)", emit)
    assert report.outcome is Outcome.OK
    expected = [part for n in range(50) for part in (f"p {n}\n", str(n))]
    assert "".join(seen) == "".join(expected)


@pytest.mark.parametrize(
    "sent",
    ["{'id': 7}", "{'id': 0, 'answer': None}", "{'id': 1, 'failed': {'errno': 'EIO', 'message': ''}}", "{'id': -1}"],
)
async def test_an_answer_that_nobody_asked_for_is_a_crash(run: Run, sent: str) -> None:
    before_s = time.process_time()
    report = await run(f"{FRAMES}flood = frame({sent}) * 20_000\nwhile True: send(flood)", timeout_s=5.0)
    assert report.outcome is Outcome.CRASHED
    assert "nobody asked" in (report.message or "")
    assert time.process_time() - before_s < 1


async def test_a_second_answer_is_a_crash(session: OpenSession) -> None:
    code = (
        f"{FRAMES}{INTERPRETER}real = actions['find_files']\n"
        "def twice(action):\n    send(2 * frame({'id': 1, 'answer': {}}))\n    return real(action)\n"
        "actions['find_files'] = twice"
    )
    report = await session.run(code, outputs=("*",))
    assert report.outcome in (Outcome.CRASHED, Outcome.OK)
    with pytest.raises(ContextLost):
        await session.run("1")


@pytest.mark.parametrize(
    "answer",
    [
        r"""{"*": ["a\x00b"]}""",
        """{"*": [""]}""",
        """{"*": ["x" * 5000]}""",
        r"""{"*": ["\ud800"]}""",
        """{"*": 5}""",
        """["*"]""",
        """{"*": ["a"] * 200_000}""",
        """{"*": [str(n) for n in range(100_000)]}""",
        """{"other": ["a"]}""",
        """None""",
    ],
)
async def test_an_answer_that_makes_no_sense_costs_the_files_alone(run: Run, answer: str) -> None:
    report = await run(f"{INTERPRETER}actions['find_files'] = lambda a: {answer}", outputs=("*",))
    assert report.outcome in (Outcome.OK, Outcome.CRASHED)
    assert report.files == {}
    assert report.files_missing
    assert len(report.files_missing) <= 1001


@pytest.mark.parametrize(
    "name",
    [".git/hooks/pre-commit", "sitecustomize.py", "sub/x.png", "../x.png", "/x.png", "./x.png", "a\\n.png", ".png"],
)
async def test_files_that_were_not_asked_for_are_not_brought_back(run: Run, name: str) -> None:
    code = f"""{INTERPRETER}
import base64
actions['find_files'] = lambda a: {{'*.png': ['a.png', '{name}'], '*.csv': ['b.csv'], 'other': ['c.png']}}
actions['read_file'] = lambda a: {{'data': base64.b64encode(b'x').decode(), 'size': 1}}
"""
    report = await run(code, outputs=("*.png",))
    assert report.files == {"a.png": b"x"}
    assert list(report.files_missing) == ["*.png"]
    assert "does not fit" in report.files_missing["*.png"]


@pytest.mark.parametrize("form", ["image/png", "image/jpeg", "application/pdf"])
@pytest.mark.parametrize("text", ["A", "AAA", "é", "AAAA=A", "AA=A", "x" * 1001])
async def test_a_picture_that_is_none_is_left_out(run: Run, form: str, text: str) -> None:
    report = await run(f"display({{{form!r}: {text!r}, 'text/plain': 'kept'}}, raw=True)\nprint('on')")
    [shown] = report.results
    assert (shown.text, shown.png, shown.jpeg, shown.pdf) == ("kept", None, None, None)
    assert list((shown.omitted or {}).values()) == ["left out: it is not base64"]
    assert report.stdout == "on\n"


@pytest.mark.parametrize(
    "reader",
    ["'x'", "{'data': 'é', 'size': 1}", "{'data': '', 'size': 'x'}", "{'data': 'AAAA', 'size': 2**70}", "[]"],
)
async def test_a_file_read_as_none_can_be_costs_the_files_alone(run: Run, reader: str) -> None:
    code = f"{INTERPRETER}open('a.txt', 'w').write('a')\nactions['read_file'] = lambda a: {reader}"
    report = await run(code, outputs=("*.txt",))
    assert report.outcome in (Outcome.OK, Outcome.CRASHED)
    assert report.files == {}
    assert report.files_missing


async def test_an_interpreter_that_dies_while_it_answers_is_not_waited_for(run: Run) -> None:
    started_at = time.monotonic()
    code = f"{INTERPRETER}import os\nactions['find_files'] = lambda a: os._exit(3)"
    report = await run(code, outputs=("*",))
    assert report.files_missing
    assert time.monotonic() - started_at < 5


async def test_an_answer_that_does_not_come_costs_the_files_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "OUTPUTS_S", 0.5)
    report = await run(f"{INTERPRETER}import time\nactions['find_files'] = lambda a: time.sleep(60)", outputs=("*",))
    assert report.outcome is Outcome.OK
    assert "too long" in report.files_missing["*"]


@pytest.mark.parametrize(
    "shape",
    [
        {"kind": "result", "formats": {"e2b/chart": 5}},
        {"kind": "result", "formats": {str(n): "" for n in range(100)}},
        {"kind": "result", "formats": {"text/plain": "a"}, "main": []},
        {"kind": "error", "name": "E", "value": None, "traceback": ""},
        {"kind": "done", "nonce": None},
        {"kind": []},
        {"kind": "forked"},
        {"kind": "ready"},
    ],
    ids=lambda shape: str(shape)[:40],
)
async def test_a_message_of_another_shape_is_a_crash_or_nothing(run: Run, shape: dict[str, object]) -> None:
    report = await run(f"{FRAMES}send(frame({shape!r}))\ntime.sleep(0.5)")
    assert report.outcome in (Outcome.OK, Outcome.CRASHED)


async def test_what_the_hosts_own_handler_fails_at_is_the_programs_crash(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ValueError("a shape that nobody thought of")

    monkeypatch.setattr(results, "result_of", fail)
    report = await run("display(1)\nwhile True: pass", timeout_s=10.0)
    assert report.outcome is Outcome.CRASHED
    assert report.usage.wall_s < 5


async def test_a_flood_between_two_runs_of_a_session_ends_its_interpreter(session: OpenSession) -> None:
    flood = "def flood_it():\n    time.sleep(0.3)\n    while True: send(flood)\n"
    code = f"{FRAMES}import threading\nflood = frame({{'kind': 'x'}}) * 1000\n{flood}"
    report = await session.run(f"{code}threading.Thread(target=flood_it, daemon=True).start()")
    assert report.outcome is Outcome.OK
    before_s = time.process_time()
    await asyncio.sleep(2)
    assert time.process_time() - before_s < 1
    with pytest.raises(ContextLost):
        await session.run("1")


async def longest_pause_s(work: Awaitable[object]) -> float:
    """For how long the event loop was held up at a time while ``work`` was done."""
    task, longest_s, before_s = asyncio.ensure_future(work), 0.0, time.monotonic()
    while not task.done():
        await asyncio.sleep(0.005)
        longest_s, before_s = max(longest_s, time.monotonic() - before_s), time.monotonic()
    task.result()
    return longest_s


async def test_the_host_takes_no_descriptor_from_a_program(run: Run) -> None:
    """One whose last copy is closed in the host could put it to sleep: a connection that lingers, for hours."""
    report = await run(
        """
import array, os, socket, stat
taken = []
for fd in range(3, 100):
    if os.path.exists(f"/proc/self/fd/{fd}") and stat.S_ISSOCK(os.fstat(fd).st_mode):
        end = socket.socket(fileno=os.dup(fd))
        for flags in (0, socket.MSG_OOB):
            try:
                end.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))], flags)
                taken.append(fd)
            except OSError:
                pass
print(taken)
"""
    )
    assert report.stdout == "[]\n"


@pytest.mark.parametrize("shown", ["", "    if n % 50 == 0: display(n)\n"])
async def test_output_in_single_bytes_does_not_hold_up_the_host(run: Run, shown: str) -> None:
    code = (
        "import fcntl, os, threading\n"
        "fcntl.fcntl(1, fcntl.F_SETFL, os.O_DIRECT)\n"  # each byte is a packet, to be read by itself
        "def write():\n    while True: os.write(1, b'x')\n"
        "for _ in range(3): threading.Thread(target=write, daemon=True).start()\n"
        f"for n in range(10**9):\n    os.write(1, b'y')\n{shown}"
    )
    assert await longest_pause_s(run(code, timeout_s=2.0)) < 0.5


async def test_what_the_host_spends_on_a_program_counts_as_its_own(run: Run) -> None:
    flood = "while True: send(b''.join(frame({'kind': 'clear'}) for _ in range(20)))"
    report = await run(f"{FRAMES}{flood}", timeout_s=20.0, limits=small(cpu_s=100.0))
    assert report.outcome is Outcome.OUTPUT_LIMIT  # it is bounded in number
    before_s = time.thread_time()
    report = await run("import os\nfor _ in range(150_000): os.write(1, b'x')", limits=small(output_bytes=1_000_000))
    spent_s = time.thread_time() - before_s
    assert report.outcome is Outcome.OK
    assert report.usage.cpu_s is not None
    assert report.usage.cpu_s > 0.8 * spent_s


async def test_a_background_flood_of_a_session_costs_the_host_little(session: OpenSession) -> None:
    code = "import os, threading\ndef write():\n    while True: os.write(1, b'x')\n"
    await session.run(f"{code}threading.Thread(target=write, daemon=True).start()")
    await asyncio.sleep(0.2)
    before_s, since_s = time.thread_time(), time.monotonic()
    await asyncio.sleep(2)
    assert time.thread_time() - before_s < 0.2 * (time.monotonic() - since_s)
    assert (await session.run("1")).text == "1"


# Time.


async def test_a_run_whose_task_never_wakes_up_again_is_killed_all_the_same(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_until = ContainerProcess.wait_until
    awake = asyncio.Event()

    async def oversleep(process: ContainerProcess, condition: Callable[[], bool]) -> bool:
        while isinstance(getattr(process.on_message, "__self__", None), Execution) and not awake.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await awake.wait()
        return await wait_until(process, condition)

    monkeypatch.setattr(ContainerProcess, "wait_until", oversleep)
    marker = f"overdue-{os.getpid()}-{time.monotonic_ns()}"
    running = asyncio.ensure_future(
        run(f"import subprocess\nsubprocess.run(['sh', '-c', 'sleep 100; true {marker}'])", timeout_s=0.5)
    )
    await asyncio.sleep(0.4)
    assert processes.with_in_command_line(marker)
    await processes.gone(lambda: processes.with_in_command_line(marker), within_s=4.0)
    awake.set()
    assert (await asyncio.wait_for(running, 5)).outcome is Outcome.TIMEOUT


async def test_files_take_none_of_the_programs_time(run: Run) -> None:
    files = {f"{n}.bin": bytes(4 * 2**20) for n in range(4)}
    report = await run("1 + 1", files=files, timeout_s=0.1)
    assert (report.outcome, report.text) == (Outcome.OK, "2")


async def test_an_interpreter_that_takes_no_files_is_its_sessions_loss(
    session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "PREPARE_S", 0.5)
    await session.run(f"{INTERPRETER}import time\nactions['write_file'] = lambda a: time.sleep(60)")
    with pytest.raises(ContextLost):
        await session.run("1", files={"a": b"x"}, timeout_s=5.0)


async def test_a_smaller_disk_than_a_session_has_filled_keeps_what_is_there(session: OpenSession) -> None:
    limits = small(memory_mib=256, disk_mib=20)
    assert (await session.run("open('a', 'wb').write(bytes(10 * 2**20))", limits=limits)).outcome is Outcome.OK
    less = "import os\nprint(os.path.getsize('a'))\nopen('b', 'wb').write(bytes(2**20))"
    report = await session.run(less, limits=small(memory_mib=256, disk_mib=5))
    assert report.stdout == f"{10 * 2**20}\n"
    assert report.error is not None
    assert "No space" in report.error.value


async def test_a_program_that_is_dear_to_look_at_does_not_hold_up_the_host() -> None:
    backend = JailBackend(JailSettings(preload=(), without=("control_group",)), RunLimits())
    await backend.start()
    sandbox = await backend.create()
    worst_s = 0.0

    async def beat() -> None:
        nonlocal worst_s
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.02)
            worst_s, last = max(worst_s, time.monotonic() - last), time.monotonic()

    beating = asyncio.ensure_future(beat())
    report = await sandbox.execute(program(MANY_MAPPINGS, timeout_s=5.0, limits=small(memory_mib=64, processes=64)))
    beating.cancel()
    assert report.outcome in (Outcome.OUT_OF_MEMORY, Outcome.TIMEOUT)
    assert report.usage.wall_s < 8.5  # 5 s, the grace, and the way to its end
    assert worst_s < 1.0
    await backend.close()


MANY_MAPPINGS = """
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
for _ in range(60):
    if os.fork() == 0:
        try:
            for n in range(50_000): libc.mmap(None, 4096, 1 + (n & 1) * 4, 0x22, -1, 0)  # by turns, so that none merge
            time.sleep(60)
        finally: os._exit(0)
while True: time.sleep(1)
"""


async def test_an_agent_that_reads_nothing_is_ended(session: OpenSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.backends.jail.host.process.SEND_S", 0.5)
    await session.do(StartCommand(command="sleep 0.2; kill -STOP $PPID", timeout_s=None))
    await asyncio.sleep(0.5)
    since_s = time.monotonic()
    with pytest.raises(SandboxLost):
        await session.do(WriteFile(path="a", data=bytes(2**22)))
    assert time.monotonic() - since_s < 5
    assert (await session.command("echo on")).stdout == "on\n"


async def test_many_requests_at_a_time_reach_an_agent_whole(session: OpenSession) -> None:
    await session.do(StartCommand(command="sleep 0.1; kill -STOP $PPID; sleep 0.5; kill -CONT $PPID", timeout_s=None))
    files = {f"{n}.bin": bytes([n]) * 100_000 for n in range(20)}
    await asyncio.gather(*(session.do(WriteFile(path=name, data=data)) for name, data in files.items()))
    read = {name: (await session.do(ReadFile(path=name))).data for name in files}
    assert read == files
