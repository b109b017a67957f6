"""At most one start per key, among runs at once, one after the other and across lives."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.config import LedgerSettings
from actors.runs.keyed_runs import KeyedRuns
from actors.runs.ledger import Ledger
from actors.runs.run import Run
from actors.schemas import ExecutionRequest, ExecutionResult, Outcome


class World:
    """Keyed runs of a start that says what it started, and waits while it is blocked."""

    def __init__(self, path: Path) -> None:
        self.started: list[str] = []
        self.free = asyncio.Event()
        self.free.set()
        self.keyed = KeyedRuns(Ledger(LedgerSettings(path=path / "ledger.sqlite3"), "test"), self._start)

    async def _start(self, run: Run) -> ExecutionResult:
        self.started.append(run.run_id)
        await self.free.wait()
        return ExecutionResult(run_id=run.run_id, outcome=Outcome.OK)

    async def run(self, run_id: str, code: str = "print(1)", user: str = "ann") -> ExecutionResult:
        request = ExecutionRequest.checked(code=code, user=user, idempotency_key="k", idempotent=True)
        return await self.keyed.run(Run(request, run_id), "k")

    async def begin(self, run_id: str) -> asyncio.Task[ExecutionResult]:
        """Start a run that goes on until ``free`` is set."""
        self.free.clear()
        task = asyncio.ensure_future(self.run(run_id))
        async with asyncio.timeout(5):
            while not self.started:
                await asyncio.sleep(0)
        return task


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.keyed.close()


async def test_whoever_asks_meanwhile_or_later_has_the_result_of_the_one_start(world: World) -> None:
    first = await world.begin("r1")
    second = asyncio.ensure_future(world.run("r2"))
    await asyncio.sleep(0)
    world.free.set()
    assert [(await run).run_id for run in (first, second)] == ["r1", "r1"]
    assert (await world.run("r3")).run_id == "r1"
    assert world.started == ["r1"]


async def test_a_key_is_for_one_request_both_while_it_runs_and_later(world: World) -> None:
    first = await world.begin("r1")
    meanwhile = await world.run("r2", "print(2)")
    world.free.set()
    await first
    later = await world.run("r3", "print(2)")
    assert [result.error_code for result in (meanwhile, later)] == ["duplicate_run"] * 2
    assert world.started == ["r1"]


async def test_two_users_have_keys_of_their_own(world: World) -> None:
    first = await world.begin("r1")
    world.free.set()
    assert (await world.run("r2", user="bob")).run_id == "r2"
    assert (await first).run_id == "r1"


async def test_a_run_that_was_cancelled_is_never_started_again_with_its_key(world: World) -> None:
    first = await world.begin("r1")
    meanwhile = asyncio.ensure_future(world.run("r2"))
    await asyncio.sleep(0)
    first.cancel()
    for result in (await meanwhile, await world.run("r3")):
        assert (result.outcome, result.may_have_run, result.retryable) == ("infra", True, False)
    assert world.started == ["r1"]
