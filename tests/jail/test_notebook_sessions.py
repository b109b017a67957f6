"""Sessions keep what notebooks keep: sources, names, the directory, the last error, and their state after a timeout."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from actors.backends.base import BackendSandbox
from actors.backends.jail import JailBackend
from actors.config import JailSettings, RunLimits
from actors.schemas import Outcome, OutputEvent
from actors.schemas.action import Interrupt, OpenContext
from tests.backends import OpenSession, Run, program

pytestmark = pytest.mark.asyncio(loop_scope="module")
LATER = """
import threading, time
def work():
    time.sleep(0.1); {}
threading.Thread(target=work).start()
"""


async def test_inspect_finds_the_source_of_an_earlier_run(session: OpenSession) -> None:
    await session.run("def first():\n    return 'first'")
    await session.run("class Second:\n    def method(self):\n        return 'second'\n\n    x = 1")
    await session.run("if True:\n    class Third: y = 1\n\ndef f():\n    class Inner: z = 1\n    return Inner")
    code = "import inspect\nfor thing in (first, Second, Second.method, Third, f()): print(inspect.getsource(thing))"
    report = await session.run(code)
    assert report.error is None
    assert report.stdout == (
        "def first():\n    return 'first'\n\n"
        "class Second:\n    def method(self):\n        return 'second'\n\n    x = 1\n\n"
        "    def method(self):\n        return 'second'\n\n"
        "    class Third: y = 1\n\n"
        "    class Inner: z = 1\n\n"
    )


async def test_inspect_finds_the_newest_source_of_a_name(session: OpenSession) -> None:
    await session.run("def f(): return 1\nclass C: x = 1")
    await session.run("old = f\ndef f(): return 2\nclass C: x = 2")
    report = await session.run("import inspect\nprint(*map(inspect.getsource, (old, f, C)), sep='', end='')")
    assert report.stdout == "def f(): return 1\ndef f(): return 2\nclass C: x = 2\n"


async def test_a_traceback_shows_the_lines_of_earlier_runs(session: OpenSession) -> None:
    await session.run("def h(n):\n    # a comment\n    z = n\n    return 1/z")
    await session.run("def g(n):\n    return h(n)")
    error = (await session.run("a=1\nb=2\n\ng(0)")).error
    assert error is not None
    lines = [line.strip() for line in error.traceback.splitlines() if "^" not in line]
    assert lines == [
        "Traceback (most recent call last):",
        'File "<program 3>", line 4, in <module>', "g(0)",
        'File "<program 2>", line 2, in g', "return h(n)",
        'File "<program>", line 4, in h', "return 1/z",
        "ZeroDivisionError: division by zero",
    ]  # fmt: skip


async def test_warnings_and_printed_tracebacks_show_them_too(session: OpenSession) -> None:
    await session.run("import warnings, traceback\ndef warn():\n    warnings.warn('careful', stacklevel=1)")
    report = await session.run("warn()\ntry: {}['k']\nexcept KeyError: traceback.print_exc()")
    assert "warnings.warn('careful', stacklevel=1)" in report.stderr
    assert "try: {}['k']" in report.stderr


async def test_classes_of_earlier_runs_pickle_and_are_dataclasses(session: OpenSession) -> None:
    await session.run(
        "import dataclasses, pickle, copy\n@dataclasses.dataclass(order=True)\nclass P:\n    x: int\n    y: int = 2"
    )
    report = await session.run("p = P(1)\npickle.loads(pickle.dumps(p)) == copy.deepcopy(p) == dataclasses.replace(p)")
    assert report.text == "True"
    assert (await session.run("p")).text == "P(x=1, y=2)"


async def test_magic_programs_keep_their_sources_too(session: OpenSession) -> None:
    await session.run("%time\ndef timed():\n    return 1 / 0")
    error = (await session.run("timed()")).error
    assert error is not None
    assert "return 1 / 0" in error.traceback


@pytest.mark.parametrize("change", ["import os\nos.chdir('proj')", "%cd proj"])
async def test_modules_of_the_working_directory_can_be_imported(session: OpenSession, change: str) -> None:
    await session.run("import os\nos.makedirs('proj', exist_ok=True)\nopen('proj/modq.py', 'w').write('Q = 3')")
    await session.run("open('helper.py', 'w').write('H = 4')")
    await session.run(change)
    assert (await session.run("import modq\nprint(modq.Q)")).stdout == "3\n"
    assert (await session.run("import sys, helper\nprint(helper.H, repr(sys.path[0]))")).stdout == "4 ''\n"


async def test_a_contexts_directory_is_where_it_imports_from(session: OpenSession) -> None:
    await session.do(OpenContext(context="other", cwd="deep/er"))
    await session.run("open('here.py', 'w').write('N = 5')", context="other")
    assert (await session.run("import here\nprint(here.N)", context="other")).stdout == "5\n"


async def test_a_pristine_run_has_a_scripts_path(run: Run) -> None:
    assert (await run("import sys\nprint(sys.path[0])")).stdout == "/home/user\n"


async def test_the_last_error_is_kept(session: OpenSession) -> None:
    assert (await session.run("%tb")).stderr == "No traceback available to show.\n"
    await session.run("def boom(): raise ValueError('v')\nboom()")
    code = "import sys\nprint(repr(sys.last_value), sys.last_type.__name__, sys.last_traceback.tb_next.tb_lineno)"
    assert (await session.run(code)).stdout == "ValueError('v') ValueError 1\n"
    report = await session.run("%tb")
    assert report.outcome is Outcome.OK
    assert "in boom" in report.stderr
    assert report.stderr.endswith("ValueError: v\n")
    assert "-> def boom(): raise" in (await session.run("import pdb\npdb.pm()", stdin=b"q\n")).stdout


async def test_inputs_and_values_have_the_names_of_notebooks(session: OpenSession) -> None:
    await session.run("40 + 2")
    await session.run("x = 1")
    await session.run("'three'")
    assert (await session.run("_1, Out[1], In[2], _i3, _3, sorted(Out)")).text == (
        "(42, 42, 'x = 1', \"'three'\", 'three', [1, 3])"
    )
    assert (await session.run("%history -n")).stdout.startswith("   1: 40 + 2\n   2: x = 1\n")
    assert (await session.run("%rerun 1")).text == "42"


@pytest.mark.parametrize(("zone", "hour"), [("Asia/Tokyo", "09"), ("America/New_York", "19"), ("UTC", "00")])
async def test_the_time_zone_is_that_of_the_variables(session: OpenSession, zone: str, hour: str) -> None:
    code = "import time\nprint(time.strftime('%H', time.localtime(0)))"
    assert (await session.run(code, env={"TZ": zone})).stdout == f"{hour}\n"
    other = "import datetime\nprint(f'{datetime.datetime.fromtimestamp(0):%H}')"
    assert (await session.run(other, env={"TZ": zone})).stdout == f"{hour}\n"
    assert (await session.run(code)).stdout == "00\n", "the variables were those of one run"


async def test_the_locale_is_that_of_the_variables(run: Run) -> None:
    code = "import locale\nprint(locale.setlocale(locale.LC_CTYPE), locale.setlocale(locale.LC_ALL, ''))"
    assert (await run(code, env={"LC_ALL": "C"})).stdout == "C C\n"
    report = await run("import locale\nprint(locale.setlocale(locale.LC_CTYPE))", env={"LC_ALL": "xx_XX.UTF-8"})
    assert report.stdout == "C.UTF-8\n", "one that the image lacks changes nothing"


async def test_what_threads_print_between_runs_comes_with_the_next(session: OpenSession) -> None:
    code = """
import sys, threading, time
def work():
    for i in range(6):
        print('T', i); print('E', i, file=sys.stderr); time.sleep(0.05)
threading.Thread(target=work).start()
"""
    first = await session.run(code)
    await asyncio.sleep(0.6)
    report = await session.run("print('next')")
    assert first.stdout + report.stdout == "".join(f"T {n}\n" for n in range(6)) + "next\n"
    assert first.stderr + report.stderr == "".join(f"E {n}\n" for n in range(6))


async def test_what_background_processes_print_between_runs_comes_with_the_next(session: OpenSession) -> None:
    await session.do(OpenContext(context="shell", language="bash"))
    await session.run("(sleep 0.2; echo late) &", context="shell", language="bash")
    await session.run("import subprocess\nsubprocess.Popen('sleep 0.2; echo late too', shell=True)")
    await asyncio.sleep(0.6)
    assert (await session.run("echo next", context="shell", language="bash")).stdout == "late\nnext\n"
    assert (await session.run("print('next')")).stdout == "late too\nnext\n"


async def test_what_is_printed_between_runs_is_streamed_and_bounded(session: OpenSession) -> None:
    await session.run(LATER.format("print('y' * 5_000_000)"))
    await asyncio.sleep(0.6)
    events: list[OutputEvent] = []
    report = await session.run("print('next')", events.append)
    assert report.outcome is Outcome.OK
    assert report.usage.output_bytes <= 1_100_000
    assert events[0].text.startswith("yyyy")


async def test_what_threads_display_between_runs_comes_with_the_next(session: OpenSession) -> None:
    await session.run(LATER.format("display('late')"), [].append)
    await asyncio.sleep(0.4)
    assert [result.text for result in (await session.run("'next'")).results] == ["'late'", "'next'"]


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.system('sleep 10')",
        "import os\nwhile True: os.system('sleep 0.2')",
        "import os\nfor _ in range(9): os.system('sleep 1; sleep 1')",
        "import subprocess\nsubprocess.run('sleep 10; sleep 10', shell=True)",
        "import subprocess\nsubprocess.run(['sleep', '10'])",
        "import os\nos.popen('sleep 10').read()",
        "!sleep 10",
        "%%bash\nsleep 10",
        "import multiprocessing, time\nwith multiprocessing.Pool(2) as pool: pool.map(time.sleep, [10, 10])",
        "import threading\nthreading.Event().wait(10)",
        "while True: pass",
        "import asyncio\nawait asyncio.sleep(10)",
        "import time\ntime.sleep(10)",
    ],
)
async def test_a_timeout_keeps_the_state_of_a_session(session: OpenSession, code: str) -> None:
    await session.run("x = 1")
    report = await session.run(code, timeout_s=0.7)
    assert report.outcome is Outcome.TIMEOUT
    assert report.usage.wall_s < 2.5
    assert (await session.run("x")).text == "1"


async def test_an_interrupt_reaches_what_the_program_has_started(session: OpenSession) -> None:
    running = asyncio.ensure_future(session.run("x = 1\nimport os\nos.system('sleep 10')"))
    await asyncio.sleep(0.5)
    await session.do(Interrupt())
    report = await running
    assert report.error is not None
    assert report.error.name == "KeyboardInterrupt"
    assert (await session.run("x")).text == "1"


async def test_what_has_detached_itself_is_not_interrupted(session: OpenSession) -> None:
    code = "import subprocess, time\nserver = subprocess.Popen(['sleep', '30'], start_new_session=True)\ntime.sleep(10)"
    assert (await session.run(code, timeout_s=0.5)).outcome is Outcome.TIMEOUT
    assert (await session.run("server.poll()")).results == ()


async def test_cleaning_up_has_a_fair_time(session: OpenSession) -> None:
    code = "import time\nx = 1\ntry: time.sleep(30)\nfinally: time.sleep(1.2); print('cleaned up')"
    report = await session.run(code, timeout_s=0.5)
    assert (report.outcome, report.stdout) == (Outcome.TIMEOUT, "cleaned up\n")
    assert (await session.run("x")).text == "1"


async def test_cpu_time_that_is_used_up_interrupts_too(session: OpenSession) -> None:
    await session.run("x = 1")
    limits = program("pass").limits.model_copy(update={"cpu_s": 0.5})
    report = await session.run("while True: pass", limits=limits)
    assert report.outcome is Outcome.TIMEOUT
    assert "CPU time" in (report.message or "")
    assert (await session.run("x")).text == "1"


@pytest_asyncio.fixture(loop_scope="module")
async def strict() -> AsyncIterator[BackendSandbox]:
    """A sandbox of a deployment with a shorter grace."""
    backend = JailBackend(JailSettings(kill_grace_s=0.1, preload=()), RunLimits())
    await backend.start()
    yield await backend.create()
    await backend.close()


async def test_the_fair_time_is_configurable(strict: BackendSandbox) -> None:
    since = time.monotonic()
    code = "import time\ntry: time.sleep(30)\nfinally: time.sleep(1.2); print('cleaned up')"
    report = await strict.execute(program(code, timeout_s=0.3))
    assert (report.outcome, report.stdout) == (Outcome.TIMEOUT, "")
    assert time.monotonic() - since < 1.2


ERREXIT = {
    "a command": "set -e\nfalse\necho no",
    "in a function": "set -e\nf() { echo in; false; echo no; }\nf\necho no",
    "in a function of a function": "set -euo pipefail\ng() { false; echo no; }\nf() { g; echo no; }\nf\necho no",
    "a status": "set -e\n(exit 7)\necho no",
    "a pipe": "set -eo pipefail\nfalse | true\necho no",
    "a substitution": "set -e\ny=$(false)\necho no",
    "a subshell": "set -e\n(false; echo no)\necho no",
    "of a condition": "set -e\nif false; then echo no; fi\nfalse || echo or\nfalse && echo no\n! true\necho yes",
    "a function in a condition": "set -e\nf() { false; echo in; }\nif f; then echo yes; fi\necho end",
    "the last": "set -e\necho yes\nfalse",
    "switched off": "set -e\nset +e\nfalse\necho yes",
    "a loop": "set -e\nfor i in 1 2 3; do echo $i; [ $i != 2 ]; done\necho no",
    "a test at the end": "set -e\n[ 1 = 2 ] && echo no",
    "an unset variable": "set -euo pipefail\necho $nope\necho no",
    "wrong syntax": "set -e\nif then\necho no",
    "a trap of its own": "set -e\ntrap 'echo failed' ERR\nfalse\necho no",
    "an evaluation": "set -e\neval 'false; echo no'\necho no",
    "a group in a pipe": "set -e\n{ echo a; false; echo no; } | cat\necho end",
    "a command that is not there": "set -e\nno_such_command\necho no",
    "by its name": "set -o errexit\ncd /no/such\necho no",
}


def in_bash(directory: Path, script: str) -> subprocess.CompletedProcess[str]:
    file = directory / "script.sh"
    file.write_text(script)
    return subprocess.run(["bash", file], capture_output=True, text=True, timeout=10, check=False)


@pytest.mark.parametrize("name", ERREXIT)
async def test_errexit_ends_a_program_as_in_bash_and_not_the_session(
    session: OpenSession, tmp_path: Path, name: str
) -> None:
    plain = in_bash(tmp_path, ERREXIT[name])
    await session.do(OpenContext(context="shell", language="bash"))
    await session.run("x=1; cd /tmp", context="shell", language="bash")
    report = await session.run(ERREXIT[name], context="shell", language="bash")
    assert report.stdout == plain.stdout
    assert (report.error.value if report.error else "0") == str(plain.returncode)
    again = await session.run("echo alive $x $PWD; [[ $- == *e* ]] && echo strict", context="shell", language="bash")
    assert again.stdout.splitlines()[0] == "alive 1 /tmp"
    assert ("strict" in again.stdout) == (name != "switched off")


async def test_a_shell_that_had_to_be_followed_keeps_what_it_knew(session: OpenSession) -> None:
    await session.do(OpenContext(context="shell", language="bash"))

    async def bash(code: str, **options: Any) -> str:
        report = await session.run(code, context="shell", language="bash", **options)
        return report.stdout + report.stderr

    await bash("f() { echo in f $1; }; export e='a b'; a=(1 '2 3'); declare -A m=([k]=v); shopt -s extglob; cd /tmp")
    assert "unbound" in await bash("set -eu\necho $nope", env={"only": "once"})
    assert await bash("f x; echo $e ${a[1]} ${m[k]} $PWD $-; shopt extglob; bash -c 'echo $e'; echo ${only-gone}") == (
        "in f x\na b 2 3 v /tmp ehiuBEs\nextglob        \ton\na b\ngone\n"
    )


async def test_an_interrupt_under_errexit_keeps_the_shell(session: OpenSession) -> None:
    await session.do(OpenContext(context="shell", language="bash"))
    report = await session.run("set -e; x=1\nsleep 10", context="shell", language="bash", timeout_s=0.5)
    assert report.outcome is Outcome.TIMEOUT
    assert (await session.run("echo $x", context="shell", language="bash")).stdout == "1\n"
