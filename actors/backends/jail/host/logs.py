"""The logs of commands and watches: some of the output is kept, all of it passed on to followers as they take it."""

from __future__ import annotations

import asyncio
import codecs
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Literal

from actors.backends.jail.frames import ProtocolViolation
from actors.backends.jail.host.results import clean, signal_name
from actors.backends.output import STREAMS, CapturedStream
from actors.schemas import Outcome
from actors.schemas.action import CommandEvent, CommandResult, FileChange

CommandStream = Literal["stdout", "stderr", "pty"]
MAX_UNTAKEN_BYTES = 4 * 2**20
"""Most output of a command that nobody has taken. An honest guest agent stays below it: it is more than the agent's
window and what pipes hold at a command's end."""
MAX_CHANGES = 10_000
"""Most changes that are kept for a follower that does not take them."""
_OUT_OF_TIME = "still running when its time was up, and killed; ask for a longer timeout_s"


class CommandLog:
    """The output of one command, of which the first ``bound`` bytes of each stream are kept.

    ``on_taken`` is called with the number of bytes that every follower has taken, so that as many may follow.
    """

    def __init__(self, pid: int, bound: int, on_taken: Callable[[int], None]) -> None:
        self.pid, self._on_taken = pid, on_taken
        self._kept = {name: CapturedStream(name, bound, None) for name in STREAMS}
        self._past: list[_Chunk] = []
        """The first ``bound`` bytes of all streams in their order, for followers that come late."""
        self._past_bytes, self._bound = 0, bound
        self._untaken_bytes = 0
        self._followers: set[_Follower] = set()
        self._started_at = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._verdict: tuple[Outcome, str] | None = None
        self.result: CommandResult | None = None
        self.over = asyncio.Event()

    def limit(self, timeout_s: float | None, kill: Callable[[], None]) -> None:
        """Have the command killed by ``kill`` when its time is up, if it has a timeout."""

        def expire() -> None:
            self.set_verdict(Outcome.TIMEOUT, _OUT_OF_TIME)
            kill()

        if timeout_s is not None:
            self._timer = asyncio.get_running_loop().call_later(timeout_s, expire)

    def set_verdict(self, outcome: Outcome, message: str) -> None:
        """Say why the command is about to be ended by the service; the first reason counts."""
        self._verdict = self._verdict or (outcome, message)

    def write(self, stream: CommandStream, data: bytes) -> None:
        """Add output.

        Raises:
            ProtocolViolation: it is more than the guest agent may send.
        """
        if self.result is not None:
            raise ProtocolViolation("output of a command that has ended")
        # A terminal has one stream; it is kept as standard output.
        self._kept["stderr" if stream == "stderr" else "stdout"].write(data)
        if self._past_bytes < self._bound:
            self._past.append(_Chunk(stream, data[: self._bound - self._past_bytes], 0))
            self._past_bytes += len(data)
        self._untaken_bytes += len(data)
        if self._untaken_bytes > MAX_UNTAKEN_BYTES:
            raise ProtocolViolation("more output than was allowed")
        chunk = _Chunk(stream, data, len(self._followers) or 1)
        for follower in self._followers:
            follower.put(chunk)
        if not self._followers:
            self._release(chunk)

    def end(self, status: int | None) -> None:
        """Add the end, by the status of the command's first process; None where the guest agent ended with it."""
        if self.result is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        outcome, message = Outcome.OK if status == 0 else Outcome.ERROR, None
        if status is None:
            outcome, message = Outcome.CRASHED, "the session's guest agent ended, and its commands with it"
        elif status < 0:
            message = f"killed by {signal_name(-status)}"
        if self._verdict is not None:
            outcome, message = self._verdict
        self.result = CommandResult(
            outcome=outcome,
            exit_code=-1 if status is None else 128 - status if status < 0 else status,
            stdout=self._kept["stdout"].text(),
            stderr=self._kept["stderr"].text(),
            wall_s=time.monotonic() - self._started_at,
            message=message,
        )
        self.over.set()
        for follower in self._followers:
            follower.changed.set()

    async def follow(self) -> AsyncGenerator[CommandEvent]:
        """Yield that the command started, what of its output was kept, all output from now on, and how it ended."""
        follower = _Follower(self._past)
        self._followers.add(follower)
        decoders = {name: codecs.getincrementaldecoder("utf-8")(errors="replace") for name in STREAMS}
        try:
            yield CommandEvent(kind="started", pid=self.pid)
            while (chunk := await follower.next(self)) is not None:
                self._release(chunk)
                if chunk.stream == "pty":
                    yield CommandEvent(kind="pty", pid=self.pid, data=chunk.data)
                elif text := decoders[chunk.stream].decode(chunk.data):
                    yield CommandEvent(kind=chunk.stream, pid=self.pid, text=text)
            for name, decoder in decoders.items():
                if text := decoder.decode(b"", final=True):
                    yield CommandEvent(kind=name, pid=self.pid, text=text)
            yield CommandEvent(kind="ended", pid=self.pid, result=self.result)
        finally:
            self._followers.discard(follower)
            for chunk in follower.chunks:
                self._release(chunk)

    def _release(self, chunk: _Chunk) -> None:
        """Count one follower less that still has to take a chunk; the last one makes room for more output.

        Chunks of the past begin with none, so they make no room for a second time.
        """
        chunk.holders -= 1
        if chunk.holders == 0:
            self._untaken_bytes -= len(chunk.data)
            self._on_taken(len(chunk.data))


@dataclass(slots=True)
class _Chunk:
    """Output as it arrived, and how many followers have not taken it yet."""

    stream: CommandStream
    data: bytes
    holders: int


class _Follower:
    """The chunks that one follower has not taken yet."""

    def __init__(self, past: list[_Chunk]) -> None:
        self.chunks = deque(_Chunk(chunk.stream, chunk.data, 0) for chunk in past)
        self.changed = asyncio.Event()

    def put(self, chunk: _Chunk) -> None:
        self.chunks.append(chunk)
        self.changed.set()

    async def next(self, log: CommandLog) -> _Chunk | None:
        while not self.chunks:
            if log.result is not None:
                return None
            self.changed.clear()
            await self.changed.wait()
        return self.chunks.popleft()


class ChangeLog:
    """The changes of one watch that its follower has not taken yet."""

    def __init__(self) -> None:
        self._changes: deque[FileChange] = deque()
        self._changed = asyncio.Event()
        self._ended = False

    def add(self, changes: list[Any]) -> None:
        """Add changes.

        Raises:
            ProtocolViolation: they have another shape.
        """
        for change in changes:
            match change:
                case {"kind": "created" | "modified" | "removed" | "overflow" as kind, "path": str(path)}:
                    if len(self._changes) < MAX_CHANGES:
                        self._changes.append(FileChange(kind=kind, path=clean(path)))
                    elif self._changes[-1].kind != "overflow":
                        self._changes.append(FileChange(kind="overflow", path=""))
                case _:
                    raise ProtocolViolation("a change of no shape")
        self._changed.set()

    def end(self) -> None:
        self._ended = True
        self._changed.set()

    async def next(self) -> FileChange | None:
        """Return the next change; None when there will be no more."""
        while not self._changes:
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._changes.popleft()
