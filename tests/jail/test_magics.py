"""Notebook manners: magics, progress on one line, errors that show their line."""

from __future__ import annotations

import asyncio
import base64
import itertools
import time

import pytest

from actors.schemas import Outcome, OutputEvent
from tests.backends import OpenSession, Run

pytestmark = pytest.mark.asyncio(loop_scope="module")
PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()"


@pytest.mark.parametrize(
    "first",
    [
        "%matplotlib inline",
        "%matplotlib",
        "%matplotlib notebook",
        "%matplotlib widget",
        "%matplotlib qt",
        "%matplotlib tk",
        "%matplotlib inline\n%config InlineBackend.figure_format = 'retina'",
        "get_ipython().run_line_magic('matplotlib', 'inline')",
        "import matplotlib\nmatplotlib.use('inline')",
    ],
)
async def test_a_notebooks_first_line_leaves_figures_pictures(run: Run, first: str) -> None:
    report = await run(f"{first}\n{PLOT}")
    assert report.outcome is Outcome.OK, report.error
    [result] = report.results
    assert base64.b64decode(result.png or "").startswith(b"\x89PNG")
    assert ("no windows" in report.stderr) == any(word in first for word in ("notebook", "widget", " qt", " tk"))


async def test_pylab_inline(run: Run) -> None:
    [result] = (await run("%pylab inline\nplot([1, 2]); show()", timeout_s=30)).results
    assert base64.b64decode(result.png or "").startswith(b"\x89PNG")


async def test_figures_in_another_format(run: Run) -> None:
    [result] = (await run(f"%matplotlib inline\n%config InlineBackend.figure_format = 'svg'\n{PLOT}")).results
    assert "<svg" in (result.svg or "")


@pytest.mark.parametrize(
    "line",
    [
        "%gui qt", "%edit", "%ed f.py", "%autosave 60", "%connect_info", "%qtconsole", "%subshell", "%man ls",
        "%matplotlib widget",
    ],
)  # fmt: skip
async def test_what_a_sandbox_cannot_do_is_said_in_one_line(run: Run, line: str) -> None:
    report = await run(f"{line}\n1")
    assert (report.outcome, report.text) == (Outcome.OK, "1")
    assert report.stderr.startswith(line.split()[0])
    assert report.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "stdout"),
    [
        ("%clear", ""),
        ("%gui", ""),
        ("%%writefile a.txt\nline\n", "Writing a.txt\n"),
        ("%%writefile -a a.txt\nmore\n", "Writing a.txt\n"),
        ("open('a.txt', 'w').write('x')\n%less a.txt", "x"),
        ("open('a.txt', 'w').write('x')\n%more a.txt", "x"),
        ("open('a.py', 'w').write('y = 1')\n%load a.py", "# %load a.py\ny = 1\n"),
        ("open('a.py', 'w').write('print(5)')\n%run a.py", "5\n"),
        ("%%capture caught\nprint(1); display(2)", ""),
        ("%env A=1\n!echo $A", "env: A=1\n1\n"),
        ("%alias say echo said %s\n%say it", "said it\n"),
        ("%alias_magic t time", "Created `%t` as an alias for `%time`.\nCreated `%%t` as an alias for `%%time`.\n"),
        ("%%script sh\necho x", "x\n"),
        ("%%perl\nprint 1 + 1", "2"),
        ("%%python\nprint(3)", "3\n"),
        ("x = 1\n%store x", "Stored 'x' (int)\n"),
        ("x = [1]\n%xdel x\nprint('x' in globals())", "False\n"),
        ("%mkdir d\n%cd d", "/home/user/d\n"),
        ("x = y = 1\n%reset_selective -f x\nprint('x' in globals(), y)", "False 1\n"),
        ("from dataclasses import *\n%who_ls type", ""),
        ("%load_ext autoreload\n%autoreload 2\nprint(1)", "1\n"),
    ],
)
async def test_magics_do_what_they_do_in_a_notebook(run: Run, code: str, stdout: str) -> None:
    report = await run(code)
    assert report.outcome is Outcome.OK, report.error
    assert (report.stdout, report.stderr) == (stdout, "")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("%pwd", "'/home/user'"),
        ("pwd", "'/home/user'"),
        ("env HOME", "'/home/user'"),
        ("%sx echo a", "['a']"),
        ("%%time\n6 * 7", "42"),
        ("%lsmagic", None),
    ],
)
async def test_magics_that_have_a_value(run: Run, code: str, text: str | None) -> None:
    found = (await run(code)).text
    assert found is not None
    assert text is None or found == text


@pytest.mark.parametrize(("code", "stdout"), [("ls", "a.txt\n"), ("cat a.txt", "x"), ("cd /tmp", "/tmp\n")])
async def test_a_line_that_is_a_magic_needs_no_percent_sign(session: OpenSession, code: str, stdout: str) -> None:
    await session.run("open('a.txt', 'w').write('x')")
    assert (await session.run(code)).stdout == stdout


async def test_names_of_the_program_come_before_magics(session: OpenSession) -> None:
    await session.run("ls = 3")
    assert (await session.run("ls")).text == "3"
    assert (await session.run("time = 5")).outcome is Outcome.OK
    assert (await session.run("time")).text == "5"
    report = await session.run("env.x")
    assert report.error is not None
    assert report.error.name == "NameError"


async def test_debugging_without_input_ends_at_once(session: OpenSession) -> None:
    await session.run("def f(n):\n    return 1 / n\nf(0)")
    for code in ("%debug", "import pdb; pdb.set_trace()", "breakpoint()"):
        report = await session.run(code, timeout_s=10)
        assert report.outcome in (Outcome.OK, Outcome.ERROR), code
    assert (await session.run("1")).text == "1"


async def test_logging_and_history_write_files(session: OpenSession) -> None:
    await session.run("%logstart -o log.py")
    await session.run("x = 1")
    assert "x = 1" in (await session.run("print(open('log.py').read())")).stdout
    await session.run("%save -f saved.py 2")
    assert "x = 1" in (await session.run("print(open('saved.py').read())")).stdout
    await session.run("%macro again 2")
    await session.run("x = 2\nagain")
    assert (await session.run("x")).text == "2"


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("x = 1\nreturn 5", "return 5"),
        ("def f():\n    break", "break"),
        ("continue", "continue"),
        ("def f():\n    x = 1\n    nonlocal x", "nonlocal x"),
        ("class C:\n    yield 1", "yield 1"),
        ("def f(a, a): pass", "def f(a, a): pass"),
        ("from __future__ import no_such", "from __future__ import no_such"),
        ("%time 1\nreturn 7", "return 7"),
        ("x = (1,\ny = 2", "x = (1,"),
    ],
)
async def test_a_syntax_error_shows_its_line(run: Run, code: str, line: str) -> None:
    report = await run(code)
    assert report.error is not None
    assert report.error.name == "SyntaxError"
    assert line in [shown.strip() for shown in report.error.traceback.splitlines()]


async def test_an_earlier_runs_syntax_error_does_not_hide_a_later_line(session: OpenSession) -> None:
    await session.run("a = 1\nreturn 1")
    error = (await session.run("b = 2\nreturn 2")).error
    assert error is not None
    assert "return 2" in error.traceback


@pytest.mark.parametrize("write", ["print('.', end='')", "sys.stdout.write('.')", "sys.stderr.write('.')"])
async def test_part_of_a_line_is_streamed_at_once(run: Run, write: str) -> None:
    started = time.monotonic()
    seen: list[float] = []

    def note(event: OutputEvent) -> None:
        seen.append(time.monotonic() - started)

    report = await run(f"import sys, time\nfor i in range(4): {write}; time.sleep(0.3)", note)
    assert report.stdout + report.stderr == "...."
    assert len(seen) == 4
    assert seen[0] < 0.6
    assert all(0.2 < after - before < 0.5 for before, after in itertools.pairwise(seen))


async def test_part_of_a_line_is_streamed_in_every_run_of_a_session(session: OpenSession) -> None:
    for _ in range(3):
        events: list[OutputEvent] = []
        running = asyncio.ensure_future(session.run("import time\nprint('half', end='')\ntime.sleep(1)", events.append))
        await asyncio.sleep(0.6)
        assert [event.text for event in events] == ["half"]
        await running


@pytest.mark.parametrize(
    "end",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",
        "ctypes.string_at(0)",
        "bytearray(10**10)\nbytes(10**10)",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
    ],
)
async def test_part_of_a_line_is_kept_when_a_program_is_killed(run: Run, end: str) -> None:
    begin = "import ctypes, os, signal, sys, time\nprint('half', end='')\nsys.stderr.write('other')\ntime.sleep(0.2)\n"
    report = await run(begin + end, timeout_s=1)
    assert report.outcome is not Outcome.OK
    assert report.stdout == "half"
    assert report.stderr.startswith("other")
