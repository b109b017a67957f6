"""A supervisor's side of a session's attendant. Everything that it says may be said by hostile code in its place."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Coroutine
from signal import SIGKILL
from typing import Any

from actors.backends.jail.frames import ProtocolViolation
from actors.backends.jail.host.logs import ChangeLog, CommandLog
from actors.backends.jail.host.process import Inmate
from actors.backends.jail.host.rpc import Questions
from actors.backends.jail.host.run_limits import Allowance
from actors.errors import NotFound, SandboxLost
from actors.schemas import Outcome
from actors.schemas.action import FileChange

KILLED_S = 5.0
"""A killed command has ended within this time, or its attendant is not to be believed."""
OUT_OF_MEMORY = "needed more memory than its session's limit; open one with a higher limits.memory_mib"
MAX_ENDED = 64
"""Commands whose last words are kept for who follows them late."""


class AttendantClient:
    """Asks it, and follows what its commands and watches put out."""

    def __init__(self, inmate: Inmate, output_bytes: int, allowance: Allowance) -> None:
        self.inmate, self._output_bytes, self._allowance = inmate, output_bytes, allowance
        self._questions = Questions(inmate)
        self.ask = self._questions.ask
        self._commands: dict[int, CommandLog] = {}
        self._watches: dict[int, ChangeLog] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        inmate.on_message = self._on_message
        self._spawn(self._until_ended())

    @property
    def alive(self) -> bool:
        return not self.inmate.ended and self.inmate.violation is None

    @property
    def busy(self) -> bool:
        """Whether commands run."""
        return any(log.result is None for log in self._commands.values())

    async def start_command(self, action: dict[str, Any]) -> Any:
        """Start a command, whose output is kept from now on; it is killed when its ``timeout_s`` is over.

        Raises:
            ActionFailed, SandboxLost: as ``Questions.ask``.
        """
        return await self.ask(action, on_answer=lambda started: self._register(started, action["timeout_s"]))

    def command(self, pid: int) -> CommandLog:
        """Return what is known of a command.

        Raises:
            NotFound: there was none of this pid lately.
        """
        if pid not in self._commands:
            raise NotFound("not_found", f"no command {pid} is running")
        return self._commands[pid]

    async def kill(self, log: CommandLog) -> None:
        """End a command and what it started; an attendant that does not do so in time is ended with all it has."""
        if log.result is not None:
            return
        await self._tell({"kind": "signal_command", "pid": log.pid, "signal": SIGKILL})
        try:
            async with asyncio.timeout(KILLED_S):
                await log.over.wait()
        except TimeoutError:
            self.inmate.misbehave("it does not end its commands")

    def condemn(self, outcome: Outcome, message: str) -> None:
        """Say why all commands that run are about to be ended."""
        for log in self._commands.values():
            log.condemn(outcome, message)

    async def watch(self, action: dict[str, Any]) -> AsyncGenerator[FileChange]:
        """Yield changes below a directory as they happen.

        Raises:
            ActionFailed, SandboxLost: as ``Questions.ask``.
        """
        log = ChangeLog()
        number = next(number for number in range(len(self._watches) + 1) if number not in self._watches)
        self._watches[number] = log
        try:
            await self.ask({**action, "watch": number})
            while (change := await log.next()) is not None:
                yield change
            raise SandboxLost("the session's attendant ended; watch again")
        finally:
            del self._watches[number]
            self._spawn(self._tell({"kind": "end_watch", "watch": number}))

    def close(self) -> None:
        """Let everybody go who waits; the inmate itself is ended by its cell."""
        for task in self._tasks:
            task.cancel()
        self._lose()

    async def _tell(self, action: dict[str, Any]) -> None:
        """Have something done whose answer nobody waits for."""
        await self.inmate.send({"kind": "action", "id": 0, "action": action})

    async def _taken(self, pid: int, count: int) -> None:
        await self.inmate.send({"kind": "taken", "command": pid, "count": count})

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _until_ended(self) -> None:
        await self.inmate.until(lambda: False)
        self._lose()

    def _lose(self) -> None:
        self._questions.lose()
        for log in self._commands.values():
            log.end(None)
        for changes in self._watches.values():
            changes.end()

    def _register(self, started: Any, timeout_s: float | None) -> None:
        match started:
            case {"pid": int(pid)} if pid not in self._commands or self._commands[pid].result is not None:
                ended = [known for known, log in self._commands.items() if log.result is not None]
                for known in ended[: max(0, len(ended) - MAX_ENDED)]:
                    del self._commands[known]
                log = CommandLog(pid, self._output_bytes, lambda count: self._spawn(self._taken(pid, count)))
                self._commands[pid] = log
                log.limit(timeout_s, lambda: self._spawn(self.kill(log)))
            case _:
                raise ProtocolViolation("a command without a pid of its own")

    def _on_message(self, message: dict[str, Any], _: int) -> None:
        if self._questions.answered(message):
            return
        match message:
            case {"event": "output", "command": int(pid), "stream": "stdout" | "stderr" | "pty", "data": str(data)}:
                try:
                    self._of(pid).write(message["stream"], base64.b64decode(data, validate=True))
                except binascii.Error:
                    raise ProtocolViolation("output that is not base64") from None
            case {"event": "ended", "command": int(pid), "status": int(status)}:
                self._end(self._of(pid), status)
            case {"event": "changed", "watch": int(number), "changes": list(changes)}:
                if number in self._watches:
                    self._watches[number].add(changes)
            case _:
                raise ProtocolViolation("a message out of turn")

    def _end(self, log: CommandLog, status: int) -> None:
        if status != 0 and self._allowance.memory_ran_out():
            self._allowance.forget_kills()
            log.condemn(Outcome.OUT_OF_MEMORY, OUT_OF_MEMORY)
        log.end(status)

    def _of(self, pid: int) -> CommandLog:
        if pid not in self._commands:
            raise ProtocolViolation("output of a command that was not started")
        return self._commands[pid]
