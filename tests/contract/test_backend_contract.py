"""What every backend promises; see ``actors/backends/base.py``."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from pathlib import Path

import pytest

from actors.backends.base import Backend, BackendSandbox
from actors.config import JailSettings
from actors.errors import SandboxLost, UnknownSession
from actors.schemas import Limits, Outcome, OutputEvent, ProgramReport
from tests.backends import Run, program
from tests.contract.conftest import SECRET

pytestmark = pytest.mark.asyncio(loop_scope="module")
real = pytest.mark.needs("real")
FOREVER = "while True: pass  # fake: slow=3600"
SLEEP = "import time; time.sleep({0})  # fake: slow={0}"
EXIT = "import os; os._exit(3)  # fake: crash"
WRITE = "with open('{0}', 'w') as file: file.write('{1}')  # fake: write={0}:{1}"
READ = "print(open('{0}').read())  # fake: show=file:{0}"
STUBBORN = """
while True:  # fake: hang
    try:
        while True: pass
    except BaseException: pass
"""
DEAF = """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
"""


def small(output_bytes: int = 100_000, memory_mib: int = 512, disk_mib: int = 32) -> Limits:
    return Limits(
        memory_mib=memory_mib, cpu_s=20, processes=64, disk_mib=disk_mib, output_bytes=output_bytes, network=False
    )


# How a program ends.


async def test_a_program_that_ends_is_ok(run: Run) -> None:
    report = await run("x = 20\nprint(x)\nx + 22")
    assert (report.outcome, report.stdout, report.stderr, report.text) == (Outcome.OK, "20\n", "", "42")
    assert report.error is None
    assert report.isolation


async def test_a_program_without_a_last_value_has_no_text(run: Run) -> None:
    report = await run("1 + 1\nx = 3")
    assert (report.outcome, report.text, report.results) == (Outcome.OK, None, ())


async def test_a_program_that_raises_is_an_error_with_its_name_value_and_traceback(run: Run) -> None:
    report = await run('print("before")\nraise ValueError("the value")  # fake: raise=ValueError:the value')
    assert (report.outcome, report.stdout) == (Outcome.ERROR, "before\n")
    assert report.error is not None
    assert (report.error.name, report.error.value) == ("ValueError", "the value")
    assert "ValueError: the value" in report.error.traceback
    assert "line 2" in report.error.traceback
    assert "\x1b" not in report.error.traceback


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("nobody", "NameError"),
        ("x = = 1", "SyntaxError"),
        ('open("missing.txt").read()  # fake: show=file:missing.txt', "FileNotFoundError"),
        pytest.param("import no_such_module", "ModuleNotFoundError", marks=real),
        pytest.param("input()", "EOFError", marks=real),
    ],
)
async def test_pythons_own_errors_keep_their_names(run: Run, code: str, name: str) -> None:
    report = await run(code)
    assert report.outcome is Outcome.ERROR
    assert report.error is not None
    assert report.error.name == name


@pytest.mark.parametrize("code", [FOREVER, STUBBORN, SLEEP.format(3600)])
async def test_a_timeout_ends_a_program_within_a_second_however_it_resists(run: Run, code: str) -> None:
    started_at = time.monotonic()
    report = await run('print("early")\n' + code, timeout_s=0.4)
    assert report.outcome is Outcome.TIMEOUT
    assert 0.4 <= time.monotonic() - started_at < 1.4
    assert report.stdout == "early\n"
    assert report.message


@real
@pytest.mark.parametrize(
    "code", [DEAF, "import threading\nthreading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()"]
)
async def test_a_timeout_ends_a_program_that_ignores_signals_or_leaves_threads(run: Run, code: str) -> None:
    started_at = time.monotonic()
    report = await run(code, timeout_s=0.4)
    assert report.outcome in (Outcome.TIMEOUT, Outcome.OK)
    assert time.monotonic() - started_at < JailSettings().kill_grace_s + 1.4


async def test_a_program_that_takes_too_much_memory_is_out_of_memory(run: Run) -> None:
    report = await run(
        "hoard = []\nwhile True: hoard.append(bytearray(10_000_000))  # fake: oom", limits=small(memory_mib=128)
    )
    assert report.outcome is Outcome.OUT_OF_MEMORY
    assert (await run("1")).outcome is Outcome.OK


async def test_an_interpreter_that_is_killed_has_crashed(run: Run) -> None:
    report = await run("print('before', flush=True)\nimport os; os.kill(os.getpid(), 9)  # fake: crash")
    assert (report.outcome, report.stdout) == (Outcome.CRASHED, "before\n")
    assert (await run("1")).outcome is Outcome.OK


@pytest.mark.parametrize(("code", "status"), [("1 + 1", 0), ("1 / 0", 1)])
async def test_the_exit_status_is_that_of_a_script(run: Run, code: str, status: int) -> None:
    assert (await run(code)).exit_status == status


@real
@pytest.mark.parametrize(
    ("code", "outcome", "status"),
    [
        ("import sys\nsys.exit()", Outcome.OK, 0),
        ("import sys\nsys.exit(3)", Outcome.ERROR, 3),
        ("import sys\nsys.exit('words')", Outcome.ERROR, 1),
        ("import os\nos._exit(0)", Outcome.OK, 0),
        ("import os\nos._exit(3)", Outcome.ERROR, 3),
        ("import os\nos._exit(70)", Outcome.ERROR, 70),
        ("import os\nos.kill(os.getpid(), 15)", Outcome.CRASHED, -15),
        ("while True: pass", Outcome.TIMEOUT, None),
    ],
)
async def test_the_exit_status_of_a_program(run: Run, code: str, outcome: Outcome, status: int | None) -> None:
    report = await run(code, timeout_s=1.0)
    assert (report.outcome, report.exit_status) == (outcome, status)
    assert (await run("1")).outcome is Outcome.OK


@real
@pytest.mark.parametrize("code", ["import ctypes\nctypes.string_at(0)", "import os\nos.abort()"])
async def test_a_segfault_or_abort_is_a_crash(run: Run, code: str) -> None:
    assert (await run(code)).outcome is Outcome.CRASHED
    assert (await run("1")).outcome is Outcome.OK


# Output.


async def test_streams_are_kept_apart(run: Run) -> None:
    report = await run('print("out")\nimport sys; print("err", file=sys.stderr)  # fake: stderr=err')
    assert (report.stdout, report.stderr) == ("out\n", "err\n")


async def test_output_up_to_the_bound_is_whole(run: Run) -> None:
    report = await run('print("x" * 1_000_000, end="")  # fake: output=1000000', limits=small(output_bytes=1_000_000))
    assert (report.outcome, report.stdout) == (Outcome.OK, "x" * 1_000_000)
    assert report.usage.output_bytes == 1_000_000


async def test_output_over_the_bound_is_cut_with_a_marker_and_the_true_count(run: Run) -> None:
    report = await run('print("x" * 4999)  # fake: output=5000\n7', limits=small(output_bytes=2000))
    assert (report.outcome, report.text) == (Outcome.OK, "7")
    assert report.stdout == "x" * 2000 + "\n[… output truncated: 5000 bytes in all]"
    assert report.usage.output_bytes == 5000


async def test_a_flood_is_killed(run: Run) -> None:
    report = await run('while True: print("x" * 1000)  # fake: output=300000', limits=small(output_bytes=2000))
    assert report.outcome is Outcome.OUTPUT_LIMIT
    assert report.usage.output_bytes > 200_000
    assert report.stdout.startswith("x" * 1000)
    assert len(report.stdout) < 2100


async def test_unicode_survives(run: Run) -> None:
    text = "žluťoučký 東京 🎉"
    report = await run(f"print({text!r})\n{text!r}")
    assert (report.stdout, report.text) == (text + "\n", repr(text))


@real
async def test_bytes_that_are_no_text_are_replaced(run: Run) -> None:
    report = await run('import sys\nsys.stdout.buffer.write(b"\\xff ok")\nsys.stdout.flush()\nNone')
    assert (report.outcome, report.stdout) == (Outcome.OK, "\ufffd ok")


@pytest.mark.parametrize(
    "code",
    ["print('\\ud800')", "'\\ud800'", pytest.param("raise ValueError('\\udcff')", marks=real)],
)
async def test_lone_surrogates_do_not_break_a_report(run: Run, code: str) -> None:
    report = await run(code)
    assert report.outcome in (Outcome.OK, Outcome.ERROR)
    assert ProgramReport.model_validate_json(report.model_dump_json()) == report


async def test_output_streams_while_the_program_runs(run: Run) -> None:
    seen: list[tuple[OutputEvent, float]] = []
    started_at = time.monotonic()
    report = await run(
        f'print("first", flush=True)\n{SLEEP.format(0.5)}\nprint("second")\n7',
        emit=lambda event: seen.append((event, time.monotonic() - started_at)),
    )
    took_s = time.monotonic() - started_at
    assert "".join(event.text for event, _ in seen if event.kind == "stdout") == report.stdout == "first\nsecond\n"
    assert (seen[0][0].text, seen[-1][0].kind) == ("first\n", "result")
    assert took_s - seen[0][1] > 0.4


async def test_streams_keep_their_order_across_pauses(run: Run) -> None:
    pause = SLEEP.format(0.05)
    steps = (
        f"print({i}, flush=True)\n{pause}\n"
        f"import sys; print({i}, file=sys.stderr, flush=True)  # fake: stderr={i}\n{pause}\n"
        for i in range(3)
    )
    events: list[OutputEvent] = []
    await run("".join(steps), emit=events.append)
    assert [(event.kind, event.text) for event in events] == [
        (kind, f"{i}\n") for i in range(3) for kind in ("stdout", "stderr")
    ]


async def test_many_small_writes_are_few_events(run: Run) -> None:
    events: list[OutputEvent] = []
    report = await run("\n".join(f"print({i})" for i in range(2000)), emit=events.append)
    assert "".join(event.text for event in events) == report.stdout == "".join(f"{i}\n" for i in range(2000))
    assert len(events) < 200


async def test_an_error_is_the_last_event(run: Run) -> None:
    events: list[OutputEvent] = []
    report = await run('print("a")\n1 / 0', emit=events.append)
    assert [event.kind for event in events] == ["stdout", "error"]
    assert events[-1].error == report.error


@real
async def test_a_data_frame_has_html(run: Run) -> None:
    report = await run("import pandas\npandas.DataFrame({'a': [1, 2]})")
    assert [result.is_main_result for result in report.results] == [True]
    assert "<table" in (report.results[0].html or "")
    assert report.text is not None


@real
async def test_a_figure_is_a_png(run: Run) -> None:
    report = await run("import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()")
    images = [result.png for result in report.results if result.png]
    assert len(images) == 1
    assert base64.b64decode(images[0]).startswith(b"\x89PNG")


@real
async def test_displayed_values_are_results_but_not_the_main_one(run: Run) -> None:
    report = await run("from IPython.display import HTML, display\ndisplay(HTML('<b>bold</b>'))\n5")
    assert [(result.is_main_result, result.html) for result in report.results] == [(False, "<b>bold</b>"), (True, None)]
    assert report.text == "5"


# What a program is given.


@real
async def test_stdin_is_read_line_by_line_to_its_end(run: Run) -> None:
    report = await run("import sys\na = input()\nprint(a, sys.stdin.read())", stdin="první\nb\nc".encode())
    assert report.stdout == "první b\nc\n"


async def test_a_program_reads_what_was_sent(run: Run) -> None:
    report = await run(
        "import os; print(os.environ['GREETING'])  # fake: show=env:GREETING\n"
        "print(open('data/in.txt').read())  # fake: show=file:data/in.txt\n"
        "import sys; print(sys.stdin.read())  # fake: show=stdin",
        env={"GREETING": "hej då"},
        files={"data/in.txt": b"soubor"},
        stdin=b"vstup",
    )
    assert report.stdout == "hej då\nsoubor\nvstup\n"


async def test_files_of_the_workspace_may_be_written(run: Run) -> None:
    report = await run(f"{WRITE.format('in.txt', 'new')}\n{READ.format('in.txt')}", files={"in.txt": b"old"})
    assert report.stdout == "new\n"


@real
async def test_the_workspace_is_bounded(run: Run) -> None:
    report = await run('open("big", "wb").write(b"x" * 40_000_000)', limits=small(disk_mib=16))
    assert report.outcome is Outcome.ERROR
    assert report.error is not None
    assert report.error.name == "OSError"


@real
async def test_processes_are_bounded(run: Run) -> None:
    report = await run(
        "import os, time\n"
        "try:\n    for _ in range(500):\n        if os.fork() == 0: time.sleep(60)\n"
        "except OSError as error: print(type(error).__name__)",
    )
    assert report.stdout == "BlockingIOError\n"


async def test_usage_is_filled(run: Run) -> None:
    report = await run(f"{SLEEP.format(0.1)}\nprint('12345')")
    assert 0.1 <= report.usage.wall_s < 5
    assert report.usage.output_bytes == 6


@pytest.mark.needs("meter")
async def test_cpu_time_and_memory_are_measured(run: Run) -> None:
    report = await run("x = bytearray(b'x' * 100_000_000)\nfor i in range(3_000_000): pass")
    assert report.usage.cpu_s is not None
    assert report.usage.cpu_s > 0.01
    assert report.usage.peak_memory_mib is not None
    assert report.usage.peak_memory_mib > 95


@pytest.mark.needs("meter")
async def test_each_program_of_a_session_is_charged_for_itself(sandbox: BackendSandbox, run: Run) -> None:
    await sandbox.open_session("metered")
    busy = await run("x = bytearray(b'x' * 100_000_000)\nfor i in range(3_000_000): pass", session="metered")
    idle = await run("1", session="metered")
    assert busy.usage.cpu_s is not None
    assert idle.usage.cpu_s is not None
    assert idle.usage.cpu_s < busy.usage.cpu_s / 4
    assert idle.usage.peak_memory_mib is not None
    assert idle.usage.peak_memory_mib < 50


# Programs never meet.


@pytest.mark.parametrize(
    ("leave", "look", "clean"),
    [
        ("leak = 1", "leak", "NameError"),
        (WRITE.format("leak.txt", 1), READ.format("leak.txt"), "FileNotFoundError"),
        (WRITE.format("/tmp/leak.txt", 1), READ.format("/tmp/leak.txt"), "FileNotFoundError"),
        pytest.param("import math\nmath.leak = 1", "import math\nmath.leak", "AttributeError", marks=real),
        pytest.param('import os\nos.environ["LEAK"] = "1"', 'import os\nos.environ["LEAK"]', "KeyError", marks=real),
    ],
)
async def test_a_run_leaves_nothing_to_the_next(run: Run, leave: str, look: str, clean: str) -> None:
    assert (await run(leave)).outcome is Outcome.OK
    report = await run(look)
    assert report.error is not None
    assert report.error.name == clean


@real
async def test_a_run_leaves_no_process_to_the_next(run: Run) -> None:
    count = (
        "import glob, time\ntime.sleep(0.05)\n"  # a new process has no command line at first
        "sum(b'leaked-process' in open(name, 'rb').read() for name in glob.glob('/proc/[0-9]*/cmdline'))"
    )
    leave = (
        "import subprocess\nsubprocess.Popen(['sh', '-c', 'sleep 3600; : leaked-process'], start_new_session=True)\n"
    )
    assert (await run(leave + count)).text == "1"
    assert (await run(count)).text == "0"


@real
async def test_randomness_differs_from_run_to_run(run: Run) -> None:
    draw = "import random, numpy, os\n(random.random(), float(numpy.random.rand()), os.urandom(8))"
    assert (await run(draw)).text != (await run(draw)).text


async def test_sandboxes_do_not_see_each_other(backend: Backend) -> None:
    first, second = await backend.create(), await backend.create()
    assert first.sandbox_id != second.sandbox_id
    write = program(f"{WRITE.format('/tmp/shared', 1)}\n{SLEEP.format(0.5)}")
    read = program(f"{SLEEP.format(0.2)}\n{READ.format('/tmp/shared')}")
    reports = await asyncio.gather(first.execute(write), second.execute(read))
    assert [report.outcome for report in reports] == [Outcome.OK, Outcome.ERROR]
    await first.close()
    assert (await second.execute(program("1 + 1"))).text == "2"
    await second.close()


@real
async def test_the_hosts_files_are_not_there(run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    report = await run(f"open({str(secret)!r}).read()")
    assert report.error is not None
    assert report.error.name in ("FileNotFoundError", "PermissionError")


@real
async def test_the_hosts_environment_is_not_there(run: Run) -> None:
    report = await run(f"import os\nos.environ.get({SECRET!r})")
    assert (report.outcome, report.text) == (Outcome.OK, None)


@real
async def test_the_hosts_network_and_processes_are_not_there(run: Run) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        report = await run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=2)")
    assert report.outcome is Outcome.ERROR
    seen = await run("import os\nsum(name.isdigit() for name in os.listdir('/proc'))")
    assert int(seen.text or 0) < 5


# Sessions.


async def test_a_session_keeps_names_and_files(run: Run, sandbox: BackendSandbox) -> None:
    await sandbox.open_session("s")
    await run(f"x = 41\n{WRITE.format('note.txt', 'kept')}", session="s")
    assert (await run(f"print(x + 1)\n{READ.format('note.txt')}", session="s")).stdout == "42\nkept\n"


async def test_sessions_and_runs_without_one_are_kept_apart(run: Run, sandbox: BackendSandbox) -> None:
    await sandbox.open_session("a")
    await sandbox.open_session("b")
    await run("x = 1", session="a")
    for session in ("b", None):
        report = await run("x", session=session)
        assert report.error is not None
        assert report.error.name == "NameError"


async def test_a_session_outlives_an_error_and_a_timeout(run: Run, sandbox: BackendSandbox) -> None:
    await sandbox.open_session("s")
    await run("x = 7\n1 / 0", session="s")
    assert (await run(SLEEP.format(3600), session="s", timeout_s=0.3)).outcome is Outcome.TIMEOUT
    assert (await run("x", session="s")).text == "7"


async def test_a_closed_or_unknown_session_is_refused(run: Run, sandbox: BackendSandbox) -> None:
    await sandbox.open_session("s")
    await sandbox.close_session("s")
    await sandbox.close_session("never opened")
    for session in ("s", "never opened"):
        with pytest.raises(UnknownSession):
            await run("1", session=session)


async def test_a_session_that_crashed_is_unknown(run: Run, sandbox: BackendSandbox) -> None:
    await sandbox.open_session("s")
    assert (await run(EXIT, session="s")).outcome is Outcome.CRASHED
    with pytest.raises(UnknownSession):
        await run("1", session="s")


# Ends.


async def test_cancelling_stops_the_work_and_frees_the_sandbox(run: Run) -> None:
    task = asyncio.create_task(run(STUBBORN))
    await asyncio.sleep(0.2)
    started_at = time.monotonic()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert (await run("1 + 1")).text == "2"
    assert time.monotonic() - started_at < 1.5


async def test_a_check_reads_the_expected_tag(backend: Backend, sandbox: BackendSandbox) -> None:
    assert await sandbox.check() == backend.capabilities.build_tag != ""


async def test_a_closed_sandbox_is_lost_and_may_be_closed_again(backend: Backend) -> None:
    sandbox = await backend.create()
    await sandbox.close()
    await sandbox.close()
    with pytest.raises(SandboxLost):
        await sandbox.execute(program("1"))
    with pytest.raises(SandboxLost):
        await sandbox.check()


async def test_closing_under_a_running_program_ends_it(backend: Backend) -> None:
    sandbox = await backend.create()
    task = asyncio.create_task(sandbox.execute(program(FOREVER)))
    await asyncio.sleep(0.2)
    await sandbox.close()
    with pytest.raises(SandboxLost) as caught:
        await asyncio.wait_for(task, 2)
    assert caught.value.may_have_run
