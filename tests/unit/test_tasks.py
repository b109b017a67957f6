"""Background tasks, with work that fails as told."""

from __future__ import annotations

import asyncio
import gc

import pytest

from actors.tasks import Tasks


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def fail(error: BaseException) -> None:
    raise error


async def test_a_failure_is_told_and_what_ends_well_is_not() -> None:
    told: list[BaseException] = []
    tasks = Tasks(told.append)
    error = RuntimeError("a bug")
    tasks.spawn(fail(error))
    tasks.spawn(turns(1))
    await turns()
    assert (told, len(tasks)) == ([error], 0)


async def test_a_task_that_nobody_else_holds_lives_until_it_ends() -> None:
    told: list[BaseException] = []
    tasks = Tasks(told.append)

    async def forgotten() -> None:
        never_set = asyncio.get_running_loop().create_future()
        await never_set

    tasks.spawn(forgotten())
    await turns()
    gc.collect()
    assert len(tasks) == 1
    await tasks.end()
    assert (told, len(tasks)) == ([], 0)


async def test_a_loop_that_fails_is_told_of_and_begun_again() -> None:
    told: list[BaseException] = []
    tasks = Tasks(told.append)
    errors = [RuntimeError("first"), RuntimeError("second")]
    begun = 0

    async def loop() -> None:
        nonlocal begun
        begun += 1
        if begun <= len(errors):
            raise errors[begun - 1]
        await asyncio.get_running_loop().create_future()

    tasks.keep(loop, pause_s=0.0)
    await turns()
    assert (begun, told, len(tasks)) == (3, errors, 1)
    await tasks.end()
    assert (told, len(tasks)) == (errors, 0)


async def test_a_loop_that_comes_to_its_end_is_not_begun_again() -> None:
    tasks = Tasks(pytest.fail)
    await tasks.keep(lambda: turns(1), pause_s=0.0)
    assert len(tasks) == 0


async def test_cancelling_tells_of_nothing() -> None:
    tasks = Tasks(pytest.fail)
    waiting = tasks.spawn(turns(1_000_000))
    await turns()
    await tasks.end()
    assert waiting.cancelled()
