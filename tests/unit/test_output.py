"""A run's output and its result as one stream."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from actors.backends.base import Emit
from actors.backends.output import as_it_happens
from actors.schemas import OutputEvent


def event(text: str) -> OutputEvent:
    return OutputEvent(kind="stdout", text=text)


async def test_events_come_while_the_run_goes_on_and_last_what_it_returns() -> None:
    heard = asyncio.Event()

    async def run(emit: Emit) -> int:
        emit(event("first"))
        await heard.wait()
        emit(event("second"))
        return 42

    items: list[object] = []
    async for item in as_it_happens(run):
        items.append(item)
        heard.set()
    assert items == [event("first"), event("second"), 42]


async def test_an_error_of_the_run_comes_after_its_events() -> None:
    async def run(emit: Emit) -> int:
        emit(event("first"))
        raise ValueError("no")

    items = as_it_happens(run)
    assert await anext(items) == event("first")
    with pytest.raises(ValueError, match="no"):
        await anext(items)


@pytest.mark.parametrize("how", ["leaves the loop", "is cancelled"])
async def test_a_reader_that_goes_away_cancels_the_run(how: str) -> None:
    heard, ended = asyncio.Event(), asyncio.Event()

    async def run(emit: Emit) -> None:
        emit(event("first"))
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def read() -> None:
        async with aclosing(as_it_happens(run)) as items:
            async for _ in items:
                heard.set()
                if how == "leaves the loop":
                    return

    reading = asyncio.ensure_future(read())
    await heard.wait()
    if how == "is cancelled":
        reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    async with asyncio.timeout(5):
        await ended.wait()
