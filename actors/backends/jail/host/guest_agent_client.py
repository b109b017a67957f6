"""The host's side of a session's guest agent. Hostile code may say anything in the agent's place."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine
from signal import SIGKILL
from typing import Any

from actors.backends.jail.frames import ProtocolViolation
from actors.backends.jail.host.logs import ChangeLog, CommandLog
from actors.backends.jail.host.process import ContainerProcess
from actors.backends.jail.host.rpc import RpcClient
from actors.backends.jail.host.run_limits import EnforcedLimits
from actors.errors import NotFound, SandboxLost
from actors.schemas import Outcome
from actors.schemas.action import FileChange

KILLED_S = 5.0
"""How long a killed command may take to end; an agent that says no end by then is ended itself."""
OUT_OF_CPU_TIME = "used more CPU time between programs than its session may; open one with a higher limits.cpu_s"
OUT_OF_MEMORY = "needed more memory than its session's limit; open one with a higher limits.memory_mib"
MAX_ENDED = 64
"""Most commands whose output is kept after their end, for followers that come late."""


class GuestAgentClient:
    """A connection to the agent: ``call`` has it do something; what its commands and watches put out is kept here."""

    def __init__(self, process: ContainerProcess, output_bytes: int, limits: EnforcedLimits) -> None:
        self.process, self._output_bytes, self._limits = process, output_bytes, limits
        self._rpc = RpcClient(process)
        self.call = self._rpc.call
        self._commands: dict[int, CommandLog] = {}
        self._watches: dict[int, ChangeLog] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._taken: Counter[int] = Counter()
        self._telling = False
        process.on_message = self._on_message
        process.somebody_waits = lambda: self._rpc.waiting
        self._spawn(self._abort_at_end())

    @property
    def alive(self) -> bool:
        return not self.process.ended and self.process.violation is None

    @property
    def busy(self) -> bool:
        """Whether commands run."""
        return any(log.result is None for log in self._commands.values())

    async def start_command(self, action: dict[str, Any]) -> Any:
        """Start a command, which is killed when its ``timeout_s`` is over; its output is kept from the first byte.

        Raises:
            ActionFailed, SandboxLost: as ``RpcClient.call``.
        """
        return await self.call(action, on_answer=lambda started: self._register(started, action["timeout_s"]))

    def command(self, pid: int) -> CommandLog:
        """Return the log of a command.

        Raises:
            NotFound: there was none of this pid lately.
        """
        if pid not in self._commands:
            raise NotFound("not_found", f"no command {pid} is running")
        return self._commands[pid]

    async def kill(self, log: CommandLog) -> None:
        """End a command and what it started; an agent that does not do so in time is ended with all its commands."""
        if log.result is not None:
            return
        await self._rpc.notify({"kind": "signal_command", "pid": log.pid, "signal": SIGKILL})
        try:
            async with asyncio.timeout(KILLED_S):
                await log.over.wait()
        except TimeoutError:
            self.process.report_violation("it does not end its commands")

    def set_verdict(self, outcome: Outcome, message: str) -> None:
        """Say why all running commands are about to be ended."""
        for log in self._commands.values():
            log.set_verdict(outcome, message)

    async def watch(self, action: dict[str, Any]) -> AsyncGenerator[FileChange]:
        """Yield changes below a directory as they happen.

        Raises:
            ActionFailed, SandboxLost: as ``RpcClient.call``.
        """
        log = ChangeLog()
        number = next(number for number in range(len(self._watches) + 1) if number not in self._watches)
        self._watches[number] = log
        try:
            await self.call({**action, "watch": number})
            while (change := await log.next()) is not None:
                yield change
            raise SandboxLost("the session's guest agent ended; watch again")
        finally:
            del self._watches[number]
            self._spawn(self._rpc.notify({"kind": "end_watch", "watch": number}))

    def close(self) -> None:
        """End every call, log and watch that somebody waits for; the process itself is ended by its container."""
        for task in self._tasks:
            task.cancel()
        self._abort()

    def _take(self, pid: int, count: int) -> None:
        """Have the agent told that so much of a command's output was taken; one message at a time is on its way."""
        self._taken[pid] += count
        if not self._telling:
            self._telling = True
            self._spawn(self._tell_taken())

    async def _tell_taken(self) -> None:
        try:
            while self._taken:
                pid, count = self._taken.popitem()
                await self.process.send({"kind": "taken", "command": pid, "count": count})
        finally:
            self._telling = False

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _abort_at_end(self) -> None:
        await self.process.wait_until(lambda: False)
        self._abort()

    def _abort(self) -> None:
        self._rpc.abort()
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
                log = CommandLog(pid, self._output_bytes, lambda count: self._take(pid, count))
                self._commands[pid] = log
                log.limit(timeout_s, lambda: self._spawn(self.kill(log)))
            case _:
                raise ProtocolViolation("a command without a pid of its own")

    def _on_message(self, message: dict[str, Any], _: int) -> None:
        if self._rpc.take_answer(message):
            return
        match message:
            case {"event": "output", "command": int(pid), "stream": "stdout" | "stderr" | "pty", "data": str(data)}:
                try:
                    self._started(pid).write(message["stream"], base64.b64decode(data, validate=True))
                except ValueError:
                    raise ProtocolViolation("output that is not base64") from None
            case {"event": "ended", "command": int(pid), "status": int(status)}:
                self._end(self._started(pid), status)
            case {"event": "changed", "watch": int(number), "changes": list(changes)}:
                if number in self._watches:
                    self._watches[number].add(changes)
            case _:
                raise ProtocolViolation("a message out of turn")

    def _end(self, log: CommandLog, status: int) -> None:
        if status != 0 and self._limits.memory_ran_out():
            self._limits.forget_kills()
            log.set_verdict(Outcome.OUT_OF_MEMORY, OUT_OF_MEMORY)
        log.end(status)

    def _started(self, pid: int) -> CommandLog:
        """Return the log of a command that was started.

        Raises:
            ProtocolViolation: there is none of this pid.
        """
        if pid not in self._commands:
            raise ProtocolViolation("output of a command that was not started")
        return self._commands[pid]
