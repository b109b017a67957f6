"""Typed faces of the actors: the only place that says ``.remote``.

Every call has a deadline, and giving up, for whatever reason, cancels the remote side too: ``asyncio.wait_for`` alone
would leave it running. Ray's failures become ours.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError, TaskCancelledError

from actors.config import Settings
from actors.core.breaker import BreakerSnapshot
from actors.errors import ActorUnavailable, PoolExhausted, SandboxLost, ServiceError
from actors.sandbox import Sandbox
from actors.schemas import (
    Granted,
    GrantUse,
    Limits,
    OutputEvent,
    Program,
    Release,
    SandboxAnswer,
    SandboxStatus,
    Wanted,
)
from actors.schemas.action import Answer, Event, Followed, Performed

T = TypeVar("T")
CALL_TIMEOUT_S = 10.0
"""For a call that does not wait for anything but the actor itself, which may just be restarting."""

ACTION_TIMEOUT_S = 60.0
"""For what is done in a session, which the backend gives up earlier."""
UNHURRIED: dict[str, Any] = {"num_returns": "streaming", "_generator_backpressure_num_objects": 16}
"""Options of a stream that waits for who takes it, so that what they leave lying does not grow."""


async def answer(ref: Any, timeout_s: float, actor: str) -> Any:
    """Await a remote call.

    Raises:
        ServiceError: what the actor itself raised, or ``ActorUnavailable`` if it is gone or did not answer in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await ref
    except TimeoutError:
        _cancel(ref)
        raise ActorUnavailable(actor, f"did not answer within {timeout_s:g} s") from None
    except asyncio.CancelledError:
        _cancel(ref)
        raise
    except RayError as error:
        raise translated(error, actor) from None


def translated(error: RayError, actor: str) -> BaseException:
    """Our error for one of Ray's."""
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, ServiceError):
            return error.cause
        if isinstance(error.cause, TaskCancelledError):
            return asyncio.CancelledError()
        return ActorUnavailable(actor, f"failed inside: {error.cause!r}")
    if isinstance(error, TaskCancelledError):
        return asyncio.CancelledError()
    return ActorUnavailable(actor, "is gone or restarting" if isinstance(error, RayActorError) else repr(error))


def _cancel(ref: Any) -> None:
    # A streaming generator is cancelled by the same call.
    ray.cancel(ref)


class ActorClient:
    """A named actor of the deployment, looked up again when its handle fails."""

    name = ""

    def __init__(self, namespace: str, name: str | None = None) -> None:
        self._namespace = namespace
        if name is not None:
            self.name = name
        self._handle: ActorHandle[Any] | None = None

    @property
    def actor(self) -> ActorHandle[Any]:
        if self._handle is None:
            try:
                self._handle = ray.get_actor(self.name, namespace=self._namespace)
            except ValueError:
                raise ActorUnavailable(self.name, "is not there (yet)") from None
        return self._handle

    async def call(self, method: str, *args: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        return await self.call_with(method, args, {}, timeout_s)

    async def call_with(
        self, method: str, args: tuple[Any, ...], keywords: dict[str, Any], timeout_s: float = CALL_TIMEOUT_S
    ) -> Any:
        try:
            return await answer(getattr(self.actor, method).remote(*args, **keywords), timeout_s, self.name)
        except ActorUnavailable:
            self._handle = None
            raise


class CacheClient(ActorClient):
    name = "ResultCache"

    async def lookup(self, key: str, claimant: str, wait_s: float) -> Any:
        """A ``Hit``, or a ``Lead`` to compute and publish; waits at most ``wait_s`` for somebody else's result."""
        return await self.call("lookup", key, claimant, wait_s, timeout_s=wait_s + CALL_TIMEOUT_S)

    async def lookup_many(self, keys: list[tuple[str, str]]) -> Any:
        """For each (key, claimant) a ``Hit``, ``Lead`` or ``Follow``; waits for nobody."""
        return await self.call("lookup_many", keys)

    def settle(self, claims: list[Any]) -> None:
        """Publish results or give claims up. Not awaited: what is lost costs one run."""
        self.actor.settle.remote(claims)

    def observe(self, key: str, equal: bool) -> None:
        self.actor.observe.remote(key, equal)


class BreakerClient(ActorClient):
    name = "CircuitBreaker"

    async def report(self, outcomes: list[tuple[str, int, bool, float]]) -> dict[str, BreakerSnapshot]:
        """Tell outcomes as (backend, generation, ok, seconds); returns every breaker's state."""
        answered: dict[str, BreakerSnapshot] = await self.call("report", outcomes)
        return answered


class LimiterClient(ActorClient):
    name = "RateLimiter"

    async def lease(self, holder: str, backend: str, operation: str, wanted: int) -> Any:
        return await self.call("lease", holder, backend, operation, wanted)

    def give_back(self, lease_id: str, unused: int) -> None:
        self.actor.give_back.remote(lease_id, unused)

    def report(self, backend: str, succeeded: int, failed: int, throttled: int) -> None:
        self.actor.report.remote(backend, succeeded, failed, throttled)


class QueueClient(ActorClient):
    name = "FairQueue"

    async def acquire(self, wanted: Wanted, releases: list[Release], timeout_s: float) -> Granted:
        """Wait for a grant; one that comes when the caller has given up goes back by itself."""
        waiter_id = uuid.uuid4().hex
        ref: Any = self.actor.acquire.remote(waiter_id, wanted, releases)
        try:
            granted: Granted = await answer(ref, timeout_s, self.name)
        except (ActorUnavailable, asyncio.CancelledError):
            # Cancelling the call is not enough: it may have been answered, and Ray drops what a cancelled call returns.
            self.actor.give_up.remote(wanted.backend, waiter_id)
            raise
        return granted

    def release(self, releases: list[Release]) -> None:
        self.actor.release.remote(releases)

    async def contention(self, known: dict[str, tuple[str, ...]], wait_s: float) -> dict[str, tuple[str, ...]]:
        """Which users wait, per backend; answers when that differs from ``known``."""
        answered: dict[str, tuple[str, ...]] = await self.call("contention", known, wait_s, timeout_s=wait_s + 10)
        return answered

    async def pin(self, backend: str, sandbox_id: str, user: str) -> None:
        """Keep a sandbox for this user alone.

        Raises:
            PoolExhausted: too many are pinned already.
        """
        await self.call("pin", backend, sandbox_id, user)

    def unpin(self, backend: str, sandbox_id: str) -> None:
        self.actor.unpin.remote(backend, sandbox_id)

    async def reregister(self, grants: list[Granted]) -> list[str]:
        """After a restart of the queue: ids of the grants that must not be used any more."""
        lost: list[str] = await self.call("reregister", grants)
        return lost

    async def abandon(self) -> None:
        """End what an earlier life of this caller held and waited for."""
        await self.call("abandon")

    async def offer(self, backend: str, sandbox_id: str, generation: int) -> None:
        await self.call("offer", backend, sandbox_id, generation)

    async def withdraw(self, backend: str, sandbox_id: str) -> bool:
        leased: bool = await self.call("withdraw", backend, sandbox_id)
        return leased

    async def watch(self, backend: str, wait_s: float) -> Any:
        return await self.call("watch", backend, wait_s, timeout_s=wait_s + CALL_TIMEOUT_S)


class SandboxClient(ActorClient):
    """One sandbox actor, by its id."""

    async def start(self, timeout_s: float) -> SandboxStatus:
        status: SandboxStatus = await self.call("start", timeout_s=timeout_s)
        return status

    async def check(self, timeout_s: float) -> SandboxStatus:
        status: SandboxStatus = await self.call("check", timeout_s=timeout_s)
        return status

    async def execute(self, use: GrantUse, program: Program, fresh: bool) -> SandboxAnswer:
        answered: SandboxAnswer = await self._run("execute", use, program, fresh)
        return answered

    async def execute_many(self, use: GrantUse, programs: list[Program]) -> list[SandboxAnswer | ServiceError]:
        answered: list[SandboxAnswer | ServiceError] = await self._run("execute_many", use, programs)
        return answered

    async def stream(self, use: GrantUse, program: Program, fresh: bool) -> AsyncIterator[OutputEvent | SandboxAnswer]:
        generator: Any = self.actor.stream.options(num_returns="streaming").remote(use, program, fresh)
        try:
            async with asyncio.timeout(use.ttl_s + CALL_TIMEOUT_S):
                async for ref in generator:
                    yield await ref
        except TimeoutError:
            raise SandboxLost("the sandbox did not answer in time", may_have_run=True) from None
        except RayError as error:
            raise self._lost(translated(error, self.name)) from None
        finally:
            _cancel(generator)

    async def open_session(self, use: GrantUse, session: str, forkable: bool, limits: Limits) -> None:
        await self.call("open_session", use, session, forkable, limits, timeout_s=use.ttl_s)

    async def fork_session(self, session: str, forks: list[str]) -> None:
        await self.call("fork_session", session, forks, timeout_s=ACTION_TIMEOUT_S)

    async def close_session(self, session: str) -> None:
        await self.call("close_session", session)

    async def perform(self, session: str, action: Performed) -> Answer:
        answered: Answer = await self.call("perform", session, action, timeout_s=ACTION_TIMEOUT_S)
        return answered

    async def follow(self, session: str, action: Followed) -> AsyncGenerator[Event]:
        generator: Any = self.actor.follow.options(**UNHURRIED).remote(session, action)
        try:
            async for ref in generator:
                yield await ref
        except RayError as error:
            raise translated(error, self.name) from None
        finally:
            _cancel(generator)

    async def stop(self, timeout_s: float) -> None:
        await self.call("stop", timeout_s=timeout_s)

    async def _run(self, method: str, use: GrantUse, *args: Any) -> Any:
        try:
            return await self.call(method, use, *args, timeout_s=use.ttl_s + CALL_TIMEOUT_S)
        except ActorUnavailable as error:
            raise self._lost(error) from None

    def _lost(self, error: BaseException) -> BaseException:
        # A call to an actor that dies may or may not have been carried out: nobody can tell.
        if isinstance(error, ActorUnavailable):
            return SandboxLost(f"sandbox {self.name} {error.what} while a program may have been running", True)
        return error


class SupervisorClient(ActorClient):
    name = "PoolSupervisor"


def was_restarted() -> bool:
    """Whether this is a later life of the actor that it is called in: its memory, and others' trust in it, is gone."""
    return ray.is_initialized() and bool(ray.get_runtime_context().was_current_actor_reconstructed)


def create_sandbox(settings: Settings, sandbox_id: str, backend: str) -> None:
    """Create a sandbox actor, found by its id from now on; it still has to be started."""
    slots = ray.cluster_resources().get("sandbox_slot", 0)
    (
        ray.remote(Sandbox)
        .options(
            name=sandbox_id,
            namespace=settings.namespace,
            lifetime="detached",
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=1000,
            enable_task_events=False,
            # A slot is what the autoscaler sees the demand by; without slots a share too small to matter.
            num_cpus=0 if slots else 0.001,
            resources={"sandbox_slot": 1} if slots else None,
        )
        .remote(sandbox_id, backend, settings)
    )


def no_room() -> PoolExhausted | None:
    """Why a sandbox actor could not be placed, if the cluster's slots are all taken."""
    slots = int(ray.cluster_resources().get("sandbox_slot", 0))
    if slots == 0 or ray.available_resources().get("sandbox_slot", 0) >= 1:
        return None
    return PoolExhausted(f"all {slots} of the cluster's sandbox_slot are taken; add nodes, or lower pool.max_size")


class SandboxClients:
    """Clients of sandbox actors by id."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._clients: dict[str, SandboxClient] = {}

    def __getitem__(self, sandbox_id: str) -> SandboxClient:
        client = self._clients.get(sandbox_id)
        if client is None:
            client = self._clients[sandbox_id] = SandboxClient(self._namespace, sandbox_id)
        return client

    def forget(self, sandbox_ids: Iterable[str]) -> None:
        for sandbox_id in sandbox_ids:
            self._clients.pop(sandbox_id, None)
