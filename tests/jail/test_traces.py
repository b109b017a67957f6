"""What one program leaves for the next one of its user: nothing. Within a session the same traces are found."""

from __future__ import annotations

import asyncio

import pytest

from actors.backends.base import BackendSandbox
from tests.backends import Run, program

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRACES = {
    "a file in the workspace": ("open('left', 'w').write('x')", "__import__('os').path.exists('left')"),
    "a hidden directory": ("import os; os.makedirs('.config/x')", "__import__('os').path.exists('.config')"),
    "a module that shadows a library": (
        "open('statistics.py', 'w').write('poisoned = True')",
        "hasattr(__import__('statistics'), 'poisoned')",
    ),
    "a start-up file of IPython": (
        "import os; os.makedirs('.ipython/profile_default/startup')",
        "__import__('os').path.exists('.ipython')",
    ),
    "a temporary file": ("open('/tmp/left', 'w').write('x')", "__import__('os').path.exists('/tmp/left')"),
    "shared memory": (
        "from multiprocessing import shared_memory as s; m = s.SharedMemory('left', create=True, size=9); m.close()",
        "__import__('os').path.exists('/dev/shm/left')",
    ),
    "a named semaphore": (
        "import ctypes; s = ctypes.CDLL(None).sem_open(b'/left', 0o100, 0o600, 1)",
        "__import__('os').path.exists('/dev/shm/sem.left')",
    ),
    "a process": (
        "import subprocess; p = subprocess.Popen(['sleep', '60'])",
        "len([n for n in __import__('os').listdir('/proc') if n.isdigit()]) > 2",
    ),
    "a process in a session of its own": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.fork() or time.sleep(60)\n    os._exit(0)",
        "len([n for n in __import__('os').listdir('/proc') if n.isdigit()]) > 2",
    ),
    "a server": (
        "import socket; s = socket.create_server(('127.0.0.1', 8000))",
        "__import__('socket').socket().connect_ex(('127.0.0.1', 8000)) == 0",
    ),
    "an abstract socket": (
        "import socket; s = socket.socket(socket.AF_UNIX); s.bind('\\0left'); s.listen()",
        "__import__('socket').socket(1).connect_ex('\\0left') == 0",
    ),
    "an open descriptor": ("import os; os.dup2(1, 200)", "__import__('os').path.exists('/proc/self/fd/200')"),
    "a variable": ("left = 1", "'left' in globals()"),
    "a patched library": ("import math; math.pi = 3", "__import__('math').pi == 3"),
    "a patched builtin": ("import builtins; builtins.left = 1", "hasattr(__import__('builtins'), 'left')"),
    "an import hook": ("import sys; sys.meta_path.insert(0, 5)", "5 in __import__('sys').meta_path"),
    "an environment variable": ("import os; os.environ['LEFT'] = '1'", "'LEFT' in __import__('os').environ"),
    "a working directory": ("import os; os.chdir('/tmp')", "__import__('os').getcwd() == '/tmp'"),
    "a file mask": ("import os; os.umask(0o777)", "__import__('os').umask(0) == 0o777"),
    "a limit": (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (99, 99))",
        "__import__('resource').getrlimit(7)[0] == 99",
    ),
    "a blocked signal": (
        "import signal; signal.pthread_sigmask(0, {signal.SIGUSR1})",
        "10 in __import__('signal').pthread_sigmask(0, [])",
    ),
    "a priority": ("import os; os.nice(7)", "__import__('os').nice(0) >= 7"),
    "an alarm": ("import signal; signal.alarm(600)", "__import__('signal').alarm(0) > 0"),
    "a seed": ("import random; random.seed(1)", "__import__('random').random() == 0.13436424411240122"),
    "a hook of the shell": (
        "get_ipython().events.register('pre_execute', lambda: None)",
        "any('lambda' in str(f) for f in get_ipython().events.callbacks['pre_execute'])",
    ),
}


@pytest.mark.parametrize("trace", TRACES)
@pytest.mark.parametrize("packages", ["", "import numpy\n"], ids=["lean", "loaded"])
async def test_the_next_run_finds_no_trace(run: Run, trace: str, packages: str) -> None:
    leave, look = TRACES[trace]
    # As many of each as there are places that one could have been in.
    for _ in range(2):
        report = await run(packages + leave)
        assert report.outcome == "ok", report.error
    for _ in range(4):
        assert (await run(packages + look)).text == "False"


@pytest.mark.parametrize("trace", TRACES)
async def test_the_next_program_of_a_session_finds_it(run: Run, sandbox: BackendSandbox, trace: str) -> None:
    leave, look = TRACES[trace]
    await sandbox.open_session("s")
    report = await run(leave, session="s")
    assert report.outcome == "ok", report.error
    assert (await run(look, session="s")).text == "True"


async def test_runs_at_the_same_time_do_not_meet(sandbox: BackendSandbox) -> None:
    """In the files, by the network or by their numbers."""
    code = (
        "import os, socket, time\n"
        "open('/tmp/mine', 'x').write('{0}')\n"
        "server = socket.create_server(('127.0.0.1', 8000))\n"
        "time.sleep(0.2)\n"
        "open('/tmp/mine').read(), len([n for n in os.listdir('/proc') if n.isdigit()])"
    )
    reports = await asyncio.gather(*(sandbox.execute(program(code.format(n))) for n in range(4)))
    assert [report.text for report in reports] == [f"('{n}', 2)" for n in range(4)]
