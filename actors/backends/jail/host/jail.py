"""The host's side of one jail: it is made, asked and ended, and its control group with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
from typing import Any

from actors.backends.jail import messages
from actors.backends.jail.host.jail_server_client import JailServerClient, receive
from actors.backends.jail.kernel import identities
from actors.backends.jail.kernel.cgroup import Group, Parents
from actors.errors import SandboxLost, SandboxStartFailed

BUILD_S = 20.0
REPLY_S = 5.0
DIES_S = 10.0
_NICENESS = 5
"""Leaves the service three times what programs get; for good, since their RLIMIT_NICE is 0."""


class Jail:
    """A jail, which stands while this side's socket is open and its own processes, shim and fork servers, live."""

    def __init__(self, channel: socket.socket, group: Group | None) -> None:
        self._channel, self.group = channel, group
        self._pidfds: list[int] = []
        self.own_id = False
        """Whether the kernel counts it by an id of its own."""
        self._kinds: set[str] = set()
        self._admissions: list[asyncio.Future[None]] = []
        self._requesting, self._adding = asyncio.Lock(), asyncio.Lock()

    @classmethod
    async def make(
        cls, server: JailServerClient, parents: Parents | None, kinds: list[str], cores: float | None = None
    ) -> Jail:
        """Have a jail built with fork servers of some kinds, in a control group of its own if there are any.

        The group's processes keep at most ``cores`` busy.

        Raises:
            SandboxStartFailed: it could not be built; nothing is left of it.
        """
        channel = await server.make_jail(kinds)
        jail: Jail | None = None
        try:
            async with asyncio.timeout(BUILD_S):
                shim = await _reply(channel)
                try:
                    jail = cls(channel, parents.make(cores) if parents else None)
                    jail._pidfds.append(os.pidfd_open(shim["pid"]))
                    jail.own_id = identities.has_own(shim["pid"])
                    for pid in shim["fork_servers"]:
                        jail._admit(pid)
                except (ProcessLookupError, ConnectionError):
                    await _reply(channel)  # it has ended already, and left word why
                    raise
                await _reply(channel)
                jail._kinds.update(kinds)
        except BaseException as error:
            channel.close()
            if jail is not None:
                await jail.abandon()
            if isinstance(error, OSError | TimeoutError):
                raise SandboxStartFailed(f"the jail was not built: {error or 'it took too long'}") from None
            raise
        return jail

    async def ensure_fork_server(self, kind: str) -> None:
        """Have a fork server of this kind started, unless there is one.

        Raises:
            SandboxLost: as ``request``.
        """
        async with self._adding:
            if kind not in self._kinds:
                reply, _ = await self.request({"op": "fork_server", "kind": kind})
                try:
                    self._admit(reply["fork_server"])
                except OSError as error:
                    raise SandboxLost(f"a fork server ended at once: {error}") from None
                self._kinds.add(kind)

    async def admitted(self) -> None:
        """Wait until every fork server is in the control group, since what it forks begins in the group that it is in.

        Raises:
            SandboxLost: one cannot be put there.
        """
        try:
            await asyncio.gather(*self._admissions)
        except OSError as error:
            raise SandboxLost(f"a fork server has no control group: {error}") from None

    def _admit(self, fork_server: int) -> None:
        """Watch a new fork server, and have it put into the control group, which takes the kernel up to 20 ms.

        Where no group shares out processors it is to stand behind the service, as then does all that it forks.
        """
        self._pidfds.append(os.pidfd_open(fork_server))
        if self.group is None or self.group.cpu is None:
            os.setpriority(os.PRIO_PROCESS, fork_server, os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)
        if self.group is not None:
            self._admissions.append(asyncio.ensure_future(asyncio.to_thread(self.group.add, fork_server)))

    async def request(self, message: dict[str, Any], fds: list[int] | None = None) -> tuple[dict[str, Any], list[int]]:
        """Send the shim one request, with copies of ``fds``; return its reply with descriptors.

        Raises:
            SandboxLost: it does not reply, now or ever again.
        """
        try:
            async with self._requesting, asyncio.timeout(REPLY_S):
                messages.send(self._channel, message, fds)
                reply, given = await receive(self._channel)
        except (TimeoutError, OSError):
            reply, given = None, []
        if reply is None:
            raise SandboxLost("the jail does not answer")
        if "failed" in reply:
            raise SandboxLost(f"the jail failed: {reply['failed']}")
        return reply, given

    @property
    def alive(self) -> bool:
        """Whether the shim and all fork servers still run, and so the jail stands."""
        ended = select.poll()  # unlike select.select, takes descriptors of any number
        for pidfd in self._pidfds:
            ended.register(pidfd, select.POLLIN)
        return not ended.poll(0)

    def kill(self) -> None:
        """End the jail at once: everything in it dies with the shim or a fork server."""
        for pidfd in self._pidfds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    async def abandon(self) -> None:
        """End a jail that is being built: its shim finishes first, so that bwrap is not killed half-way."""
        self._channel.close()
        if self._pidfds:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(_end_of(self._pidfds[0]), BUILD_S)
        self.kill()
        await self.close()

    async def close(self) -> None:
        """Wait until the killed jail is gone, and remove its group.

        Raises:
            SandboxLost: it does not die; the kernel holds on to one of its processes.
        """
        self._channel.close()
        try:
            async with asyncio.timeout(DIES_S):
                for pidfd in self._pidfds:
                    await _end_of(pidfd)
        except TimeoutError:
            raise SandboxLost("a killed jail does not end") from None
        finally:
            for pidfd in self._pidfds:
                os.close(pidfd)
            self._pidfds.clear()
        if self.group is not None:
            await asyncio.gather(*self._admissions, return_exceptions=True)
            await self.group.remove()


async def _end_of(pidfd: int) -> None:
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(pidfd)


async def _reply(channel: socket.socket) -> dict[str, Any]:
    reply, _ = await receive(channel)
    if reply is None:
        raise SandboxStartFailed("the jail ended while it was built")
    if "failed" in reply:
        raise SandboxStartFailed(str(reply["failed"]))
    return reply
