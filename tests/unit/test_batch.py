"""Many programs carried together: chunks, what leaves them, and what their ends say."""

from __future__ import annotations

import pytest

from actors.errors import QueueFull, SandboxLost, SandboxStartFailed, Throttled
from actors.runs.batch import Batch, ChunkSize
from actors.runs.run import Run
from actors.schemas import ExecutionResult, Outcome
from tests.unit.test_path import World, answer, run_of


async def batch(world: World, runs: list[Run]) -> list[ExecutionResult]:
    found = [item async for item in Batch(world.path, lambda _: 2).carry(list(enumerate(runs)))]
    return [result for _, result in sorted(found, key=lambda item: item[0])]


async def test_a_batch_gives_each_program_its_own_result() -> None:
    world = World()
    results = await batch(world, [run_of(f"print({n})", cache="off") for n in range(100)])
    assert [result.stdout for result in results] == [f"print({n})\n" for n in range(100)]
    assert world.granted < 60, "programs share grants"
    assert world.held == set()


async def test_a_batch_has_a_result_for_what_cannot_be_routed() -> None:
    results = await batch(World(), [run_of(backend="jail"), run_of(backend="jail", fresh=True), run_of()])
    assert [result.outcome for result in results] == ["rejected", "rejected", "ok"]


async def test_after_a_lost_chunk_only_what_is_in_doubt_fails() -> None:
    world = World()
    world.answers = [SandboxLost("gone", may_have_run=True)]
    results = await batch(world, [run_of(f"print({n})", cache="off") for n in range(10)])
    assert [result.outcome for result in results].count("infra") == 1
    world.answers = [SandboxStartFailed("no")]
    results = await batch(world, [run_of(f"print({n})", cache="off") for n in range(10)])
    assert {result.outcome for result in results} == {"ok"}


async def test_a_throttled_program_of_a_chunk_is_tried_again_and_told_to_the_limiter() -> None:
    world = World()
    world.in_chunks[0] = Throttled("too many")
    results = await batch(world, [run_of(f"print({n})", cache="off") for n in range(3)])
    assert {result.outcome for result in results} == {"ok"}
    assert world.throttles == ["fake"]
    assert all(ok for _, ok in world.reports)


async def test_a_bug_on_the_way_ends_a_batch_instead_of_hanging_it() -> None:
    world = World()
    world.answers = [RuntimeError("a bug")]
    with pytest.raises(RuntimeError):
        await batch(world, [run_of(cache="off"), run_of("print(2)", cache="off")])
    assert world.held == set()


def test_a_chunk_grows_by_doubling_and_shrinks_at_once() -> None:
    chunk = ChunkSize()
    sizes = []
    for _ in range(8):
        chunk.learn(chunk.programs, 1e-6)
        sizes.append(chunk.programs)
    assert sizes == [2, 4, 8, 16, 32, 64, 64, 64]
    chunk.learn(64, 64.0)
    assert chunk.programs == 1


async def test_an_infra_report_in_a_chunk_is_the_backends_failure() -> None:
    world = World()
    world.answers = [answer("1\n"), answer(outcome=Outcome.INFRA)]
    await batch(world, [run_of(f"print({n})", cache="off") for n in range(2)])
    assert sorted(world.reports) == [("fake", False), ("fake", True)]


async def test_what_did_not_start_in_a_chunk_is_tried_again_as_a_single_run_is() -> None:
    world = World()
    world.in_chunks = {2: SandboxStartFailed("no"), 5: SandboxLost("gone", may_have_run=True)}
    results = await batch(world, [run_of(f"print({n})", cache="off") for n in range(8)])
    assert [result.outcome for result in results].count("infra") == 1
    assert [result.outcome for result in results].count("ok") == 7
    assert len(world.started) == 9, "one was started again"


async def test_a_batchs_programs_have_their_time_from_when_they_are_taken_up() -> None:
    world = World(queue={"max_wait_s": 100.0})
    runs = [run_of(f"print({n})", cache="off") for n in range(3)]
    await batch(world, runs)
    assert all(request.deadline_s > 99 for request in world.asked)


async def test_a_full_queue_is_each_programs_own_rejection() -> None:
    world = World()
    world.refuse["queue"] = QueueFull("full")
    results = await batch(world, [run_of(f"print({n})", cache="off") for n in range(5)])
    assert {result.error_code for result in results} == {"queue_full"}
