"""One session: a container of its own, an interpreter for each of its contexts, and a guest agent once it is needed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

from actors.backends.jail import fork_protocol
from actors.backends.jail.host import wire
from actors.backends.jail.host.container import Container
from actors.backends.jail.host.guest_agent_client import OUT_OF_CPU_TIME, OUT_OF_MEMORY, GuestAgentClient
from actors.backends.jail.host.process import ContainerProcess
from actors.backends.jail.host.run_limits import EnforcedLimits
from actors.backends.jail.host.usage import BackgroundUsage
from actors.backends.output import OutputBetweenRuns
from actors.errors import ActionFailed, ContextLost, InvalidRequest, SandboxLost, SessionBusy
from actors.schemas import Outcome
from actors.schemas import action as do
from actors.schemas.request import Language

MAX_CONTEXTS = 16
WATCH_S = 0.25
"""How often it is looked at what a session does between its programs."""


@dataclass(slots=True)
class Context:
    """An interpreter that keeps state between programs; without a process it is lost, until it is restarted."""

    name: str
    language: Language
    cwd: str
    process: ContainerProcess | None
    between: OutputBetweenRuns
    begun: bool = False
    """Whether it has had its first program, and with it its limits and its directory."""

    def describe(self) -> do.ContextInfo:
        alive = self.process is not None and not self.process.ended
        return do.ContextInfo(context=self.name, language=self.language, cwd=self.cwd, alive=alive)


class JailSession:
    """A session whose programs run one at a time, with actions on files and commands beside them."""

    def __init__(
        self,
        container: Container,
        limits: EnforcedLimits,
        output_bytes: int,
        *,
        forkable: bool = False,
        begun: bool = False,
    ) -> None:
        container.share()
        self.container, self._limits, self._output_bytes = container, limits, output_bytes
        self.forkable = forkable
        self.parent: JailSession | None = None
        """The session that this is a fork of, in whose container this one's is nested."""
        self.forks: set[JailSession] = set()
        self.closed = False
        between = OutputBetweenRuns(output_bytes)
        first = Context(do.DEFAULT_CONTEXT, "python", ".", container.interpreter, between, begun)
        self._contexts = {first.name: first}
        self._running: Context | None = None
        self._agent: GuestAgentClient | None = None
        self._starting_agent, self._changing = asyncio.Lock(), asyncio.Lock()
        self.base_bytes = limits.enforce()
        """The memory of its control group that its own is counted from."""
        self._watch = asyncio.ensure_future(self._watch_background())
        self.paused = False

    @property
    def alive(self) -> bool:
        return not self.container.gone.is_set()

    @contextlib.contextmanager
    def program(self, name: str | None, language: Language) -> Iterator[tuple[Context, ContainerProcess]]:
        """Reserve a context for one program.

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
        if context.process is None or context.process.ended:
            raise ContextLost(f"the interpreter of context {context.name!r} has ended; restart it, files are kept")
        self.resume()
        self._running = context
        try:
            yield context, context.process
        finally:
            self._running = None

    async def lose(self, context: Context) -> None:
        """End the interpreter of a context, which is lost until it is restarted."""
        process, context.process = context.process, None
        if process is not None:
            await self.container.kill_process(process)

    async def fork(self) -> JailSession:
        """Return a session that starts from the same interpreter and files, without its threads and other processes.

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
        if context.process is None or context.process.ended:
            raise ContextLost("the interpreter of the session has ended; restart it, files are kept")
        if self._running is not None:
            raise SessionBusy("a program is running in the session; interrupt it, or wait for its end")
        self.resume()
        async with self._changing:
            container = await self.container.fork(context.process, self._limits.disk_mib)
        forked = JailSession(container, self._limits, self._output_bytes, forkable=True, begun=context.begun)
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
                pass  # it has been resumed above
            case do.StartCommand():
                agent = await self._running_agent()
                return wire.decoded(action.kind, await agent.start_command(action.model_dump()))
            case _:
                agent = await self._running_agent()
                return wire.decoded(action.kind, await agent.call(wire.encoded(action)))
        return None

    async def follow(self, action: do.Followed) -> AsyncGenerator[do.Event]:
        """Yield what comes of an action as it happens; leaving early ends what it started.

        Raises:
            ActionFailed, SandboxLost: as ``perform``.
        """
        self.resume()
        agent = await self._running_agent()
        match action:
            case do.WatchDirectory():
                async with contextlib.aclosing(agent.watch(action.model_dump())) as changes:
                    async for change in changes:
                        yield change
                return
            case do.StartCommand():
                started = await agent.start_command(action.model_dump())
                log = agent.command(started["pid"])
            case do.FollowCommand():
                log = agent.command(action.pid)
        try:
            async with contextlib.aclosing(log.follow()) as events:
                async for event in events:
                    yield event
        finally:
            if isinstance(action, do.StartCommand):
                # Shielded: a follower that leaves early has usually been cancelled.
                await asyncio.shield(agent.kill(log))

    def resume(self) -> None:
        """Let a paused session go on."""
        if self.paused:
            self.paused = False
            self.container.thaw()

    def close(self) -> None:
        """End every call and log that somebody waits for; the container is for the sandbox to end."""
        self._watch.cancel()
        if self._agent is not None:
            self._agent.close()

    def _pause(self) -> None:
        if self._running is not None:
            raise SessionBusy("a program is running in the session; interrupt it, or wait for its end")
        if not self.paused:
            self.paused = True
            self.container.freeze()

    async def _open_context(self, action: do.OpenContext) -> do.ContextInfo:
        async with self._changing:
            if action.context in self._contexts:
                raise ActionFailed("exists", f"there is a context {action.context!r} already")
            if len(self._contexts) == MAX_CONTEXTS:
                raise ActionFailed("too_many", f"a session has at most {MAX_CONTEXTS} contexts; close one first")
            process = await self.container.start_process(fork_protocol.INTERPRETER)
            between = OutputBetweenRuns(self._output_bytes)
            context = Context(action.context, action.language, action.cwd, process, between)
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
            context.process, context.begun = await self.container.start_process(role), False
            return context.describe()

    def _interrupt(self, name: str) -> None:
        context = self._known(name)
        if context is self._running and context.process is not None:
            self.container.interrupt(context.process)

    def _known(self, name: str) -> Context:
        context = self._contexts.get(name)
        if context is None:
            raise ActionFailed("not_found", f"there is no context {name!r} in this session")
        return context

    async def _running_agent(self) -> GuestAgentClient:
        """Return the guest agent, which is started when it is first needed, and again if it was killed."""
        async with self._starting_agent:
            if self._agent is not None and self._agent.alive:
                return self._agent
            if self._agent is not None:
                self._agent.close()
                await self.container.kill_process(self._agent.process)
            if not self.alive:
                raise SandboxLost("the session has ended")
            process = await self.container.start_process(fork_protocol.GUEST_AGENT)
            agent = GuestAgentClient(process, self._output_bytes, self._limits)
            if (limits := self._limits.for_process()) is not None:
                await agent.call({"kind": "limits", "limits": limits})
            self._agent = agent
            return agent

    async def _watch_background(self) -> None:
        """End what a session does between its programs once that has used its CPU time or, with no control group,
        memory: first its commands, and if that was not enough all its processes.
        """
        meter, limits = self.container.meter, self._limits
        usage, forks = BackgroundUsage(meter), 0
        while self.alive:
            await asyncio.sleep(WATCH_S)
            # What a fork has used, its container's end would bring all at once.
            if self.paused or self._running is not None or len(self.forks) != forks:
                forks = len(self.forks)
                usage.restart()
                continue
            used_s, most_mib = usage.cpu_s(), limits.watched_mib
            limits.charge(used_s)
            if used_s > limits.cpu_s:
                await self._end_background(Outcome.TIMEOUT, OUT_OF_CPU_TIME)
            elif most_mib is not None and meter.memory_mib(most_mib) > most_mib:
                await self._end_background(Outcome.OUT_OF_MEMORY, OUT_OF_MEMORY)
            else:
                continue
            usage.restart()

    async def _end_background(self, outcome: Outcome, message: str) -> None:
        agent = self._agent
        if agent is not None and agent.busy:
            agent.set_verdict(outcome, message)
            with contextlib.suppress(SandboxLost):  # one that does not die, its container's end will
                await self.container.kill_process(agent.process)
        else:
            self.container.kill_outer()
