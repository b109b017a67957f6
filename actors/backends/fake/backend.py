"""A backend that runs nothing and behaves as told: by its settings, and by what programs say in their comments.

It fulfils the same contract as the real ones, in microseconds, which makes it fit for tests, for benchmarks of
everything around a sandbox, and for trying out a deployment on a machine that can isolate nothing.
"""

from __future__ import annotations

import asyncio
import random

from actors.backends.base import Capabilities
from actors.backends.fake.sandbox import ISOLATION, FakeSandbox
from actors.config import FakeSettings
from actors.errors import SandboxStartFailed


class FakeBackend:
    """Makes fake sandboxes. The runs that fail are the same for every one."""

    def __init__(self, settings: FakeSettings, build_tag: str) -> None:
        self._settings, self._build_tag = settings, build_tag
        self._rng = random.Random(0)
        self._sandboxes: dict[str, FakeSandbox] = {}
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(isolation=ISOLATION, build_tag=self._build_tag)

    async def start(self) -> None:
        """Nothing to make ready."""

    async def create(self) -> FakeSandbox:
        if self._settings.create_s:
            await asyncio.sleep(self._settings.create_s)
        if self._closed:
            raise SandboxStartFailed("the backend is closed")
        build_tag = self._settings.build_tag or self._build_tag
        sandbox = FakeSandbox(self._settings, build_tag, self._rng, on_end=self._forget)
        self._sandboxes[sandbox.sandbox_id] = sandbox
        return sandbox

    async def close(self) -> None:
        self._closed = True
        self.lose()

    def lose(self) -> None:
        """Let every sandbox made so far vanish."""
        for sandbox in list(self._sandboxes.values()):
            sandbox.lose()

    def _forget(self, sandbox_id: str) -> None:
        self._sandboxes.pop(sandbox_id, None)
