"""A client's side of one jail's template: made, asked, ended, and its control group with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
from typing import Any

from actors.backends.jail import client, messages
from actors.backends.jail.cgroup import Group, Parents
from actors.errors import SandboxLost, SandboxStartFailed

BUILD_S = 20.0
ANSWER_S = 5.0


class Template:
    """The process that forks the runs of one jail. While the socket is open the jail stands."""

    def __init__(self, channel: socket.socket, pidfd: int, group: Group | None) -> None:
        self._channel, self._pidfd, self.group = channel, pidfd, group
        self._asking = asyncio.Lock()

    @classmethod
    async def make(cls, zygote: client.Zygote, parents: Parents | None) -> Template:
        """Have a jail built, in a control group of its own if there are any.

        Raises:
            SandboxStartFailed: it could not be built; nothing is left of it.
        """
        channel = await zygote.make_jail()
        template: Template | None = None
        try:
            async with asyncio.timeout(BUILD_S):
                born = await _answer(channel)
                try:
                    template = cls(channel, os.pidfd_open(born["pid"]), parents.make() if parents else None)
                    if template.group is not None:
                        # Takes the kernel up to 10 ms, in which the walls go up.
                        await asyncio.to_thread(template.group.add, born["pid"])
                    messages.send(channel, {"op": "go"})
                    await _answer(channel)
                except (ProcessLookupError, ConnectionError):
                    await _answer(channel)  # it has ended already, and left word why
                    raise
        except BaseException as error:
            channel.close()
            if template is not None:
                template.kill()
                await template.close()
            if isinstance(error, OSError | TimeoutError):
                raise SandboxStartFailed(f"the jail was not built: {error or 'it took too long'}") from None
            raise
        return template

    async def ask(self, question: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """Put one question to it.

        Raises:
            SandboxLost: it does not answer, now or ever again.
        """
        try:
            async with self._asking, asyncio.timeout(ANSWER_S):
                messages.send(self._channel, question)
                answer, fds = await client.receive(self._channel)
        except (TimeoutError, OSError):
            answer, fds = None, []
        if answer is None:
            raise SandboxLost("the jail does not answer")
        if "failed" in answer:
            raise SandboxLost(f"the jail failed: {answer['failed']}")
        return answer, fds

    @property
    def alive(self) -> bool:
        """Whether it still runs, and so the jail stands."""
        return not select.select([self._pidfd], [], [], 0)[0]

    def kill(self) -> None:
        """End the jail at once: everything in it has asked the kernel to die with this process."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def close(self) -> None:
        """Wait until the killed jail is gone, and remove its group."""
        self._channel.close()
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pidfd, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        if self.group is not None:
            await self.group.remove()


async def _answer(channel: socket.socket) -> dict[str, Any]:
    answer, _ = await client.receive(channel)
    if answer is None:
        raise SandboxStartFailed("the jail ended while it was built")
    if "failed" in answer:
        raise SandboxStartFailed(str(answer["failed"]))
    return answer
