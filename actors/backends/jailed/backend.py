"""The jail backend: sandboxes on this machine, in bubblewrap around forked interpreters."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from actors.backends.base import BackendSandbox, Capabilities
from actors.backends.jailed import cgroup
from actors.backends.jailed.client import Zygote
from actors.backends.jailed.sandbox import JailSandbox
from actors.backends.jailed.self_test import prove_isolation
from actors.config import JailSettings, RunLimits


class JailBackend:
    """Makes jails from the zygote that it shares with every other process of this node and image."""

    def __init__(self, settings: JailSettings, limits: RunLimits) -> None:
        self._settings, self._limits = settings, limits
        self._zygote = Zygote(settings)
        self._sandboxes: set[JailSandbox] = set()
        self._names = 0
        memory = "cgroup" if cgroup.parents() else "process and polling"
        self._isolation = f"bwrap+seccomp, pristine fork, memory by {memory}"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(isolation=self._isolation, local=True, build_tag=self._zygote.build_tag)

    async def start(self) -> None:
        cgroup.sweep()
        await self._zygote.connect()
        sandbox = await self.create()
        try:
            await prove_isolation(sandbox)
        finally:
            await sandbox.close()

    async def create(self) -> BackendSandbox:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            name, bwrap_pid = await self._zygote.create(theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._names += 1
        group = cgroup.create(str(self._names))
        sandbox = JailSandbox(
            name,
            bwrap_pid,
            ours,
            self._zygote,
            group,
            self._settings,
            self._limits,
            self._isolation,
            self._sandboxes.discard,
        )
        self._sandboxes.add(sandbox)
        try:
            await sandbox.start()
        except BaseException:
            await sandbox.close()
            raise
        return sandbox

    async def close(self) -> None:
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._sandboxes)))
        self._zygote.close()
        with contextlib.suppress(OSError):
            cgroup.sweep()
