"""Forks of a session meet neither each other nor their origin through what the preparation held open."""

from __future__ import annotations

import pytest

from actors.backends.base import BackendSandbox
from actors.schemas import Outcome
from tests.backends import OpenSession, open_forkable

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def ok(session: OpenSession, code: str) -> str:
    report = await session.run(code)
    assert report.outcome is Outcome.OK, report.error
    return report.stdout


async def prepared(sandbox: BackendSandbox, code: str) -> tuple[OpenSession, OpenSession, OpenSession]:
    origin = await open_forkable(sandbox)
    await ok(origin, code)
    one, other = await origin.fork("one", "other")
    return origin, one, other


async def test_an_open_file_is_each_forks_own_copy(sandbox: BackendSandbox) -> None:
    code = "log = open('log.txt', 'w+')\nlog.write('start ')\nlog.flush()"
    origin, one, other = await prepared(sandbox, code)
    for session, name in ((one, "one"), (other, "other"), (origin, "origin")):
        await ok(session, f"log.write({name!r})\nlog.flush()")
    for session, name in ((one, "one"), (other, "other"), (origin, "origin")):
        look = "print(open('log.txt').read(), log.seek(0), log.read())"
        assert await ok(session, look) == f"start {name} 0 start {name}\n"


async def test_positions_modes_and_twins_are_kept(sandbox: BackendSandbox) -> None:
    code = """
import os
open('data', 'wb').write(bytes(range(100)))
fd = os.open('data', os.O_RDWR); os.lseek(fd, 10, 0)
twin = os.dup(fd)
apart = os.open('data', os.O_RDWR); os.lseek(apart, 10, 0)
appending = open('data', 'ab')
os.set_inheritable(fd, True)
"""
    _, one, other = await prepared(sandbox, code)
    look = """
read = os.read(fd, 5)
print(list(read), os.lseek(twin, 0, 1), os.lseek(apart, 0, 1), os.get_inheritable(fd), os.get_inheritable(twin))
appending.write(b'!'); appending.flush()
print(os.stat('data').st_size)
"""
    for session in (one, other):
        assert await ok(session, look) == "[10, 11, 12, 13, 14] 15 10 True False\n101\n"


async def test_a_file_without_a_name_is_copied_too(sandbox: BackendSandbox) -> None:
    code = """
import os, tempfile
unnamed = tempfile.TemporaryFile(); unnamed.write(b'kept'); unnamed.flush()
removed = open('removed', 'w+'); removed.write('text'); removed.flush(); os.remove('removed')
"""
    origin, one, other = await prepared(sandbox, code)
    change = "unnamed.write(b'{0}'); unnamed.flush(); removed.write('{0}'); removed.flush()"
    for session, name in ((one, "1"), (other, "2"), (origin, "3")):
        await ok(session, change.format(name))
    for session, name in ((one, "1"), (other, "2"), (origin, "3")):
        look = "unnamed.seek(0); removed.seek(0); print(unnamed.read(), removed.read())"
        assert await ok(session, look) == f"b'kept{name}' text{name}\n"
        assert await ok(session, "print([name for name in os.listdir('/tmp') if 'inherited' in name])") == "[]\n"


async def test_a_database_is_each_forks_own(sandbox: BackendSandbox) -> None:
    code = "import sqlite3\ndb = sqlite3.connect('a.db')\ndb.execute('create table t (n)')\ndb.commit()"
    origin, one, other = await prepared(sandbox, code)
    for session in (one, other, origin):
        change = "db.execute('insert into t values (1)'); db.commit(); print(*db.execute('select * from t'))"
        assert await ok(session, change) == "(1,)\n"


async def test_a_pipe_has_what_was_in_it_and_leads_to_nobody_else(sandbox: BackendSandbox) -> None:
    code = """
import os
r, w = os.pipe(); os.write(w, b'before ')
half_r, closed = os.pipe(); os.write(closed, b'gone'); keeper = os.fork()
if keeper == 0:
    import time; time.sleep(600)
os.close(closed)
"""
    origin, one, other = await prepared(sandbox, code)
    for session, name in ((one, "1"), (other, "2"), (origin, "3")):
        assert await ok(session, f"os.write(w, b'{name}'); print(os.read(r, 99))") == f"b'before {name}'\n"
    assert await ok(one, "print(os.read(half_r, 9))") == "b''\n"
    await ok(origin, "os.kill(keeper, 9); os.waitpid(keeper, 0)")


async def test_sockets_lead_nowhere(sandbox: BackendSandbox) -> None:
    code = """
import socket
a, b = socket.socketpair()
server = socket.create_server(('127.0.0.1', 0)); port = server.getsockname()[1]
client = socket.create_connection(('127.0.0.1', port)); taken, _ = server.accept()
"""
    origin, one, other = await prepared(sandbox, code)
    for call in ("a.send(b'x')", "client.send(b'x')", "server.accept()", "taken.recv(1)", "b.recv(1)"):
        assert (
            await one.run(f"for s in (a, b, server, client, taken): s.settimeout(1)\n{call}")
        ).outcome is Outcome.ERROR
    look = "for s in (b, taken): s.settimeout(0.2)\ntry: print(b.recv(9))\nexcept TimeoutError: print('nothing')"
    assert await ok(origin, look) == "nothing\n"
    made = "server.bind(('127.0.0.1', 0)); server.listen(); print(server.getsockname()[1] > 0)"
    assert await ok(other, made) == "True\n"


async def test_shared_memory_is_each_forks_own(sandbox: BackendSandbox) -> None:
    code = """
import ctypes, mmap, multiprocessing as mp
from multiprocessing import shared_memory
anonymous = mmap.mmap(-1, 10_000_000); anonymous[:3] = b'old'; anonymous[9_000_000] = 7
open('mapped', 'wb').write(b'old' + bytes(9_997))
file = open('mapped', 'r+b'); mapped = mmap.mmap(file.fileno(), 0)
value = mp.Value('i', 41); lock = mp.Lock()
block = shared_memory.SharedMemory(create=True, size=100); block.buf[0] = 1
"""
    origin, one, other = await prepared(sandbox, code)
    change = """
assert anonymous[:3] == mapped[:3] == b'old' and anonymous[9_000_000] == 7 and value.value == 41 and block.buf[0] == 1
anonymous[:3] = mapped[:3] = b'{0}'; value.value += {1}; block.buf[0] += {1}
mapped.flush()
"""
    for session, name, number in ((one, "one", 1), (other, "two", 2), (origin, "own", 3)):
        await ok(session, change.format(name, number))
    look = """
import os
with lock: value.value += 1
pid = os.fork()
if pid == 0:
    value.value += 99
    os._exit(0)
os.waitpid(pid, 0)
print(anonymous[:3].decode(), mapped[:3].decode(), open('mapped', 'rb').read(3).decode(), value.value, block.buf[0])
"""
    for session, name, number in ((one, "one", 1), (other, "two", 2), (origin, "own", 3)):
        assert await ok(session, look) == f"{name} {name} {name} {141 + number} {1 + number}\n"


async def test_copies_of_the_outputs_lead_to_the_forks_own(sandbox: BackendSandbox) -> None:
    origin, one, _ = await prepared(sandbox, "import os, sys\nout = os.dup(1); error = os.dup(2)")
    report = await one.run("os.write(out, b'mine\\n'); os.write(error, b'mine too\\n')")
    assert (report.stdout, report.stderr) == ("mine\n", "mine too\n")
    report = await origin.run("print('origin')")
    assert (report.stdout, report.stderr) == ("origin\n", "")


async def test_awaiting_goes_on_in_forks_and_origin(sandbox: BackendSandbox) -> None:
    code = "import asyncio\nawait asyncio.sleep(0)\nloop = asyncio.new_event_loop()"
    origin, one, other = await prepared(sandbox, code)
    wait = "print(await asyncio.wait_for(asyncio.to_thread(lambda: 5), 5))"
    for session in (one, other, origin, one):
        assert await ok(session, wait) == "5\n"
    await ok(one, "loop.close()")
    assert await ok(origin, "print(loop.run_until_complete(asyncio.sleep(0, 'ran')))") == "ran\n"


async def test_terminals_lead_nowhere_and_devices_stay(sandbox: BackendSandbox) -> None:
    code = "import os\nmain, end = os.openpty()\nnull = open('/dev/null', 'r+b', 0); zero = open('/dev/zero', 'rb')"
    origin, one, _ = await prepared(sandbox, code)
    await ok(one, "os.write(main, b'x\\n'); print(zero.read(2), null.read(1))")
    look = "import select\nprint(select.select([end, main], [], [], 0.2)[0])"
    assert await ok(origin, look) == "[]\n"
