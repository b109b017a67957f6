"""A program's output: kept up to a bound, counted beyond it, told as it comes."""

from __future__ import annotations

import asyncio
import codecs
import os
from collections.abc import Callable

from actors.backends.base import Emit
from actors.schemas import OutputEvent

CHUNK = 1 << 16
FLOOD_FACTOR = 100
"""A program that writes so many times its bound is stopped."""
COALESCE_S = 0.01


class Stream:
    """One of the two streams: drained as fast as it comes, so that the program never waits for us."""

    def __init__(self, fd: int, kind: str, bound: int, flooded: Callable[[], None], emit: Emit | None) -> None:
        self._fd, self._kind, self._bound, self._flooded, self._emit = fd, kind, bound, flooded, emit
        self._kept = bytearray()
        self.total = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._flush: asyncio.TimerHandle | None = None
        self._told = False
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._read_once)

    def drain(self) -> None:
        """Read what is there already."""
        while self._read_once():
            pass
        self.tell()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        if self._flush is not None:
            self._flush.cancel()

    def text(self) -> str:
        """What was kept, and how much there was if that is not all."""
        kept = self._kept.decode("utf-8", "replace")
        return kept if self.total <= self._bound else f"{kept}\n[… output truncated: {self.total} bytes in all]"

    def tell(self) -> None:
        """Emit what waits to be coalesced."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        if self._pending and self._emit is not None:
            text, self._pending = self._pending, ""
            self._emit(OutputEvent(kind=self._kind, text=text))  # type: ignore[arg-type]

    def _read_once(self) -> bool:
        try:
            data = os.read(self._fd, CHUNK)
        except BlockingIOError:
            return False
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
            return False
        room = self._bound - len(self._kept)
        self.total += len(data)
        if room > 0:
            self._kept += data[:room]
            if self._emit is not None:
                self._pending += self._decoder.decode(data[:room])
                self._tell_soon()
        if self.total > FLOOD_FACTOR * self._bound:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._flooded()
            return False
        return True

    def _tell_soon(self) -> None:
        if not self._told:
            # The first at once: somebody may be watching.
            self._told = True
            self.tell()
        elif self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(COALESCE_S, self.tell)
