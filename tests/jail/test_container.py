"""The host's side of a container, with an init that the test plays."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from actors.backends.jail import fork_protocol, frames, messages
from actors.backends.jail.host.container import Container
from actors.backends.jail.host.jail_server_client import receive
from actors.backends.jail.kinds import LEAN
from actors.errors import SandboxStartFailed

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Init:
    """The other end of a container's control socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        control.setblocking(False)

    async def take_start(self) -> tuple[int, int]:
        """Return the number of the next process to start, and its end of the pipe for its answers."""
        while True:
            request, fds = await receive(self._control)
            assert request is not None
            if request["op"] == "start":
                for fd in (fds[0], *fds[2:]):
                    os.close(fd)
                return request["number"], fds[1]

    def say(self, event: dict[str, object], fds: list[int] | None = None) -> None:
        messages.send(self._control, event, fds)


@pytest_asyncio.fixture(loop_scope="module")
async def made() -> AsyncIterator[tuple[Container, Init]]:
    process = await asyncio.create_subprocess_exec("sleep", "60")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    container, init = Container(LEAN, ours, os.pidfd_open(process.pid)), Init(theirs)
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    init.say({"made": True}, [proc])
    os.close(proc)
    await container.open()
    container.share()
    yield container, init
    await container.close()
    await process.wait()
    theirs.close()


async def test_a_process_that_does_not_start_takes_no_other_along(made: tuple[Container, Init]) -> None:
    container, init = made
    starting = [asyncio.ensure_future(container.start_process(fork_protocol.INTERPRETER)) for _ in range(2)]
    (first, first_end), (second, second_end) = await init.take_start(), await init.take_start()
    init.say({"failed": "no room", "number": first})
    with pytest.raises(SandboxStartFailed, match="no room"):
        await starting[0]
    os.write(second_end, frames.encode({"kind": "ready"}))
    process = await asyncio.wait_for(starting[1], 5)
    assert (process.number, process.ended) == (second, False)
    for fd in (first_end, second_end):
        os.close(fd)
