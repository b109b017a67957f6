"""The containers of one jail: some are kept ready for the next program, and those that have ended are cleaned up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Coroutine
from typing import Any

from actors.backends.jail.host.container import Container
from actors.backends.jail.host.jail import Jail
from actors.errors import SandboxFailed, SandboxStartFailed

PROMPT_S = 0.2
"""How long live fork servers may take to reap what was killed."""
ENDING_S = 1.0
"""How long a program waits for the end of what those before it left."""


class ContainerPool:
    """Makes containers of some kinds, keeps up to ``size`` spares of each, and ends them all with the jail.

    A spare is a container whose interpreter is pristine and ready.
    """

    def __init__(self, jail: Jail, kinds: tuple[str, ...], size: int, disk_mib: int) -> None:
        self._jail, self._size, self._disk_mib = jail, size, disk_mib
        self._spares: dict[str, list[asyncio.Task[Container]]] = {kind: [] for kind in kinds}
        self._containers: set[Container] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False
        self.used_kinds: set[str] = set()
        """The kinds of interpreter that programs ran in."""

    def prepare(self, kinds: list[str]) -> None:
        """Have a spare of each of these kinds made, before anybody needs it."""
        for kind in kinds:
            self._add_spare(kind, self._make(kind))

    async def take(self, kind: str, *, replace: bool) -> Container:
        """Return a container with a pristine interpreter; ``replace`` has another spare made if it was the last.

        Raises:
            SandboxStartFailed: none could be made.
        """
        self.used_kinds.add(kind)
        spares = self._spares[kind]
        reason = "interpreters die before they are used"
        # More often than there are spares: they may all have been made beside a program that took the memory.
        for _ in range(self._size + 1):
            if not spares:
                self._add_spare(kind, self._make(kind))
            spare = spares.pop(0)
            try:
                # Shielded: a caller that gives up leaves the interpreter to the next one.
                container = await asyncio.shield(spare)
            except asyncio.CancelledError:
                spares.insert(0, spare)
                raise
            except SandboxFailed as error:
                reason = str(error)
                continue
            if replace and not spares and not self._closed:
                self._add_spare(kind, self._make(kind))
            if not container.interpreter.ended:
                return container
            self.discard(container)
        raise SandboxStartFailed(reason)

    def give_back(self, container: Container) -> None:
        """Make a sound container ready for another program if one more is wanted, else end it."""
        if len(self._spares[container.kind]) < self._size and not self._closed:
            container.retire()
            self._add_spare(container.kind, self._renew(container))
        else:
            self.discard(container)

    def discard(self, container: Container, *, replace: bool = False) -> None:
        """End a container in the background; ``replace`` has a spare made if there is none of its kind."""
        ending = asyncio.create_task(self.end(container))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        if replace and not self._spares[container.kind] and not self._closed:
            self.prepare([container.kind])

    def discard_spares(self) -> None:
        """End what was kept ready beside a program that took all memory: the kernel may have hit that in its place."""
        for spares in self._spares.values():
            while spares:
                spare = spares.pop()
                if not spare.done():
                    spare.cancel()
                elif not spare.cancelled() and spare.exception() is None:
                    self.discard(spare.result())

    def add(self, container: Container) -> None:
        """Have a container that was made otherwise end with the others."""
        self._containers.add(container)

    async def end(self, container: Container) -> None:
        """End a container, and wait until nothing in it runs any more."""
        await container.close()
        self._containers.discard(container)

    async def wait_cleared(self) -> None:
        """Wait until nothing is left of the programs before; it would count towards limits that they share."""
        left = [container.cleared for container in self._containers if not container.cleared.done()]
        if left or self._ending:
            await asyncio.wait([*left, *self._ending], timeout=ENDING_S)

    async def close(self) -> None:
        """End every container, and the jail with them; return when no program runs any more."""
        self._closed = True
        spares = [spare for kind in self._spares.values() for spare in kind]
        for spare in spares:
            spare.cancel()
        # While the fork servers live they reap their children at once; killed, they would first free their memory.
        closing = asyncio.gather(*(container.close() for container in list(self._containers)))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(closing), PROMPT_S)
        self._jail.kill()
        await closing
        await asyncio.gather(*spares, *self._ending, return_exceptions=True)

    def _add_spare(self, kind: str, work: Coroutine[Any, Any, Container]) -> None:
        self._spares[kind].append(asyncio.create_task(work))

    async def _make(self, kind: str) -> Container:
        await self._jail.ensure_fork_server(kind)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                _, fds = await self._jail.request({"op": "container", "kind": kind}, [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        container = Container(kind, ours, fds[0])
        self._containers.add(container)
        try:
            await container.open()
            await self._jail.admitted()
        except BaseException:
            self.discard(container)
            raise
        return await self._renew(container)

    async def _renew(self, container: Container) -> Container:
        try:
            await container.renew(self._disk_mib)
        except BaseException:
            self.discard(container)
            raise
        return container
