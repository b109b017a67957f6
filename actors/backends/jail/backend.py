"""The embedded backend: makes jails on this machine."""

from __future__ import annotations

from actors.backends.base import Capabilities
from actors.backends.jail import cgroup, client, image
from actors.backends.jail.head import Template
from actors.backends.jail.sandbox import JailSandbox
from actors.config import JailSettings, RunLimits
from actors.errors import SandboxStartFailed


class JailBackend:
    """Makes jails through this machine's zygote, which it starts where there is none.

    Several objects, in several processes, share one zygote; it ends a second after the last of them.
    """

    def __init__(self, settings: JailSettings, limits: RunLimits) -> None:
        self._settings, self._limits = settings, limits
        self._build_tag = image.build_tag(settings.preload)
        self._groups = cgroup.find()
        self._zygote: client.Zygote | None = None
        self._sandboxes: set[JailSandbox] = set()

    @property
    def capabilities(self) -> Capabilities:
        memory = "cgroup" if self._groups else "process limits and polling"
        isolation = f"bwrap+seccomp, a forked process for every run, memory by {memory}"
        return Capabilities(isolation=isolation, local=True, build_tag=self._build_tag)

    async def start(self) -> None:
        if self._groups is not None:
            self._groups.sweep()
        if self._zygote is None:
            self._zygote = client.Zygote(image.describe(self._settings))
        await self._zygote.connect()

    async def create(self) -> JailSandbox:
        if self._zygote is None:
            raise SandboxStartFailed("the backend is not started, or closed")
        template = await Template.make(self._zygote, self._groups)
        isolation = self.capabilities.isolation
        sandbox = JailSandbox(template, self._settings, self._limits, isolation, self._sandboxes.discard)
        self._sandboxes.add(sandbox)
        sandbox.refill()
        return sandbox

    async def close(self) -> None:
        for sandbox in list(self._sandboxes):
            await sandbox.close()
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None
