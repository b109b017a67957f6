"""What a fake program writes: bounded, counted and coalesced."""

from __future__ import annotations

from typing import Literal

from actors.backends.base import Emit
from actors.schemas import OutputEvent

Stream = Literal["stdout", "stderr"]
FLOOD_FACTOR = 100
"""A program that writes so many times the bound is killed."""


class Flooded(BaseException):
    """More was written than is worth counting. Not an ``Exception``, so that no program catches it."""


class Output:
    """Keep the first ``bound`` bytes of each stream and count the rest.

    Text is passed on when the stream changes and when ``flush`` is called, so that many small writes are one event.

    Raises:
        Flooded: from ``write``, when a stream exceeds 100 times the bound.
    """

    def __init__(self, bound: int, emit: Emit | None) -> None:
        self._bound, self._emit = bound, emit
        self._kept: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._written: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        self._flushed: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        self._current: Stream = "stdout"

    @property
    def total_bytes(self) -> int:
        return self._written["stdout"] + self._written["stderr"]

    def write(self, stream: Stream, data: bytes) -> None:
        if stream != self._current:
            self.flush()
            self._current = stream
        kept = self._kept[stream]
        if len(kept) < self._bound:
            kept += data[: self._bound - len(kept)]
        self._written[stream] += len(data)
        if self._written[stream] > FLOOD_FACTOR * self._bound:
            raise Flooded

    def flush(self) -> None:
        """Pass on what was written since the last time, up to the bound."""
        stream = self._current
        fresh = self._kept[stream][self._flushed[stream] :]
        if fresh and self._emit is not None:
            self._emit(OutputEvent(kind=stream, text=fresh.decode(errors="replace")))
        self._flushed[stream] += len(fresh)

    def text(self, stream: Stream) -> str:
        """Return what was kept, and how much was not."""
        text = self._kept[stream].decode(errors="replace")
        if self._written[stream] > self._bound:
            text += f"\n[… output truncated: {self._written[stream]} bytes in all]"
        return text
