"""Hostile forks: a session's interpreter that forks itself badly, or follows its fork, gains nothing."""

from __future__ import annotations

import pytest

from actors.backends.base import BackendSandbox
from actors.errors import SandboxStartFailed, UnknownSession
from actors.schemas import Outcome
from tests.backends import OpenSession, open_forkable, program

pytestmark = pytest.mark.asyncio(loop_scope="module")

_MODULES = """
import sys
frame = sys._getframe()
while 'fork' not in frame.f_globals: frame = frame.f_back
forks = frame.f_globals['fork']
"""


@pytest.mark.parametrize(
    "tampering",
    [
        "forks.namespaces.drop_capabilities = lambda: None",
        "forks._enter = lambda *_: None",
        "forks._enter = lambda *_: __import__('os')._exit(0)",
        "forks.fork = lambda given: None",
        "forks.fork = lambda given: __import__('time').sleep(60)",
        "enter = forks._enter\ndef two(*a):\n    enter(*a)\n    __import__('os').fork()\nforks._enter = two",
        "forks.namespaces.join_namespace = lambda *_: None",
        "forks.os.setpgid = lambda *_: None",
    ],
)
async def test_a_fork_that_is_not_locked_in_its_own_container_is_refused(
    sandbox: BackendSandbox, tampering: str
) -> None:
    origin = await open_forkable(sandbox)
    prepared = await origin.run(_MODULES + tampering)
    assert prepared.outcome is Outcome.OK, prepared.error
    with pytest.raises(SandboxStartFailed):
        await origin.fork("fork")
    with pytest.raises(UnknownSession):
        await OpenSession(sandbox, "fork").run("1")
    assert (await sandbox.execute(program("1 + 1"))).text == "2"


async def test_a_signal_to_its_process_group_ends_a_session_alone(sandbox: BackendSandbox) -> None:
    """Nothing else keeps signals of a forkable session in, where Landlock scopes none."""
    origin = await open_forkable(sandbox)
    [fork] = await origin.fork("fork")
    for session in (fork, origin):
        killed = await session.run("import os\nos.kill(0, 9)")
        assert killed.outcome is Outcome.CRASHED
    assert (await sandbox.execute(program("1 + 1"))).text == "2"


_STEP_IN = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
entered = []
for name in os.listdir('/proc'):
    if name.isdigit() and os.fork() == 0:
        try:
            spaces = [os.open(f'/proc/{name}/ns/{kind}', os.O_RDONLY) for kind in ('user', 'net', 'ipc', 'mnt')]
            if [libc.setns(space, 0) for space in spaces] == [0] * 4:
                open('/tmp/entered', 'w')
                attempt()
        except OSError:
            pass
        os._exit(0)
while True:
    try: os.wait()
    except ChildProcessError: break
"""


@pytest.mark.parametrize(
    "attempt",
    [
        "open('/tmp/won', 'w') if libc.mount(b'none', b'/tmp', b'tmpfs', 0, 0) == 0 else 0",
        "open('/tmp/won', 'w') if libc.unshare(0x10000000) == 0 else 0",
        "open('/tmp/won', 'w') if libc.umount2(b'/tmp', 2) == 0 else 0",
        "import socket; socket.socket(16, 3, 0); open('/tmp/won', 'w')",
        "import socket; socket.socket(17, 3, 0); open('/tmp/won', 'w')",
        "import socket; s = socket.socket(); s.setsockopt(0, 64, bytes(96)); open('/tmp/won', 'w')",
        "import socket; s = socket.socket(10); s.setsockopt(41, 64, bytes(96)); open('/tmp/won', 'w')",
        # Its own network's settings are its own; these are the machine's.
        "open('/proc/sys/vm/overcommit_memory', 'w').write('1'); open('/tmp/won', 'w')",
        "open('/proc/sysrq-trigger', 'w').write('h'); open('/tmp/won', 'w')",
        "open('/proc/sys/kernel/hostname', 'w').write('won'); open('/tmp/won', 'w')",
        "os.chroot('/tmp'); open('/tmp/won', 'w')",
        "open('/usr/won', 'w')",
        "os.remount = libc.syscall(442, -100, b'/', 0, 0, 0); open('/tmp/won', 'w') if os.remount == 0 else 0",
    ],
)
async def test_an_origin_that_steps_into_its_fork_gains_nothing(sandbox: BackendSandbox, attempt: str) -> None:
    """It holds capabilities there, over namespaces that no other user is in; the calls that need them are refused."""
    origin = await open_forkable(sandbox)
    [fork] = await origin.fork("fork")
    await origin.run(f"{_STEP_IN.replace('attempt()', attempt)}")
    assert (await fork.run("import os\nos.path.exists('/tmp/entered')")).text == "True", "it did get in"
    for there in (origin, fork):
        assert (
            await there.run("import os\nos.path.exists('/tmp/won'), os.path.exists('/usr/won')")
        ).text == "(False, False)"
