"""The jail alone: what attacks its walls, and what looks at its processes, memory and control groups."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from actors.backends.jail import JailBackend
from actors.config import JailSettings, RunLimits
from tests.backends import run, sandbox, session

__all__ = ["run", "sandbox", "session"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[JailBackend]:
    """The embedded backend with its default settings."""
    backend = JailBackend(JailSettings(), RunLimits())
    await backend.start()
    yield backend
    await backend.close()
