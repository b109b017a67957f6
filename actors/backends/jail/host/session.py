"""One session: a cell that is its own, an interpreter for each of its contexts, and an attendant once it is needed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

from actors.backends.jail import fork_protocol
from actors.backends.jail.host import wire
from actors.backends.jail.host.container import Cell
from actors.backends.jail.host.guest_agent_client import OUT_OF_MEMORY, AttendantClient
from actors.backends.jail.host.process import Inmate
from actors.backends.jail.host.run_limits import Allowance
from actors.errors import ActionFailed, ContextLost, InvalidRequest, SandboxLost, SessionBusy
from actors.schemas import Outcome
from actors.schemas import action as do
from actors.schemas.request import Language

MAX_CONTEXTS = 16
WATCH_S = 0.25
"""How often memory is looked at where no control group watches it."""


@dataclass(slots=True)
class Context:
    """An interpreter that remembers; without an inmate it is lost, until it is restarted."""

    name: str
    language: Language
    cwd: str
    inmate: Inmate | None
    begun: bool = False
    """It has been told its limits and its directory."""

    def describe(self) -> do.ContextInfo:
        alive = self.inmate is not None and not self.inmate.ended
        return do.ContextInfo(context=self.name, language=self.language, cwd=self.cwd, alive=alive)


class JailSession:
    """Its programs run one at a time; files and commands beside them."""

    def __init__(
        self, cell: Cell, allowance: Allowance, output_bytes: int, *, forkable: bool = False, begun: bool = False
    ) -> None:
        cell.share()
        self.cell, self._allowance, self._output_bytes = cell, allowance, output_bytes
        self.forkable = forkable
        self.parent: JailSession | None = None
        """The session that this is a fork of, whose cell this one's is within."""
        self.forks: set[JailSession] = set()
        self.closed = False
        first = Context(do.DEFAULT_CONTEXT, "python", ".", cell.interpreter, begun)
        self._contexts = {first.name: first}
        self._running: Context | None = None
        self._attendant: AttendantClient | None = None
        self._attending, self._changing = asyncio.Lock(), asyncio.Lock()
        self.base_bytes = allowance.begin()
        """What the memory of its control group is counted from."""
        self._watch: asyncio.Task[None] | None = None
        self.paused = False

    @property
    def alive(self) -> bool:
        return not self.cell.gone.is_set()

    @contextlib.contextmanager
    def program(self, name: str | None, language: Language) -> Iterator[tuple[Context, Inmate]]:
        """Take a context for one program.

        Raises:
            ContextLost: it is gone, or was never opened.
            InvalidRequest: its language is another.
        """
        context = self._contexts.get(name or do.DEFAULT_CONTEXT)
        if context is None:
            raise ContextLost(f"there is no context {name!r} in this session; open it first")
        if name is None and language != context.language and not context.begun:
            context.language = language  # a session's first program says what its first interpreter is
        if language != context.language:
            rule = f"context {context.name!r} of this session runs {context.language}; open another for {language}"
            raise InvalidRequest("language", rule)
        if context.inmate is None or context.inmate.ended:
            raise ContextLost(f"the interpreter of context {context.name!r} has ended; restart it, files are kept")
        self.resume()
        self._running = context
        try:
            yield context, context.inmate
        finally:
            self._running = None

    async def lose(self, context: Context) -> None:
        """End the interpreter of a context, which is lost until it is restarted."""
        inmate, context.inmate = context.inmate, None
        if inmate is not None:
            await self.cell.dismiss(inmate)

    async def fork(self) -> JailSession:
        """Return a session that starts from the same interpreter and files; threads and processes are not among them.

        Raises:
            ActionFailed: it was not opened to be forked, or its first interpreter is not Python, or lost.
            SessionBusy: a program is running.
            SandboxStartFailed: it does not fork.
        """
        if not self.forkable:
            raise ActionFailed("not_forkable", "open the session with forkable=True to fork it")
        context = self._contexts[do.DEFAULT_CONTEXT]
        if context.language != "python":
            raise ActionFailed("not_forkable", f"its first context runs {context.language}; only Python forks")
        if context.inmate is None or context.inmate.ended:
            raise ContextLost("the interpreter of the session has ended; restart it, files are kept")
        if self._running is not None:
            raise SessionBusy("a program is running in the session; interrupt it, or wait for its end")
        self.resume()
        async with self._changing:
            cell = await self.cell.fork(context.inmate, self._allowance.disk_mib)
        forked = JailSession(cell, self._allowance, self._output_bytes, forkable=True, begun=context.begun)
        forked.base_bytes = self.base_bytes
        forked.parent = self
        self.forks.add(forked)
        return forked

    async def perform(self, action: do.Performed) -> do.Answer:
        """Carry out one action.

        Raises:
            ActionFailed: it cannot be done.
            SandboxLost: the session did not answer.
        """
        if not isinstance(action, do.PauseSession):
            self.resume()
        match action:
            case do.OpenContext():
                return await self._open_context(action)
            case do.CloseContext():
                await self._close_context(action.context)
            case do.RestartContext():
                return await self._restart_context(action.context)
            case do.ListContexts():
                return [context.describe() for context in self._contexts.values()]
            case do.Interrupt():
                self._interrupt(action.context)
            case do.PauseSession():
                self._pause()
            case do.ResumeSession():
                pass  # it has been
            case do.StartCommand():
                attendant = await self._attended()
                return wire.decoded(action.kind, await attendant.start_command(action.model_dump()))
            case _:
                attendant = await self._attended()
                return wire.decoded(action.kind, await attendant.ask(wire.encoded(action)))
        return None

    async def follow(self, action: do.Followed) -> AsyncGenerator[do.Event]:
        """Yield what comes of an action as it happens; leaving early ends what it started.

        Raises:
            ActionFailed, SandboxLost: as ``perform``.
        """
        self.resume()
        attendant = await self._attended()
        match action:
            case do.WatchDirectory():
                async with contextlib.aclosing(attendant.watch(action.model_dump())) as changes:
                    async for change in changes:
                        yield change
                return
            case do.StartCommand():
                started = await attendant.start_command(action.model_dump())
                log = attendant.command(started["pid"])
            case do.FollowCommand():
                log = attendant.command(action.pid)
        try:
            async with contextlib.aclosing(log.follow()) as events:
                async for event in events:
                    yield event
        finally:
            if isinstance(action, do.StartCommand):
                # Shielded: who follows no more has usually been cancelled.
                await asyncio.shield(attendant.kill(log))

    def resume(self) -> None:
        """Let a paused session go on."""
        if self.paused:
            self.paused = False
            self.cell.thaw()

    def close(self) -> None:
        """Let everybody go who waits; the cell is ended by who made it."""
        if self._watch is not None:
            self._watch.cancel()
        if self._attendant is not None:
            self._attendant.close()

    def _pause(self) -> None:
        if self._running is not None:
            raise SessionBusy("a program is running in the session; interrupt it, or wait for its end")
        if not self.paused:
            self.paused = True
            self.cell.freeze()

    async def _open_context(self, action: do.OpenContext) -> do.ContextInfo:
        async with self._changing:
            if action.context in self._contexts:
                raise ActionFailed("exists", f"there is a context {action.context!r} already")
            if len(self._contexts) == MAX_CONTEXTS:
                raise ActionFailed("too_many", f"a session has at most {MAX_CONTEXTS} contexts; close one first")
            inmate = await self.cell.join(fork_protocol.INTERPRETER)
            context = Context(action.context, action.language, action.cwd, inmate)
            self._contexts[context.name] = context
            return context.describe()

    async def _close_context(self, name: str) -> None:
        async with self._changing:
            context = self._contexts.get(name)
            if context is None:
                return
            if name == do.DEFAULT_CONTEXT:
                raise ActionFailed("default_context", "the first context ends with its session; restart it instead")
            await self.lose(context)
            del self._contexts[name]

    async def _restart_context(self, name: str) -> do.ContextInfo:
        async with self._changing:
            context = self._known(name)
            await self.lose(context)
            forkable = self.forkable and name == do.DEFAULT_CONTEXT
            role = fork_protocol.FORKABLE if forkable else fork_protocol.INTERPRETER
            context.inmate, context.begun = await self.cell.join(role), False
            return context.describe()

    def _interrupt(self, name: str) -> None:
        context = self._known(name)
        if context is self._running and context.inmate is not None:
            self.cell.interrupt(context.inmate)

    def _known(self, name: str) -> Context:
        context = self._contexts.get(name)
        if context is None:
            raise ActionFailed("not_found", f"there is no context {name!r} in this session")
        return context

    async def _attended(self) -> AttendantClient:
        """Return the attendant, which is started when first needed, and again if it was killed."""
        async with self._attending:
            if self._attendant is not None and self._attendant.alive:
                return self._attendant
            if self._attendant is not None:
                self._attendant.close()
                await self.cell.dismiss(self._attendant.inmate)
            if not self.alive:
                raise SandboxLost("the session has ended")
            inmate = await self.cell.join(fork_protocol.ATTENDANT)
            attendant = AttendantClient(inmate, self._output_bytes, self._allowance)
            if (limits := self._allowance.own()) is not None:
                await attendant.ask({"kind": "limits", "limits": limits})
            self._attendant = attendant
            if self._allowance.watched_mib is not None and self._watch is None:
                self._watch = asyncio.ensure_future(self._watch_memory(self._allowance.watched_mib))
            return attendant

    async def _watch_memory(self, most_mib: int) -> None:
        """Where no control group does: end the commands of a session that holds too much between its programs."""
        while self.alive:
            await asyncio.sleep(WATCH_S)
            attendant = self._attendant
            if attendant is None or not attendant.busy or self._running is not None:
                continue
            if self.cell.meter.memory_mib(most_mib) > most_mib:
                attendant.condemn(Outcome.OUT_OF_MEMORY, OUT_OF_MEMORY)
                await self.cell.dismiss(attendant.inmate)
