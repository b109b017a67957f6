"""A client's side of one jail: made, asked, ended, and its control group with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
from typing import Any

from actors.backends.jail import messages
from actors.backends.jail.host import jail_server_client
from actors.backends.jail.kernel.cgroup import Group, Parents
from actors.errors import SandboxLost, SandboxStartFailed

BUILD_S = 20.0
ANSWER_S = 5.0
DIES_S = 10.0


class Jail:
    """A jail stands while its client's socket is open and its processes, keeper and templates, live."""

    def __init__(self, channel: socket.socket, group: Group | None) -> None:
        self._channel, self.group = channel, group
        self._pidfds: list[int] = []
        self._kinds: set[str] = set()
        self._admissions: list[asyncio.Future[None]] = []
        self._asking, self._adding = asyncio.Lock(), asyncio.Lock()

    @classmethod
    async def make(cls, zygote: jail_server_client.Zygote, parents: Parents | None, kinds: list[str]) -> Jail:
        """Have a jail built, with templates of some kinds, in a control group of its own if there are any.

        Raises:
            SandboxStartFailed: it could not be built; nothing is left of it.
        """
        channel = await zygote.make_jail(kinds)
        jail: Jail | None = None
        try:
            async with asyncio.timeout(BUILD_S):
                born = await _answer(channel)
                try:
                    jail = cls(channel, parents.make() if parents else None)
                    jail._pidfds.append(os.pidfd_open(born["pid"]))
                    for pid in born["templates"]:
                        jail._admit(pid)
                except (ProcessLookupError, ConnectionError):
                    await _answer(channel)  # it has ended already, and left word why
                    raise
                await _answer(channel)
                jail._kinds.update(kinds)
        except BaseException as error:
            channel.close()
            if jail is not None:
                await jail.give_up()
            if isinstance(error, OSError | TimeoutError):
                raise SandboxStartFailed(f"the jail was not built: {error or 'it took too long'}") from None
            raise
        return jail

    async def ensure_template(self, kind: str) -> None:
        """Have a template of this kind inside.

        Raises:
            SandboxLost: as ``ask``.
        """
        async with self._adding:
            if kind not in self._kinds:
                answer, _ = await self.ask({"op": "template", "kind": kind})
                try:
                    self._admit(answer["template"])
                except OSError as error:
                    raise SandboxLost(f"a template ended at once: {error}") from None
                self._kinds.add(kind)

    async def admitted(self) -> None:
        """Wait until every template is in the control group, for interpreters are born into the group that it is in.

        Raises:
            SandboxLost: one cannot be put there.
        """
        try:
            await asyncio.gather(*self._admissions)
        except OSError as error:
            raise SandboxLost(f"a template has no control group: {error}") from None

    def _admit(self, template: int) -> None:
        """Watch a new template, and have it put into the control group, which takes the kernel up to 20 ms."""
        self._pidfds.append(os.pidfd_open(template))
        if self.group is not None:
            self._admissions.append(asyncio.ensure_future(asyncio.to_thread(self.group.add, template)))

    async def ask(self, question: dict[str, Any], fds: list[int] | None = None) -> tuple[dict[str, Any], list[int]]:
        """Put one question to its keeper, with copies of ``fds``.

        Raises:
            SandboxLost: it does not answer, now or ever again.
        """
        try:
            async with self._asking, asyncio.timeout(ANSWER_S):
                messages.send(self._channel, question, fds)
                answer, given = await jail_server_client.receive(self._channel)
        except (TimeoutError, OSError):
            answer, given = None, []
        if answer is None:
            raise SandboxLost("the jail does not answer")
        if "failed" in answer:
            raise SandboxLost(f"the jail failed: {answer['failed']}")
        return answer, given

    @property
    def alive(self) -> bool:
        """Whether it still runs, and so the jail stands."""
        return not select.select(self._pidfds, [], [], 0)[0]

    def kill(self) -> None:
        """End the jail at once: everything in it has asked the kernel to die with one of these."""
        for pidfd in self._pidfds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    async def give_up(self) -> None:
        """End a jail that is being built: its keeper finishes, so that bwrap is not caught half-way, and leaves."""
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


async def _answer(channel: socket.socket) -> dict[str, Any]:
    answer, _ = await jail_server_client.receive(channel)
    if answer is None:
        raise SandboxStartFailed("the jail ended while it was built")
    if "failed" in answer:
        raise SandboxStartFailed(str(answer["failed"]))
    return answer
