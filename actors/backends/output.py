"""The output of programs: bounded, counted, decoded and coalesced; and passed on as it happens."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Literal, TypeVar

from actors.backends.base import Emit
from actors.schemas import OutputEvent

Result = TypeVar("Result")
Stream = Literal["stdout", "stderr"]
STREAMS: tuple[Stream, ...] = ("stdout", "stderr")
FLOOD_FACTOR = 100
"""How many times the bound a program may write before it is killed."""


class CapturedStream:
    """One stream of a program: the first ``bound`` bytes are kept and passed on, the rest is counted.

    A character whose bytes arrive in two pieces is passed on once, whole.
    """

    def __init__(self, stream: Stream, bound: int, emit: Emit | None) -> None:
        self._stream, self._bound, self._emit = stream, bound, emit
        self._kept = bytearray()
        self._passed_on = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.written = 0

    @property
    def flooded(self) -> bool:
        return self.written > FLOOD_FACTOR * self._bound

    def write(self, data: bytes) -> None:
        if len(self._kept) < self._bound:
            self._kept += data[: self._bound - len(self._kept)]
        self.written += len(data)

    def flush(self, final: bool = False) -> None:
        """Pass on what has been kept since the last time."""
        if self._emit is None:
            return
        text = self._decoder.decode(bytes(self._kept[self._passed_on :]), final)
        self._passed_on = len(self._kept)
        if text:
            self._emit(OutputEvent(kind=self._stream, text=text))

    def text(self) -> str:
        """Return what was kept, with a marker at its end if more was written."""
        text = self._kept.decode(errors="replace")
        if self.written > self._bound:
            text += f"\n[… output truncated: {self.written} bytes in all]"
        return text


class OutputBetweenRuns:
    """What threads and background processes of a session write while no program runs there, for the next one's output.

    Of each stream the first ``bound`` bytes are kept.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._kept = {stream: bytearray() for stream in STREAMS}

    def write(self, stream: Stream, data: bytes) -> None:
        kept = self._kept[stream]
        kept += data[: self._bound - len(kept)]

    def take(self) -> list[tuple[Stream, bytes]]:
        """Return what was written, and forget it."""
        taken = [(stream, bytes(kept)) for stream, kept in self._kept.items() if kept]
        for kept in self._kept.values():
            kept.clear()
        return taken


async def as_it_happens(run: Callable[[Emit], Coroutine[Any, Any, Result]]) -> AsyncGenerator[OutputEvent | Result]:
    """Yield what a run emits while it goes on, and last what it returns; closing this cancels the run."""
    # Unbounded, yet small: a run emits no more than its output limit.
    events: asyncio.Queue[OutputEvent | None] = asyncio.Queue()
    running = asyncio.ensure_future(run(events.put_nowait))
    running.add_done_callback(lambda _: events.put_nowait(None))
    try:
        while (event := await events.get()) is not None:
            yield event
        yield await running
    finally:
        running.cancel()
