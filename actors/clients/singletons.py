"""Clients of the actors that a deployment has one of each."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from actors.clients.calls import CALL_TIMEOUT_S, ActorClient, answer
from actors.core.breakers import BackendSnapshot, CallOutcome
from actors.core.limits.health import Outcomes
from actors.core.limits.rate_limits import TokenLease
from actors.core.limits.token_bucket import Decision
from actors.core.queue.reports import Lost, QueueNews, Watched
from actors.core.result_cache import Follow, Hit, Lead
from actors.core.router import BackendView
from actors.errors import ActorUnavailable
from actors.schemas import ExecutionResult, Grant, GrantRelease, GrantRequest

Claim = tuple[str, str, ExecutionResult | None]
"""A key, the claim on it, and the result to publish; None gives the claim up."""


class CacheClient(ActorClient):
    name = "ResultCache"

    async def lookup(self, key: str, claimant: str, wait_s: float) -> Hit | Lead:
        """A ``Hit``, or a ``Lead`` to compute and publish; waits at most ``wait_s`` for somebody else's result."""
        found: Hit | Lead = await self.call("lookup", key, claimant, wait_s, timeout_s=wait_s + CALL_TIMEOUT_S)
        return found

    async def lookup_many(self, keys: list[tuple[str, str]]) -> list[Hit | Lead | Follow]:
        """For each (key, claimant); waits for nobody."""
        found: list[Hit | Lead | Follow] = await self.call("lookup_many", keys)
        return found

    def settle(self, claims: list[Claim]) -> None:
        """Publish results or give claims up. Not awaited: what is lost costs one run."""
        self.actor.settle.remote(claims)

    def observe(self, key: str, equal: bool) -> None:
        self.actor.observe.remote(key, equal)


class BreakerClient(ActorClient):
    name = "CircuitBreaker"

    async def report(self, outcomes: list[CallOutcome]) -> dict[str, BackendSnapshot]:
        """Tell outcomes; returns the state of every backend's breakers."""
        answered: dict[str, BackendSnapshot] = await self.call("report", outcomes)
        return answered


class LimiterClient(ActorClient):
    name = "RateLimiter"

    async def lease(self, holder: str, backend: str, operation: str, wanted: int) -> TokenLease:
        lease: TokenLease = await self.call("lease", holder, backend, operation, wanted)
        return lease

    def give_back(self, lease_id: str, unused: int) -> None:
        self.actor.give_back.remote(lease_id, unused)

    async def reserve(self, holder: str, backend: str) -> Decision:
        """Ask for a place for one more sandbox of a backend."""
        decision: Decision = await self.call("reserve", holder, backend)
        return decision

    def release(self, holder: str, backend: str) -> None:
        self.actor.release.remote(holder, backend)

    async def renew(self, holder: str, backend: str, held: int) -> None:
        """Say that the holder lives, and for how many sandboxes it has a place."""
        await self.call("renew", holder, backend, held)

    async def report(self, backend: str, operation: str, outcomes: Outcomes) -> float:
        """Tell how calls of a backend ended; returns how well it does, from 0 to 1."""
        health: float = await self.call("report", backend, operation, outcomes)
        return health

    def tell(self, backend: str, operation: str, outcomes: Outcomes) -> None:
        """Like ``report``, without waiting: what is lost is a part of a moving average."""
        self.actor.report.remote(backend, operation, outcomes)


class QueueClient(ActorClient):
    name = "FairQueue"

    async def acquire(self, wanted: GrantRequest, releases: list[GrantRelease], timeout_s: float) -> Grant:
        """Wait for a grant; one that comes when the caller has given up goes back by itself."""
        waiter_id = uuid.uuid4().hex
        ref: Any = self.actor.acquire.remote(waiter_id, wanted, releases)
        try:
            granted: Grant = await answer(ref, timeout_s, self.name)
        except (ActorUnavailable, asyncio.CancelledError):
            # Cancelling the call is not enough: it may have been answered, and Ray drops what a cancelled call returns.
            self.actor.give_up.remote(wanted.backend, waiter_id)
            raise
        return granted

    def release(self, releases: list[GrantRelease]) -> None:
        self.actor.release.remote(releases)

    async def news(self, known: QueueNews, wait_s: float) -> QueueNews:
        """What a holder of grants should know; answers when that differs from ``known``."""
        answered: QueueNews = await self.call("news", known, wait_s, timeout_s=wait_s + CALL_TIMEOUT_S)
        return answered

    async def pin(self, backend: str, sandbox_id: str, user: str) -> None:
        """Keep a sandbox for this user's session, so that it is handed to nobody.

        Raises:
            StaleGrant: it was lost before the session could have it; another may be had.
        """
        await self.call("pin", backend, sandbox_id, user)

    def unpin(self, backend: str, sandbox_id: str, healthy: bool = True) -> None:
        """Let everybody have a sandbox again; an unhealthy one is examined first."""
        self.actor.unpin.remote(backend, sandbox_id, healthy)

    async def reregister(self, grants: list[Grant], pins: list[tuple[str, str, str]]) -> Lost:
        """After a restart of the queue: tell what is held, and learn what of it must not be used any more."""
        lost: Lost = await self.call("reregister", grants, pins)
        return lost

    async def abandon(self) -> None:
        """End what an earlier life of this caller held and waited for."""
        await self.call("abandon")

    async def offer(self, backend: str, sandbox_id: str, generation: int) -> None:
        await self.call("offer", backend, sandbox_id, generation)

    async def withdraw(self, backend: str, sandbox_id: str) -> bool:
        leased: bool = await self.call("withdraw", backend, sandbox_id)
        return leased

    async def resize(self, backend: str, concurrency: int) -> None:
        await self.call("resize", backend, concurrency)

    async def watch(self, backend: str, wait_s: float) -> Watched:
        answered: Watched = await self.call("watch", backend, wait_s, timeout_s=wait_s + CALL_TIMEOUT_S)
        return answered


class SupervisorClient(ActorClient):
    name = "PoolSupervisor"

    async def backends(self) -> dict[str, BackendView]:
        """Every backend of the deployment, as it is now."""
        answered: dict[str, BackendView] = await self.call("backends")
        return answered
