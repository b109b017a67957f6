"""Memory that the kernel holds for a program and does not count as its own is counted all the same, or bounded."""

from __future__ import annotations

import pytest

from actors.backends.jail.kernel import cgroup
from actors.schemas import Outcome
from tests.backends import OpenSession, Run
from tests.jail.attacks import small

pytestmark = pytest.mark.asyncio(loop_scope="module")
_POLLED = pytest.mark.skipif(cgroup.find() is not None, reason="a control group counts it")
LIMITS = small(memory_mib=128, processes=64)
SOCKETS = """
import os, socket, time
def fill():
    kept = []
    try:
        while len(kept) < 480:
            pair = socket.socketpair()
            kept.append(pair)
            for end in pair:
                end.setblocking(False)
                try:
                    while True: end.send(bytes(32768))
                except BlockingIOError: pass
    except OSError: pass
    time.sleep(30)
for _ in range(12):
    if os.fork() == 0: fill()
time.sleep(5)
print("survived")
"""
TABLES = """
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
def touch(gib):
    at = libc.mmap(None, gib << 30, 1, 0x4022, -1, 0)  # to read, private, of nobody, and not reserved
    if at in (None, 2**64 - 1): return print("refused")
    libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(gib << 30), 15)  # no huge pages
    for page in range(at, at + (gib << 30), 2 << 20): ctypes.c_char.from_address(page).value
    time.sleep(5)
"""
SHARED = """
import mmap, os, time
fd = os.open("/tmp/memfd:heap", os.O_CREAT | os.O_RDWR)  # as the heap is called that is taken off
os.ftruncate(fd, 10 << 20)
os.unlink("/tmp/memfd:heap")
kept = [mmap.mmap(fd, 10 << 20, mmap.MAP_SHARED, mmap.PROT_READ) for _ in range(100)]
held = mmap.mmap(-1, 400 << 20)
for at in range(0, 400 << 20, 4096): held[at] = 1
time.sleep(2)
print("survived")
"""
CONNECTIONS = """
import socket, time
server = socket.create_server(("127.0.0.1", 0), backlog=500)
kept = []
try:
    while len(kept) < 800:
        client = socket.create_connection(server.getsockname())
        kept += [client, server.accept()[0]]
except OSError: pass
sent, ends_at = 0, time.monotonic() + 3
for end in kept: end.setblocking(False)
while time.monotonic() < ends_at:
    for end in kept:
        try: sent += end.send(bytes(65536))
        except OSError: pass
print(sent >> 20)
"""


def in_shell(code: str) -> str:
    """A program whose limits leave room for what runtimes reserve."""
    return f"python3 - <<'END'\n{code}\nEND"


@_POLLED
async def test_buffers_of_many_sockets_are_counted(run: Run) -> None:
    report = await run(SOCKETS, limits=LIMITS)
    assert report.outcome is Outcome.OUT_OF_MEMORY, report
    assert "survived" not in report.stdout


async def test_some_sockets_are_no_memory(run: Run) -> None:
    code = "import socket\nkept = [socket.socket() for _ in range(90)]\nimport time; time.sleep(1)"
    assert (await run(code, limits=LIMITS)).outcome is Outcome.OK


@_POLLED
async def test_page_tables_are_counted(run: Run) -> None:
    code = f"{TABLES}\nfor _ in range(11):\n    if os.fork() == 0: touch(30); os._exit(0)\ntouch(30)"
    assert (await run(in_shell(code), language="bash", limits=LIMITS)).outcome is Outcome.OUT_OF_MEMORY


@_POLLED
async def test_nobody_has_addresses_without_end(run: Run, session: OpenSession) -> None:
    code = f"{TABLES}\ntouch(640)"
    assert (await run(in_shell(code), language="bash", limits=LIMITS)).stdout == "refused\n"
    assert (await session.command(in_shell(code))).stdout == "refused\n"


async def test_shared_memory_is_counted_beside_what_looks_like_the_heap(run: Run) -> None:
    report = await run(in_shell(SHARED), language="bash", limits=LIMITS)
    assert "survived" not in report.stdout
    assert report.outcome in (Outcome.OUT_OF_MEMORY, Outcome.ERROR), report


async def test_buffers_of_connections_stay_small(run: Run) -> None:
    report = await run(CONNECTIONS, limits=LIMITS)
    assert report.outcome is Outcome.OUT_OF_MEMORY or int(report.stdout) < 200, report.stdout


@_POLLED
async def test_what_is_not_counted_is_bounded_by_descriptors(run: Run) -> None:
    code = "import resource\nprint(resource.getrlimit(resource.RLIMIT_NOFILE))"
    assert (await run(code, limits=small(memory_mib=128))).stdout == "(256, 256)\n"
    assert (await run(code, limits=small(memory_mib=2048))).stdout == "(1024, 1024)\n"
