"""What the kernel counts by account: a program that takes all it can leaves enough for those of other jails."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from actors.backends.base import BackendSandbox
from actors.backends.jail import JailBackend
from tests.backends import open_forkable, program
from tests.jail import processes

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROOT = os.geteuid() == 0
_PREPARED = """
import array, ctypes, fcntl, os, socket, time
libc = ctypes.CDLL(None, use_errno=True)
kept = []
def send(sender, files): sender.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))])
"""
_TAKE = {
    "inotify instances": "while libc.inotify_init() >= 0: pass",
    "timers": "while libc.timer_create(0, None, ctypes.byref(ctypes.c_void_p())) == 0: pass",
    "descriptors in flight": """
for number in (250, 1):
    try:
        while True:
            kept.append(socket.socketpair())
            for _ in range(200 // number + 1): send(kept[-1][0], [0] * number)
    except OSError: pass
""",
    "pages of pipes": """
try:
    while True:
        kept.append(os.pipe())
        fcntl.fcntl(kept[-1][1], 1031, 2**18)
except OSError: pass
""",
    "watched descriptors": """
polls = [__import__("select").epoll() for _ in range(400)]
try:
    while True:
        kept.append(os.dup(1))
        for poll in polls: poll.register(kept[-1])
except OSError: pass
""",
}
_NEED = {
    "inotify instances": "print('refused' if libc.inotify_init() < 0 else 'granted')",
    "timers": "print('refused' if libc.timer_create(0, None, ctypes.byref(ctypes.c_void_p())) else 'granted')",
    "descriptors in flight": """
pair = socket.socketpair()
try: send(pair[0], [0]); print('granted')
except OSError: print('refused')
""",
    "pages of pipes": "print('granted' if fcntl.fcntl(os.pipe()[1], 1032) == 65536 else 'refused')",
    "watched descriptors": """
try: __import__("select").epoll().register(1); print('granted')
except OSError: print('refused')
""",
}
_BY_ID = ("descriptors in flight", "pages of pipes", "watched descriptors")
"""What the kernel counts for an id wherever it is; only root can give each jail its own."""


@pytest_asyncio.fixture(loop_scope="module")
async def two(backend: JailBackend) -> AsyncIterator[list[BackendSandbox]]:
    made = [await backend.create(), await backend.create()]
    yield made
    for sandbox in made:
        await sandbox.close()


@pytest.mark.parametrize("what", _TAKE)
async def test_what_one_jail_takes_another_still_gets(two: list[BackendSandbox], what: str) -> None:
    if what in _BY_ID and not ROOT:
        pytest.skip("jails of an ordinary account have its id")
    taken = asyncio.Event()
    hold = f"{_PREPARED}{_TAKE[what]}\nprint('taken', flush=True)\ntime.sleep(2)"
    holding = asyncio.ensure_future(two[0].execute(program(hold), lambda _: taken.set()))
    async with asyncio.timeout(20):
        await taken.wait()
    for _ in range(3):
        assert (await two[1].execute(program(_PREPARED + _NEED[what]))).stdout == "granted\n"
    assert not holding.done()
    await holding


@pytest.mark.skipif(not ROOT, reason="only root can give ids")
async def test_each_jail_has_an_id_of_its_own(backend: JailBackend, two: list[BackendSandbox]) -> None:
    for sandbox in two:
        await sandbox.execute(program("1"))
    uids: dict[str, set[int]] = {}
    for pid in processes.below(backend.server_pid):
        uids.setdefault(processes.name(pid), set()).add(os.stat(f"/proc/{pid}").st_uid)
    assert len(uids["jail-shim"]) >= 2
    assert min(uids["jail-shim"]) > 2_000_000_000
    assert uids["jail-forkserver"] == uids["jail-init"] == uids["jail-shim"]
    assert uids["zygote-lean"] == {65534}


async def test_a_jail_has_few_terminals(two: list[BackendSandbox]) -> None:
    code = """
import os
opened = 0
for _ in range(3):
    try:
        while opened < 200:
            os.openpty()
            opened += 1
    except OSError: pass
print(opened)
"""
    assert int((await two[0].execute(program(code))).stdout) <= 64
    assert int((await two[1].execute(program(code))).stdout) >= 60, "of its own"


async def test_a_session_that_forks_has_no_filters_compiled_either(sandbox: BackendSandbox) -> None:
    origin = await open_forkable(sandbox)
    code = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
instruction = ctypes.create_string_buffer(bytes.fromhex("060000000000ff7f"))
program = (1).to_bytes(8, "little") + ctypes.addressof(instruction).to_bytes(8, "little")
print(libc.prctl(22, 2, program), ctypes.get_errno())
"""
    [fork] = await origin.fork("fork")
    assert [(await each.run(code)).stdout for each in (origin, fork)] == ["-1 22\n"] * 2


async def test_programs_may_not_raise_their_limits(two: list[BackendSandbox]) -> None:
    code = """
import resource
wanted = {"NOFILE": 1024, "SIGPENDING": 1024, "MEMLOCK": 65536, "MSGQUEUE": 0, "NICE": 0, "RTPRIO": 0, "CORE": 0}
for name, most in wanted.items():
    which = getattr(resource, f"RLIMIT_{name}")
    assert max(resource.getrlimit(which)) <= most, (name, resource.getrlimit(which))
    try: resource.setrlimit(which, (most + 1, most + 1))
    except ValueError: continue
    print(name)
"""
    report = await two[0].execute(program(code))
    assert (report.outcome, report.stdout) == ("ok", ""), report.error


async def test_every_result_says_what_is_not_counted(backend: JailBackend, two: list[BackendSandbox]) -> None:
    isolation = (await two[0].execute(program("1"))).isolation
    assert isolation is not None
    assert ("in flight" in isolation) == (not ROOT)
    assert str(backend.coverage) in isolation
