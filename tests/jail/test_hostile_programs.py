"""Hostile programs: whatever one does, it ends in time and with its own outcome, and the jail stays sound."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from actors.backends.base import BackendSandbox
from actors.backends.jail import JailBackend
from actors.config import JailSettings
from actors.errors import ActionFailed
from actors.schemas import Outcome
from actors.schemas.action import ListCommands, Performed, ReadFile, RemoveFile, RenameFile, StartCommand, WriteFile
from tests.backends import OpenSession, Run, program
from tests.jail import processes
from tests.jail.attacks import SYSCALL, small

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(backend: JailBackend) -> AsyncIterator[BackendSandbox]:
    sandbox = await backend.create()
    yield sandbox
    assert (await sandbox.execute(program("1 + 1"))).text == "2"  # whatever was done to it
    await sandbox.close()


# The kernel's doors by other entries.


async def test_the_program_has_no_capability_and_cannot_gain_any(run: Run) -> None:
    wanted = ("Cap", "NoNewPrivs:", "Seccomp:")
    report = await run(f"print(*(l.split()[1] for l in open('/proc/self/status') if l.startswith({wanted})))")
    assert {"0" * 16, "1", "2"} == set(report.stdout.split())  # no capability, NoNewPrivs, Seccomp in filter mode


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the old entry exists there alone")
async def test_the_old_system_call_entry_kills(run: Run) -> None:
    code = (
        "import ctypes, mmap\n"
        "page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "page.write(bytes.fromhex('b814000000cd80c3'))\n"  # mov eax, 20 (getpid); int 0x80; ret
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()"
    )
    report = await run(code)
    assert report.outcome is Outcome.CRASHED
    assert "SIGSYS" in (report.message or "")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="this way of calling exists there alone")
async def test_the_x32_way_of_calling_kills(run: Run) -> None:
    report = await run(f"{SYSCALL}call(0x40000000 | 39, -1)")
    assert report.outcome is Outcome.CRASHED
    assert "SIGSYS" in (report.message or "")


async def test_a_program_makes_no_sibling_that_nobody_would_wait_for(run: Run) -> None:
    sibling = "call(56, 220, 0x8000 | 17, 0, 0, 0, 0)\n    os._exit(0)"
    code = f"{SYSCALL}\ntry:\n    {sibling}\nexcept PermissionError: print('refused')"
    assert (await run(code)).stdout == "refused\n"


async def test_a_program_limits_itself_but_not_its_init(run: Run) -> None:
    code = """
import os, resource
for pid in (os.getpid(), 0, 1):
    try: print(resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0)))
    except PermissionError: print('refused')
"""
    assert (await run(code)).stdout == "(0, 0)\n(0, 0)\nrefused\n"


async def test_a_setuid_program_gains_nothing(run: Run) -> None:
    code = "import subprocess\nprint(subprocess.run(['su', '-c', 'id -u'], input=b'', capture_output=True).stdout)"
    assert (await run(code)).stdout == "b''\n"


# Too much of everything.


async def test_a_fork_bomb_goes_out(run: Run) -> None:
    started_at = time.monotonic()
    code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    report = await run(code, timeout_s=1.0, limits=small())
    assert report.outcome in (Outcome.TIMEOUT, Outcome.OUT_OF_MEMORY)
    assert time.monotonic() - started_at < JailSettings().kill_grace_s + 2


async def test_after_a_fork_bomb_there_is_room_at_once(run: Run) -> None:
    for _ in range(5):
        bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
        await run(bomb, timeout_s=0.2, limits=small())
        report = await run("import os\nprint(len([os.fork() or os._exit(0) for _ in range(20)]))", limits=small())
        assert report.stdout == "20\n", report.error


async def test_a_thread_bomb_goes_out(run: Run) -> None:
    code = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    report = await run(code, timeout_s=5.0, limits=small())
    assert report.outcome in (Outcome.ERROR, Outcome.OUT_OF_MEMORY, Outcome.TIMEOUT)


async def test_cpu_time_is_bounded(run: Run) -> None:
    report = await run("while True: pass", timeout_s=10, limits=small(cpu_s=1))
    assert report.outcome is Outcome.TIMEOUT
    assert report.usage.wall_s < 5


async def test_cpu_time_of_children_counts(run: Run) -> None:
    code = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    report = await run(code, timeout_s=10, limits=small(cpu_s=2))
    assert report.outcome is Outcome.TIMEOUT
    assert report.usage.wall_s < 6


@pytest.mark.parametrize(
    "code",
    [
        "import re\nre.match(r'(a|aa)+$', 'a' * 60 + 'b')",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "import signal\nfor s in signal.valid_signals() - {9, 19}: signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "import ctypes\nctypes.CDLL(None).sleep(60)",
        "sum(range(10**12))",
        "import os\nwhile True:\n    if os.fork(): os.kill(os.getpid(), 9)",
    ],
    ids=[
        "regular expression",
        "catching everything",
        "ignoring signals",
        "in C",
        "in a builtin",
        "always another process",
    ],
)
async def test_nothing_outlives_its_time(run: Run, code: str) -> None:
    started_at = time.monotonic()
    report = await run(code, timeout_s=1.0)
    assert report.outcome in (Outcome.TIMEOUT, Outcome.CRASHED)
    assert time.monotonic() - started_at < JailSettings().kill_grace_s + 2


async def test_a_gigabyte_of_output_is_cut(run: Run) -> None:
    report = await run("import os\nblock = b'x' * 2**20\nfor _ in range(1024): os.write(1, block)")
    assert report.outcome is Outcome.OUTPUT_LIMIT
    assert len(report.stdout) < 110_000


async def test_two_floods_at_a_time_are_cut(run: Run) -> None:
    code = "import os\nos.fork()\nblock = b'x' * 2**16\nwhile True: os.write(1, block); os.write(2, block)"
    report = await run(code)
    assert report.outcome is Outcome.OUTPUT_LIMIT
    assert len(report.stdout) + len(report.stderr) < 220_000


async def test_a_value_that_shows_itself_without_end_is_cut_or_out_of_memory(run: Run) -> None:
    report = await run("class A:\n    def __repr__(self): return 'x' * 500_000_000\nA()", limits=small(memory_mib=256))
    assert report.outcome in (Outcome.OUT_OF_MEMORY, Outcome.OK, Outcome.ERROR)
    assert len(report.text or "") < 1_001_000


async def test_a_file_is_not_written_to_where_a_link_leads(run: Run, sandbox: BackendSandbox) -> None:
    await sandbox.open_session("s")
    await run("import os\nos.symlink('/tmp/elsewhere', 'link')\nos.symlink('/tmp', 'directory')", session="s")
    report = await run("1", session="s", files={"link": b"x"})
    assert (report.outcome, report.may_have_run) == (Outcome.REJECTED, False)
    assert "link" in (report.message or "")
    assert (await run("import os\nos.path.exists('/tmp/elsewhere')", session="s")).text == "False"


async def test_a_file_is_not_waited_for(run: Run, sandbox: BackendSandbox) -> None:
    await sandbox.open_session("s")
    await run("import os\nos.mkfifo('pipe')", session="s")
    report = await run("1", session="s", files={"pipe": b"x"}, timeout_s=5.0)
    assert (report.outcome, report.may_have_run) == (Outcome.REJECTED, False)
    assert (await run("1 + 1", session="s")).text == "2"


async def test_a_huge_value_is_cut_or_out_of_memory(run: Run) -> None:
    report = await run("'x' * 50_000_000", limits=small(memory_mib=512))
    assert report.outcome is Outcome.OK
    assert 1_000_000 <= len(report.text or "") < 1_001_000


async def test_deep_recursion_is_an_error(run: Run) -> None:
    report = await run("def f(): f()\nf()")
    assert report.error is not None
    assert report.error.name == "RecursionError"
    assert len(report.error.traceback) < 20_000


# Against the protocol.


PROTOCOL = """
import os, stat
known = {os.fstat(fd).st_ino for fd in range(3)}
pipes = {fd: os.fstat(fd) for fd in range(3, 100) if os.path.exists(f"/proc/self/fd/{fd}")}
fd = next(fd for fd, found in pipes.items() if stat.S_ISFIFO(found.st_mode) and found.st_ino not in known)
def send(data):
    while data: data = data[os.write(fd, data):]
"""


@pytest.mark.parametrize(
    "garbage",
    [
        r"b'\xff' * 100",
        r"b'\x05\0\0\0hello'",
        r"b'\x02\0\0\0[]'",
        r"b'\x02\0\0\0{}'",
        r"(lambda j: len(j).to_bytes(4, 'little') + j)(b'[' * 100000)",
        r"""(lambda j: len(j).to_bytes(4, 'little') + j)(b'{"kind":"result","formats":{"text/plain":5}}')""",
        r"""(lambda j: len(j).to_bytes(4, 'little') + j)(b'{"kind":"error","name":[]}')""",
        r"""(lambda j: len(j).to_bytes(4, 'little') + j)(b'{"kind":"done","nonce":"guessed"}')""",
    ],
)
async def test_garbage_on_the_protocol_is_a_crash(run: Run, garbage: str) -> None:
    report = await run(f"{PROTOCOL}os.write(fd, {garbage})\nimport time\ntime.sleep(5)")
    assert report.outcome is Outcome.CRASHED
    assert "sent" in (report.message or "")


async def test_frames_made_to_be_dear_do_not_hold_up_the_host(run: Run) -> None:
    code = (
        f"{PROTOCOL}"
        "body = b'{\"kind\":\"error\",\"z\":[' + b'[],' * 5_000_000 + b'0]}'\n"
        "while True: send(len(body).to_bytes(4, 'little') + body)"
    )
    started_at = time.monotonic()
    assert (await run(code, timeout_s=5.0)).outcome is Outcome.CRASHED
    assert time.monotonic() - started_at < 3


async def test_a_program_fails_once(run: Run) -> None:
    frame = """(lambda j: len(j).to_bytes(4, 'little') + j)(b'{"kind":"error","name":"E","value":"","traceback":""}')"""
    report = await run(f"{PROTOCOL}for _ in range(2): os.write(fd, {frame})\nimport time\ntime.sleep(5)")
    assert report.outcome is Outcome.CRASHED


async def test_closing_every_descriptor_is_a_crash(run: Run) -> None:
    started_at = time.monotonic()
    report = await run("import os, time\nos.closerange(0, 1000)\ntime.sleep(10)")
    assert report.outcome is Outcome.CRASHED
    assert time.monotonic() - started_at < 2


async def test_patched_modules_hurt_only_the_program_itself(run: Run) -> None:
    code = "import json, builtins\njson.dumps = None\njson.loads = None\nbuiltins.len = None"
    assert (await run(code)).outcome in (Outcome.OK, Outcome.CRASHED, Outcome.ERROR)


# Signals and survivors.


async def test_killing_everything_in_sight_ends_only_itself(run: Run) -> None:
    code = """
import os, signal, time
for pid in (1, -1):
    try: os.kill(pid, signal.SIGKILL)
    except OSError: pass
"""
    report = await run(code)
    assert report.outcome in (Outcome.OK, Outcome.CRASHED)


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM", "SIGSEGV"])
async def test_a_program_that_kills_itself_has_crashed(run: Run, signal_name: str) -> None:
    report = await run(f"import os, signal, time\nos.kill(os.getpid(), signal.{signal_name})\ntime.sleep(5)")
    assert report.outcome is Outcome.CRASHED
    assert signal_name in (report.message or "")


async def test_a_program_that_kills_itself_by_a_signal_without_a_name_has_crashed(run: Run) -> None:
    report = await run("import os, time\nos.kill(os.getpid(), 40)\ntime.sleep(5)")
    assert (report.outcome, "signal 40" in (report.message or "")) == (Outcome.CRASHED, True)


async def test_a_process_that_detached_itself_dies_with_the_run(run: Run) -> None:
    marker = f"survivor-{os.getpid()}-{time.monotonic_ns()}"
    code = (
        "import os, subprocess\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        os.execv('/bin/sh', ['sh', '-c', 'trap \"\" TERM INT; while true; do sleep 1; done # {marker}'])\n"
        "    os._exit(0)"
    )
    await run(code)
    await processes.gone(lambda: processes.with_in_command_line(marker))


_SERVER = """
import socket, threading
server = socket.create_server(("127.0.0.1", {port}))
def serve():
    while True: server.accept()[0].sendall(b"poison")
threading.Thread(target=serve, daemon=True).start()
"""
_VISIT = "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1).recv(9)"


async def test_a_server_of_the_last_run_is_not_met(run: Run) -> None:
    for port in range(8000, 8010):  # dying takes a moment, in which it could be
        assert (await run(_SERVER.format(port=port))).outcome is Outcome.OK
        report = await run(_VISIT.format(port=port))
        assert report.error is not None
        assert report.error.name == "ConnectionRefusedError"


async def test_a_server_of_a_session_is_met_by_that_session_alone(run: Run, sandbox: BackendSandbox) -> None:
    await sandbox.open_session("s")
    assert (await run(_SERVER.format(port=8000), session="s")).outcome is Outcome.OK
    assert (await run(_VISIT.format(port=8000), session="s")).text == "b'poison'"
    report = await run(_VISIT.format(port=8000))
    assert report.error is not None
    assert report.error.name == "ConnectionRefusedError"


async def test_a_terminal_of_its_own_works(run: Run) -> None:
    code = (
        "import os, pty\n"
        "pid, terminal = pty.fork()\n"
        "if pid == 0: os.execvp('sh', ['sh', '-c', 'test -t 0 && tty'])\n"
        "print(os.read(terminal, 99).strip().decode())"
    )
    assert (await run(code)).stdout.startswith("/dev/pts/")


async def test_leaving_at_once_is_no_error_and_leaving_with_a_status_is(run: Run) -> None:
    assert (await run("import sys\nprint('a')\nsys.exit()")).outcome is Outcome.OK
    report = await run("import sys\nsys.exit(3)")
    assert (report.outcome, report.error and report.error.name) == (Outcome.ERROR, "SystemExit")


# Files that no action can do anything with.

_NO_ANSWER = """
import errno, sys
frame = sys._getframe()
while 'files' not in frame.f_globals: frame = frame.f_back
def fail(action): raise OSError(errno.ENOSPC, 'forged')
frame.f_globals['files']._ACTIONS['find_files'] = fail
"""
_DEEP = "import os, sys\nfor _ in range(sys.getrecursionlimit() + 100): os.mkdir('d'); os.chdir('d')"


@pytest.mark.parametrize(("code", "reason"), [(_NO_ANSWER, "forged"), (_DEEP, "directories are nested too deeply")])
async def test_a_program_whose_files_cannot_be_listed_has_its_own_outcome(run: Run, code: str, reason: str) -> None:
    report = await run(code, outputs=("**/*",))
    assert report.outcome is Outcome.OK
    assert report.files_missing == {"**/*": reason}


@pytest.mark.parametrize(
    ("action", "problem"),
    [
        (RemoveFile(path="/tmp/d"), "too_many"),
        (RenameFile(path="/tmp/d", to="moved"), "too_many"),
        (ReadFile(path="file", offset=2**70), "invalid"),
        (WriteFile(path="file", data=b"", offset=2**70), "invalid"),
    ],
)
async def test_what_cannot_be_done_with_a_file_ends_that_action_alone(
    session: OpenSession, action: Performed, problem: str
) -> None:
    code = (
        "import os, sys\nopen('file', 'w').close()\nos.chdir('/tmp')\n"
        "for _ in range(sys.getrecursionlimit() + 100): os.mkdir('d'); os.chdir('d')"
    )
    assert (await session.run(code)).outcome is Outcome.OK
    running = await session.do(StartCommand(command="sleep 60"))
    with pytest.raises(ActionFailed) as failed:
        await session.do(action)
    assert failed.value.problem == problem
    assert [command.pid for command in await session.do(ListCommands())] == [running.pid]  # by the same guest agent
