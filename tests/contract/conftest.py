"""Every backend, under one suite."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import pytest_asyncio

from actors.backends.base import Backend, BackendSandbox, Emit
from actors.backends.fake.backend import FakeBackend
from actors.backends.jail import JailBackend
from actors.config import JailSettings, RunLimits, Settings
from actors.schemas import Limits, Program, ProgramReport
from actors.schemas.action import CommandResult, Followed, Performed, StartCommand

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
Run = Callable[..., Coroutine[Any, Any, ProgramReport]]
_run_ids = itertools.count()


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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def jails() -> AsyncIterator[JailBackend]:
    """The embedded backend as it is by default, for what is asked of it alone."""
    backend = JailBackend(JailSettings(), RunLimits())
    await backend.start()
    yield backend
    await backend.close()


@pytest.fixture(autouse=True)
def _known_gaps(request: pytest.FixtureRequest) -> None:
    marker, callspec = request.node.get_closest_marker("needs"), getattr(request.node, "callspec", None)
    if marker is None or callspec is None:
        return
    gaps = GAPS[callspec.params["backend"]]
    for need in marker.args:
        if need in gaps:
            pytest.skip(f"{callspec.params['backend']}: {gaps[need]}")


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(backend: Backend) -> AsyncIterator[BackendSandbox]:
    sandbox = await backend.create()
    yield sandbox
    await sandbox.close()


@pytest.fixture
def run(sandbox: BackendSandbox) -> Run:
    """Run a program in the test's sandbox."""

    async def run(code: str, emit: Emit | None = None, **fields: Any) -> ProgramReport:
        return await sandbox.execute(program(code, **fields), emit)

    return run


class OpenSession:
    """A session of the test's sandbox."""

    def __init__(self, sandbox: BackendSandbox, name: str) -> None:
        self.sandbox, self.name = sandbox, name

    async def run(self, code: str, emit: Emit | None = None, **fields: Any) -> ProgramReport:
        return await self.sandbox.execute(program(code, session=self.name, **fields), emit)

    async def do(self, action: Performed) -> Any:
        return await self.sandbox.perform(self.name, action)

    def follow(self, action: Followed) -> AsyncIterator[Any]:
        return self.sandbox.follow(self.name, action)

    async def command(self, line: str, **fields: Any) -> CommandResult:
        """Run a command to its end."""
        async for event in self.follow(StartCommand(command=line, **fields)):
            if event.result is not None:
                return event.result
        raise AssertionError("no result")


@pytest_asyncio.fixture(loop_scope="module")
async def session(sandbox: BackendSandbox) -> OpenSession:
    await sandbox.open_session("session")
    return OpenSession(sandbox, "session")


def program(code: str, **fields: Any) -> Program:
    limits = Limits(memory_mib=512, cpu_s=20, processes=64, disk_mib=32, output_bytes=100_000, network=False)
    defaults: dict[str, Any] = {"run_id": f"run-{next(_run_ids)}", "timeout_s": 20.0, "limits": limits}
    return Program(code=code, **{**defaults, **fields})
