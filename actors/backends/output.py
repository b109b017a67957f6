"""What a program writes: bounded, counted, decoded and coalesced."""

from __future__ import annotations

import codecs
from typing import Literal

from actors.backends.base import Emit
from actors.schemas import OutputEvent

Stream = Literal["stdout", "stderr"]
FLOOD_FACTOR = 100
"""A program that writes so many times the bound is killed."""


class Output:
    """Keep the first ``bound`` bytes of one stream, count the rest, and pass on what is kept.

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
        """Emit what has been kept since the last time."""
        if self._emit is None:
            return
        text = self._decoder.decode(bytes(self._kept[self._passed_on :]), final)
        self._passed_on = len(self._kept)
        if text:
            self._emit(OutputEvent(kind=self._stream, text=text))

    def text(self) -> str:
        """Return what was kept, with a marker where more was written."""
        text = self._kept.decode(errors="replace")
        if self.written > self._bound:
            text += f"\n[… output truncated: {self.written} bytes in all]"
        return text
