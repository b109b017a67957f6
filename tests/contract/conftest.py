"""Every backend, under one suite."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from actors.backends.base import Backend
from actors.backends.fake.backend import FakeBackend
from actors.backends.jail import JailBackend
from actors.config import Settings
from tests.backends import run, sandbox, session

__all__ = ["run", "sandbox", "session"]
BUILD_TAG = "contract"
SECRET = "CONTRACT_SECRET"  # set on the host, looked for in sandboxes
GAPS: dict[str, dict[str, str]] = {
    "fake": {
        "real": "runs nothing: directives in comments, no modules, processes, signals or host to be shielded from",
        "processes": "starts none: no commands, no further interpreters, no watching",
        "meter": "has no CPU time or memory to measure",
    },
    "jail": {},
}
"""What a backend cannot do, and why; a test says what it needs with ``@pytest.mark.needs``."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*names): skip on backends with one of these gaps")


def make_backend(name: str) -> Backend:
    settings = Settings.load()
    if name == "fake":
        return FakeBackend(settings.fake, BUILD_TAG)
    return JailBackend(settings.jail, limits=settings.limits)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["fake", "jail"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    os.environ[SECRET] = "must not be seen"
    backend = make_backend(request.param)
    await backend.start()
    yield backend
    await backend.close()
    del os.environ[SECRET]


@pytest.fixture(autouse=True)
def _known_gaps(request: pytest.FixtureRequest) -> None:
    marker, callspec = request.node.get_closest_marker("needs"), getattr(request.node, "callspec", None)
    if marker is None or callspec is None:
        return
    gaps = GAPS[callspec.params["backend"]]
    for need in marker.args:
        if need in gaps:
            pytest.skip(f"{callspec.params['backend']}: {gaps[need]}")
