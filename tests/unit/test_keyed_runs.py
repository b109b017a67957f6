"""At most one start per key, among runs at once, one after the other and across lives."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.config import LedgerSettings
from actors.errors import DuplicateRun, InvalidRequest, OutcomeLost
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
        self.keyed = KeyedRuns(Ledger(LedgerSettings(path=path / "ledger.sqlite3"), "test"))
        self.dispatches = True

    async def _start(self, run: Run) -> ExecutionResult:
        self.started.append(run.run_id)
        run.may_have_run = self.dispatches
        await self.free.wait()
        return ExecutionResult(run_id=run.run_id, outcome=Outcome.OK)

    async def run(self, run_id: str, code: str = "print(1)", user: str = "ann") -> ExecutionResult:
        request = ExecutionRequest.checked(code=code, user=user, idempotency_key="k", idempotent=True)
        return await self.keyed.run_or_replay(Run(request, run_id), "k", self._start)

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
    with pytest.raises(DuplicateRun):
        await world.run("r2", "print(2)")
    world.free.set()
    await first
    with pytest.raises(DuplicateRun):
        await world.run("r3", "print(2)")
    assert world.started == ["r1"]


async def test_two_users_have_keys_of_their_own(world: World) -> None:
    first = await world.begin("r1")
    world.free.set()
    assert (await world.run("r2", user="bob")).run_id == "r2"
    assert (await first).run_id == "r1"


async def test_a_program_that_was_cancelled_is_never_started_again_with_its_key(world: World) -> None:
    first = await world.begin("r1")
    meanwhile = asyncio.ensure_future(world.run("r2"))
    await asyncio.sleep(0)
    first.cancel()
    for result in (await meanwhile, await world.run("r3")):
        assert (result.outcome, result.may_have_run, result.retryable) == ("cancelled", True, False)
    assert world.started == ["r1"]


async def test_who_waits_for_a_run_that_is_given_up_before_its_program_starts_takes_its_place(world: World) -> None:
    world.dispatches = False
    first = await world.begin("r1")
    meanwhile = asyncio.ensure_future(world.run("r2"))
    await asyncio.sleep(0)
    world.dispatches = True
    first.cancel()
    world.free.set()
    assert (await meanwhile).run_id == "r2"
    assert (await world.run("r3")).run_id == "r2"
    assert world.started == ["r1", "r2"]


async def test_what_breaks_a_rule_does_not_burn_its_key(world: World) -> None:
    async def refuse(run: Run) -> ExecutionResult:
        run.may_have_run = True
        raise InvalidRequest("language", "is not there")

    request = ExecutionRequest.checked(code="print(1)", user="ann", idempotency_key="k", idempotent=True)
    with pytest.raises(InvalidRequest):
        await world.keyed.run_or_replay(Run(request, "r1"), "k", refuse)
    assert (await world.run("r2")).run_id == "r2"


async def test_a_key_whose_outcome_died_with_its_orchestrator_says_so(world: World, tmp_path: Path) -> None:
    first = await world.begin("r1")
    later = World(tmp_path)
    with pytest.raises(OutcomeLost, match="r1"):
        await later.run("r2")
    later.keyed.close()
    world.free.set()
    await first


async def test_a_cancel_while_the_row_is_written_leaves_no_row(world: World) -> None:
    first = asyncio.ensure_future(world.run("r1"))
    for _ in range(3):
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert (await world.run("r2")).run_id == "r2"
    assert world.started == ["r2"]
