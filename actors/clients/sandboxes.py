"""Clients of sandbox actors, and how those are created."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import ray
from cachetools import LRUCache

from actors.clients import cluster, registry
from actors.clients.calls import CALL_TIMEOUT_S, UNHURRIED, ActorClient
from actors.config import Settings
from actors.errors import ActorUnavailable, SandboxLost, ServiceError, UnknownSession
from actors.schemas import GrantTicket, Limits, OutputEvent, Program, SandboxAnswer, SandboxStatus
from actors.schemas.action import Answer, Event, Followed, Performed

ACTION_TIMEOUT_S = 60.0
"""For what is done in a session, which the backend gives up earlier."""
REMEMBERED = 1024
"""Sandboxes whose handles are kept; far more than a deployment has at a time."""


class SandboxClient(ActorClient):
    """One sandbox actor, by its id."""

    async def start(self, timeout_s: float) -> SandboxStatus:
        status: SandboxStatus = await self.call("start", timeout_s=timeout_s)
        return status

    async def check(self, timeout_s: float) -> SandboxStatus:
        status: SandboxStatus = await self.call("check", timeout_s=timeout_s)
        return status

    async def renew(self, timeout_s: float) -> SandboxStatus:
        status: SandboxStatus = await self.call("renew", timeout_s=timeout_s)
        return status

    async def execute(self, ticket: GrantTicket, program: Program, fresh: bool) -> SandboxAnswer:
        answered: SandboxAnswer = await self._ask("execute", ticket.ttl_s, ticket, program, fresh)
        return answered

    async def execute_many(self, ticket: GrantTicket, programs: list[Program]) -> list[SandboxAnswer | ServiceError]:
        answered: list[SandboxAnswer | ServiceError] = await self._ask("execute_many", ticket.ttl_s, ticket, programs)
        return answered

    async def execute_in_session(self, program: Program, ttl_s: float) -> SandboxAnswer:
        self._expect_session()
        answered: SandboxAnswer = await self._ask("execute_in_session", ttl_s, program, ttl_s)
        return answered

    def stream(self, ticket: GrantTicket, program: Program, fresh: bool) -> AsyncGenerator[OutputEvent | SandboxAnswer]:
        return self._stream("stream", ticket.ttl_s, ticket, program, fresh)

    def stream_in_session(self, program: Program, ttl_s: float) -> AsyncGenerator[OutputEvent | SandboxAnswer]:
        self._expect_session()
        return self._stream("stream_in_session", ttl_s, program, ttl_s)

    async def open_session(self, ticket: GrantTicket, session: str, forkable: bool, limits: Limits) -> None:
        await self.call("open_session", ticket, session, forkable, limits, timeout_s=ticket.ttl_s)

    async def fork_session(self, session: str, forks: list[str]) -> None:
        await self.call("fork_session", session, forks, timeout_s=ACTION_TIMEOUT_S)

    async def close_session(self, session: str) -> None:
        await self.call("close_session", session)

    async def perform(self, session: str, action: Performed) -> Answer:
        answered: Answer = await self.call("perform", session, action, timeout_s=ACTION_TIMEOUT_S)
        return answered

    def follow(self, session: str, action: Followed) -> AsyncGenerator[Event]:
        return self.call_streaming("follow", session, action, **UNHURRIED)

    async def end_sessions(self) -> None:
        await self.call("end_sessions")

    async def stop(self, timeout_s: float) -> None:
        await self.call("stop", timeout_s=timeout_s)

    async def _ask(self, method: str, ttl_s: float, *args: Any) -> Any:
        try:
            return await self.call(method, *args, timeout_s=ttl_s + CALL_TIMEOUT_S)
        except ActorUnavailable as error:
            raise self._lost(error) from None

    async def _stream(self, method: str, ttl_s: float, *args: Any) -> AsyncGenerator[OutputEvent | SandboxAnswer]:
        try:
            async with asyncio.timeout(ttl_s + CALL_TIMEOUT_S), aclosing(self.call_streaming(method, *args)) as items:
                async for item in items:
                    yield item
        except TimeoutError:
            raise SandboxLost("the sandbox did not answer in time", may_have_run=True) from None
        except ActorUnavailable as error:
            raise self._lost(error) from None

    def _expect_session(self) -> None:
        """See that there is an actor to ask, since afterwards nobody could tell whether the program ran.

        Raises:
            UnknownSession: there is none.
        """
        try:
            _ = self.actor
        except ActorUnavailable:
            raise UnknownSession("the session was lost with its sandbox; open a new one") from None

    def _lost(self, error: BaseException) -> BaseException:
        # A call to an actor that dies may or may not have been carried out: nobody can tell.
        if isinstance(error, ActorUnavailable):
            return SandboxLost(f"sandbox {self.name} {error.what} while a program may have been running", True)
        return error


class SandboxClients:
    """Clients of sandbox actors by id; the least recently used are forgotten, since sandboxes come and go."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._clients: LRUCache[str, SandboxClient] = LRUCache(REMEMBERED)

    def __getitem__(self, sandbox_id: str) -> SandboxClient:
        client: SandboxClient | None = self._clients.get(sandbox_id)
        if client is None:
            client = self._clients[sandbox_id] = SandboxClient(self._namespace, sandbox_id)
        return client


class SandboxActors:
    """The sandbox actors of a deployment: creates, finds and kills them."""

    def __init__(self, sandbox_class: type, settings: Settings) -> None:
        self._sandbox_class, self._settings = sandbox_class, settings

    def create(self, sandbox_id: str, backend: str) -> None:
        """Create one, found by its id from now on; it still has to be started."""
        slots = cluster.has_slots()
        (
            ray.remote(self._sandbox_class)
            .options(
                name=sandbox_id,
                namespace=self._settings.namespace,
                lifetime="detached",
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=1000,
                enable_task_events=False,
                # Without slots a share too small to matter.
                num_cpus=0 if slots else 0.001,
                resources={cluster.SLOT: 1} if slots else None,
            )
            .remote(sandbox_id, backend, self._settings)
        )

    def client(self, sandbox_id: str) -> SandboxClient:
        return SandboxClient(self._settings.namespace, sandbox_id)

    def names(self) -> list[str]:
        """Ids of those that exist, whoever made them."""
        return registry.sandbox_names(self._settings.namespace)

    def kill(self, sandbox_id: str) -> None:
        """End one at once; one that is gone already is not an error."""
        registry.kill(sandbox_id, self._settings.namespace)
