"""The embedded backend: makes jails on this machine."""

from __future__ import annotations

import asyncio
from collections import deque

from actors.backends.base import Capabilities
from actors.backends.jail.host import hints, image, jail_server_client, self_test
from actors.backends.jail.host.jail import Jail
from actors.backends.jail.host.sandbox import JailSandbox
from actors.backends.jail.kernel import cgroup, landlock, orphans
from actors.backends.jail.kinds import LEAN, LOADED
from actors.config import ImageSettings, JailSettings, RunLimits
from actors.errors import IsolationUnavailable, SandboxFailed, SandboxStartFailed

_REMEMBERED = 8  # sandboxes


class JailBackend:
    """Makes jails through this machine's zygote, which it starts where there is none.

    Several objects, in several processes, share one zygote; it ends a second after the last of them.
    """

    def __init__(self, settings: JailSettings, limits: RunLimits, images: ImageSettings | None = None) -> None:
        self._settings, self._limits, self._images = settings, limits, images or ImageSettings()
        self._groups = None if "control_group" in settings.without else cgroup.find()
        self._languages: dict[str, str] = {}
        self._zygote: jail_server_client.Zygote | None = None
        self._sandboxes: set[JailSandbox] = set()
        self._burials: set[asyncio.Future[None]] = set()
        self._used: deque[frozenset[str]] = deque(maxlen=_REMEMBERED)

    @property
    def capabilities(self) -> Capabilities:
        memory = "cgroup" if self._groups else "process limits and polling"
        walls = "namespaces, seccomp, Landlock" if landlock.supported_version() > 0 else "namespaces, seccomp"
        isolation = f"{walls}; a process of its own for every run; memory by {memory}"
        if self._settings.without:
            isolation += f"; WITHOUT {', '.join(sorted(self._settings.without))}"
        # Asked anew each time: an image may be built again while this runs.
        tag = image.build_tag(self._settings, self._images)
        return Capabilities(isolation=isolation, local=True, build_tag=tag)

    @property
    def zygote_pid(self) -> int:
        """Of the process that every interpreter descends from; 0 before ``start``."""
        return self._zygote.pid if self._zygote else 0

    async def start(self) -> None:
        if self._groups is not None:
            self._groups.sweep()
        orphans.sweep()
        if self._zygote is None:
            self._zygote = self._describe()
        await self._zygote.connect()
        if self._zygote.started:  # who found it running can rely on the test of who started it
            await self.prove()

    async def prove(self) -> None:
        """Build a jail and attack it.

        Raises:
            IsolationUnavailable: it cannot be built, or does not hold.
        """
        try:
            sandbox = await self.create()
        except SandboxStartFailed as error:
            raise IsolationUnavailable(*hints.explain(str(error))) from error
        try:
            findings = await self_test.probe(sandbox, self._limits)
            self_test.require(findings, self._settings.without)
        except SandboxFailed as error:
            raise IsolationUnavailable(*hints.explain(str(error))) from error
        finally:
            await sandbox.close()

    async def create(self) -> JailSandbox:
        if self._zygote is None:
            raise SandboxStartFailed("the backend is not started, or closed")
        if self._zygote.build_tag != image.build_tag(self._settings, self._images):
            # The image was built again; jails of the one before stand without their zygote's client.
            self._zygote.close()
            self._zygote = self._describe()
        jail = await Jail.make(self._zygote, self._groups, self._kinds())
        isolation = self.capabilities.isolation
        sandbox = JailSandbox(jail, self._settings, self._limits, isolation, self._languages, self._forget)
        self._sandboxes.add(sandbox)
        sandbox.prepare(self._kinds())
        return sandbox

    async def close(self) -> None:
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._sandboxes)))
        await asyncio.gather(*self._burials)
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None

    def _describe(self) -> jail_server_client.Zygote:
        described = image.describe(self._settings, self._images)
        self._languages = described["languages"]
        return jail_server_client.Zygote(described)

    def _kinds(self) -> list[str]:
        """Return the kinds of interpreter that are worth having ready: those that were of use lately."""
        kinds = (LEAN, LOADED) if self._settings.preload else (LEAN,)
        used: set[str] = set().union(*self._used)
        return [kind for kind in kinds if not used or kind in used]

    def _forget(self, sandbox: JailSandbox) -> None:
        self._sandboxes.discard(sandbox)
        if sandbox.used:
            self._used.append(frozenset(sandbox.used))
        burial = asyncio.ensure_future(sandbox.bury())
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)
