"""The ends of programs, and their main module, where a script in plain CPython is no measure; the rest is compared."""

from __future__ import annotations

import time

import pytest

from actors.schemas import Outcome
from tests.backends import OpenSession, Run

pytestmark = pytest.mark.asyncio(loop_scope="module")
ENDLESS_THREAD = (
    "import threading, time\nthreading.Thread(target=lambda: [time.sleep(0.01) for _ in iter(int, 1)]).start()"
)


async def test_a_thread_that_never_ends_is_out_of_time(run: Run) -> None:
    started_at = time.monotonic()
    report = await run(f"{ENDLESS_THREAD}\nprint('main')", timeout_s=0.5)
    assert (report.outcome, report.stdout, report.exit_status) == (Outcome.TIMEOUT, "main\n", None)
    assert time.monotonic() - started_at < 5


async def test_a_finalizer_that_never_ends_is_out_of_time(run: Run) -> None:
    code = "class A:\n    def __del__(self):\n        while True: pass\na = A()"
    assert (await run(code, timeout_s=0.5)).outcome is Outcome.TIMEOUT


async def test_the_output_of_a_thread_counts_after_the_last_statement(run: Run) -> None:
    code = "import threading\nthreading.Timer(0.05, lambda: open('late', 'w').write('x')).start()"
    assert (await run(code, outputs=("late",))).files == {"late": b"x"}


async def test_a_file_that_was_not_closed_is_among_the_outputs(run: Run) -> None:
    assert (await run("f = open('o.txt', 'w')\nf.write('hello');", outputs=("o.txt",))).files == {"o.txt": b"hello"}


@pytest.mark.parametrize(
    "code",
    [
        "import gc\ngc.collect = gc.get_objects = None",
        "import threading\nthreading._shutdown = None",
        "import atexit\natexit._run_exitfuncs = atexit._ncallbacks = None",
        "import sys\nsys.stdout = sys.stderr = None\nclass A:\n    def __del__(self): pass\na = A()",
        "import sys\nsys.modules.clear()",
        "import sys\ndel sys.modules['__main__']",
        "class M(type):\n    def mro(cls): return [cls, object]\nclass A(metaclass=M): pass\na = A()",
    ],
)
async def test_whatever_a_program_breaks_it_ends(run: Run, code: str) -> None:
    report = await run(f"print('before')\n{code}", timeout_s=5.0)
    assert report.outcome in (Outcome.OK, Outcome.ERROR, Outcome.CRASHED)
    assert report.stdout == "before\n"


async def test_a_session_does_not_wait_for_threads(session: OpenSession) -> None:
    started_at = time.monotonic()
    assert (await session.run(ENDLESS_THREAD)).outcome is Outcome.OK
    assert time.monotonic() - started_at < 5
    assert (await session.run("import atexit, weakref\natexit.register(print, 'never')")).outcome is Outcome.OK
    report = await session.run("class A:\n    def __del__(self): print('del')\na = A()\nf = open('f', 'w')")
    assert (report.outcome, report.stdout) == (Outcome.OK, "")
    assert (await session.run("f.write('x'); a is not None")).text == "True"


async def test_a_session_tells_exits_and_lives_on(session: OpenSession) -> None:
    report = await session.run("x = 1\nexit(3)")
    assert (report.outcome, report.exit_status) == (Outcome.ERROR, 3)
    assert (await session.run("exit()")).outcome is Outcome.OK
    report = await session.run("x")
    assert (report.text, report.exit_status) == ("1", 0)


async def test_a_fork_that_goes_on_ends_by_itself(session: OpenSession) -> None:
    code = "import os\npid = os.fork()\nif pid: print(os.waitpid(pid, 0)[1])\nelse: 1 / 0"
    report = await session.run(code)
    assert (report.outcome, report.stdout) == (Outcome.OK, "256\n")
    assert "ZeroDivisionError" in report.stderr


async def test_the_main_module_of_a_session_is_a_notebooks(session: OpenSession) -> None:
    assert (await session.run("__name__, __doc__, __spec__, '__file__' in globals()")).text == (
        "('__main__', None, None, False)"
    )
    assert (await session.run("%reset -f\n__spec__ is None")).text == "True"
    assert (await session.run("import sys\nsys.argv")).text == "['']"
    assert "built-in function len" in (await session.run("help(len)")).stdout


async def test_a_program_that_says_nothing_of_its_file_has_none_in_the_workspace(run: Run) -> None:
    assert (await run("import os\nprint(os.listdir())")).stdout == "[]\n"
    assert (await run("import os\nprint(__file__, os.listdir())")).stdout == "/home/user/program.py ['program.py']\n"
    report = await run("print(open(__file__).read())", files={"program.py": b"mine"}, outputs=("program.py",))
    assert (report.stdout, report.files) == ("print(open(__file__).read())\n", {"program.py": b"mine"})


TEST_FILE = "open('test_a.py', 'w').write('def test_a():\\n    assert 1 + 1 == 2\\n')\n"


async def test_pytest_runs_as_a_module(run: Run) -> None:
    code = (
        "import subprocess, sys\n"
        f"{TEST_FILE}"
        "r = subprocess.run([sys.executable, '-m', 'pytest', '-q', 'test_a.py'], capture_output=True, text=True)\n"
        "print(r.returncode, '1 passed' in r.stdout)"
    )
    assert (await run(code, timeout_s=60.0)).stdout == "0 True\n"


async def test_pytest_runs_in_the_program_itself(run: Run) -> None:
    report = await run(f"{TEST_FILE}import pytest\nprint(pytest.main(['-q', 'test_a.py']))", timeout_s=60.0)
    assert report.stdout.splitlines()[-1] == "0", report.stdout
    assert "1 passed" in report.stdout


async def test_input_of_which_the_size_is_asked_may_be_larger_than_a_pipe(run: Run) -> None:
    report = await run("import os\nprint(len(os.read(0, os.fstat(0).st_size)))", stdin=b"x" * 1_000_000)
    assert report.stdout == "1000000\n"
