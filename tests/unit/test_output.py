"""Output kept, counted and passed on; a run's output and its result as one stream."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.backends.base import Emit
from actors.backends.output import FLOOD_FACTOR, CapturedStream, as_it_happens
from actors.schemas import OutputEvent

pieces = st.lists(st.binary(max_size=40), max_size=10)


@given(pieces, st.integers(1, 100))
def test_the_first_bytes_are_kept_and_all_are_counted(written: list[bytes], bound: int) -> None:
    stream = CapturedStream("stdout", bound, None)
    for data in written:
        stream.write(data)
    whole = b"".join(written)
    assert stream.written == len(whole)
    kept, _, rest = stream.text().partition("\n[… output truncated: ")
    if len(whole) <= bound:
        assert stream.text() == whole.decode(errors="replace")
    else:
        assert kept.startswith(whole[:bound].decode(errors="replace").partition("\n[…")[0])
        assert rest.endswith(f"{len(whole)} bytes in all]")


@given(pieces, st.integers(1, 100), st.sets(st.integers(0, 9)))
def test_the_events_together_are_what_was_kept(written: list[bytes], bound: int, flushes: set[int]) -> None:
    events: list[OutputEvent] = []
    stream = CapturedStream("stderr", bound, events.append)
    for index, data in enumerate(written):
        stream.write(data)
        if index in flushes:
            stream.flush()
    stream.flush(final=True)
    assert "".join(event.text for event in events) == b"".join(written)[:bound].decode(errors="replace")


def test_a_character_split_between_writes_is_one_character() -> None:
    events: list[OutputEvent] = []
    stream = CapturedStream("stdout", 100, events.append)
    for byte in "é".encode():
        stream.write(bytes([byte]))
        stream.flush()
    assert [event.text for event in events] == ["é"]


def test_a_flood_is_more_than_so_many_times_the_bound() -> None:
    stream = CapturedStream("stdout", 10, None)
    stream.write(b"x" * 10 * FLOOD_FACTOR)
    assert not stream.flooded
    stream.write(b"x")
    assert stream.flooded


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
