"""What the suites of backends share: programs, sessions, and fixtures that build on a suite's own ``backend``."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import pytest_asyncio

from actors.backends.base import Backend, BackendSandbox, Emit
from actors.schemas import Limits, Program, ProgramReport
from actors.schemas.action import CommandResult, Followed, Performed, StartCommand

Run = Callable[..., Coroutine[Any, Any, ProgramReport]]
_run_ids = itertools.count()


def program(code: str, **fields: Any) -> Program:
    """Return a program with limits that suit tests, unless ``fields`` say otherwise."""
    limits = Limits(memory_mib=512, cpu_s=20, processes=64, disk_mib=32, output_bytes=100_000, network=False)
    defaults: dict[str, Any] = {"run_id": f"run-{next(_run_ids)}", "timeout_s": 20.0, "limits": limits}
    return Program(code=code, **{**defaults, **fields})


class OpenSession:
    """An open session of a sandbox."""

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

    async def fork(self, *names: str) -> list[OpenSession]:
        """Fork the session; it must be forkable."""
        await self.sandbox.fork_session(self.name, list(names))
        return [OpenSession(self.sandbox, name) for name in names]


async def open_forkable(sandbox: BackendSandbox, name: str = "origin") -> OpenSession:
    """Open a session that can be forked."""
    await sandbox.open_session(name, forkable=True)
    return OpenSession(sandbox, name)


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(backend: Backend) -> AsyncIterator[BackendSandbox]:
    """A sandbox of the test's own."""
    sandbox = await backend.create()
    yield sandbox
    await sandbox.close()


@pytest.fixture
def run(sandbox: BackendSandbox) -> Run:
    """Run a program in the test's sandbox."""

    async def run(code: str, emit: Emit | None = None, **fields: Any) -> ProgramReport:
        return await sandbox.execute(program(code, **fields), emit)

    return run


@pytest_asyncio.fixture(loop_scope="module")
async def session(sandbox: BackendSandbox) -> OpenSession:
    """A session of the test's sandbox."""
    await sandbox.open_session("session")
    return OpenSession(sandbox, "session")
