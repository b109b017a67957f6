"""The embedded backend, which makes sandboxes that are jails on this machine."""

from __future__ import annotations

import asyncio
from collections import deque

from actors.backends.base import Capabilities
from actors.backends.jail.host import hints, image, self_test
from actors.backends.jail.host.coverage import Coverage
from actors.backends.jail.host.jail import Jail
from actors.backends.jail.host.jail_server_client import JailServerClient
from actors.backends.jail.host.sandbox import JailSandbox
from actors.backends.jail.kernel import cgroup, landlock, orphans, process_limits
from actors.backends.jail.kinds import LEAN, LOADED
from actors.config import ImageSettings, JailSettings, RunLimits
from actors.errors import IsolationUnavailable, SandboxFailed, SandboxStartFailed

_REMEMBERED = 8  # sandboxes


class JailBackend:
    """Makes jails through this machine's jail server, which it starts where there is none.

    Several objects, in several processes, share one jail server; it ends a second after the last of them.
    """

    def __init__(self, settings: JailSettings, limits: RunLimits, images: ImageSettings | None = None) -> None:
        self._settings, self._limits, self._images = settings, limits, images or ImageSettings()
        self._groups = None if "control_group" in settings.without else cgroup.find()
        self._own_ids = False
        self._languages: dict[str, str] = {}
        self._server: JailServerClient | None = None
        self._sandboxes: set[JailSandbox] = set()
        self._closing: set[asyncio.Future[None]] = set()
        self._used_kinds: deque[frozenset[str]] = deque(maxlen=_REMEMBERED)

    @property
    def capabilities(self) -> Capabilities:
        walls = "namespaces, seccomp, Landlock" if landlock.supported_version() > 0 else "namespaces, seccomp"
        isolation = f"{walls}; a process of its own for every run; {self.coverage}"
        if self._server is not None and not self._server.own_inodes:
            isolation += "; files that programs can watch and lock are the machine's own"
        if self._settings.without:
            isolation += f"; WITHOUT {', '.join(sorted(self._settings.without))}"
        # Looked up anew each time: an image may be built again while this runs.
        tag = image.build_tag(self._settings, self._images)
        return Capabilities(isolation=isolation, build_tag=tag)

    @property
    def coverage(self) -> Coverage:
        """What of a jail's use is counted; of ids it is known from the first jail on."""
        return Coverage.of(self._groups, own_id=self._own_ids)

    @property
    def server_pid(self) -> int:
        """The pid of the jail server, from which every process of a jail descends; 0 before ``start``."""
        return self._server.pid if self._server else 0

    async def start(self) -> None:
        process_limits.raise_for_service()
        if self._groups is not None:
            self._groups.sweep()
        orphans.sweep()
        if self._server is None:
            self._server = self._server_of_image()
        await self._server.connect()
        if self._server.started:  # else whoever started it has tested it
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
            server = self._server
            assert server is not None
            findings = await self_test.probe(sandbox, self._limits, server.path, own_inodes=server.own_inodes)
            self_test.require(findings, self._settings.without)
        except SandboxFailed as error:
            raise IsolationUnavailable(*hints.explain(str(error))) from error
        finally:
            await sandbox.close()

    async def create(self) -> JailSandbox:
        if self._server is None:
            raise SandboxStartFailed("the backend is not started, or closed")
        if self._server.build_tag != image.build_tag(self._settings, self._images):
            # The image was built again; jails of the one before do not need this connection.
            self._server.close()
            self._server = self._server_of_image()
        jail = await Jail.make(self._server, self._groups, self._wanted_kinds(), self._settings.cores)
        self._own_ids = jail.own_id
        isolation = self.capabilities.isolation
        sandbox = JailSandbox(jail, self._settings, self._limits, isolation, self._languages, self._on_close)
        self._sandboxes.add(sandbox)
        sandbox.prepare(self._wanted_kinds())
        return sandbox

    async def close(self) -> None:
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._sandboxes)))
        await asyncio.gather(*self._closing)
        if self._server is not None:
            self._server.close()
            self._server = None

    def _server_of_image(self) -> JailServerClient:
        described = image.describe(self._settings, self._images)
        self._languages = described["languages"]
        return JailServerClient(described)

    def _wanted_kinds(self) -> list[str]:
        """Return the kinds of interpreter that are worth having ready: those that were used lately."""
        kinds = (LEAN, LOADED) if self._settings.preload else (LEAN,)
        used: set[str] = set().union(*self._used_kinds)
        return [kind for kind in kinds if not used or kind in used]

    def _on_close(self, sandbox: JailSandbox) -> None:
        self._sandboxes.discard(sandbox)
        if sandbox.used_kinds:
            self._used_kinds.append(frozenset(sandbox.used_kinds))
        closing = asyncio.ensure_future(sandbox.wait_closed())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
