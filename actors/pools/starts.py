"""How sandboxes of one backend are brought up: at the plan's rate, and slower where starts fail."""

from __future__ import annotations

import asyncio
import random
import time

from actors.backends.specs import BackendSpec
from actors.clients import cluster
from actors.clients.sandboxes import SandboxActors, SandboxClient
from actors.clients.singletons import LimiterClient
from actors.core.limits.health import Outcomes
from actors.core.pool.demand import StartBackoff
from actors.errors import ActorUnavailable, RateLimited, Rejected, ServiceError, Throttled
from actors.pools.permits import Permits
from actors.schemas import SandboxStatus

LEAST_WAIT_S = 0.02
REPORT_S = 1.0
"""The limiter hears of outcomes so often."""


class Starts:
    """Starts sandboxes, waits after failures, and exchanges news of the backend's health with the limiter."""

    def __init__(self, spec: BackendSpec, actors: SandboxActors, limiter: LimiterClient) -> None:
        self._spec, self._actors, self._limiter = spec, actors, limiter
        self._pool = spec.row.pool
        self._outcomes = Outcomes()
        self.permits = Permits(spec, limiter)
        self.backoff = StartBackoff(time.monotonic, random.Random())
        self.health = 1.0
        """How well the backend does by what everybody has told the limiter, from 0 to 1."""
        self.succeeded = self.failed = 0
        self.last_error: ServiceError | None = None
        """Why the last start failed; None once one has succeeded."""

    async def bring_up(self, client: SandboxClient) -> SandboxStatus:
        """Create a sandbox actor under its client's name, and start it.

        Raises:
            ServiceError: it did not start; something of it may be left.
        """
        try:
            await self.permits.take(client.name)
            await self._creation_token()
            status = await self._started(client)
        except ServiceError as error:
            self.failed += 1
            self.last_error = error
            self.backoff.failed(self.health)
            raise
        self.succeeded += 1
        self.last_error = None
        self.backoff.succeeded()
        return status

    def note_failure(self) -> None:
        """Count a sandbox that failed in another way than by not starting."""
        self._outcomes += Outcomes(failed=1)

    async def report(self) -> None:
        """Tell the limiter what there is and what has happened since, and learn the backend's health."""
        await self.permits.renew()
        told, self._outcomes = self._outcomes, Outcomes()
        try:
            self.health = await self._limiter.report(self._spec.name, "creation", told)
        except ActorUnavailable:
            self._outcomes += told  # told when the limiter is back
            raise

    async def _started(self, client: SandboxClient) -> SandboxStatus:
        since = time.monotonic()
        try:
            self._actors.create(client.name, self._spec.name)
            status = await client.start(self._pool.start_timeout_s)
        except Throttled:
            self._outcomes += Outcomes(throttled=1)
            raise
        except ServiceError as failed:
            error = cluster.no_room() or failed if isinstance(failed, ActorUnavailable) else failed
            if not isinstance(error, Rejected):  # a full cluster is no failure of the backend
                self._outcomes += Outcomes(failed=1)
            raise error from None
        slow = time.monotonic() - since >= self._pool.slow_start_s
        self._outcomes += Outcomes(failed=1) if slow else Outcomes(succeeded=1)
        return status

    async def _creation_token(self) -> None:
        """Wait for leave to create; the plan's rate holds for all creations of the account."""
        deadline = time.monotonic() + self._pool.start_timeout_s
        while (lease := await self._limiter.lease("supervisor", self._spec.name, "creation", 1)).granted < 1:
            if time.monotonic() + lease.retry_after_s > deadline:
                raise RateLimited("no sandbox may be created yet", lease.retry_after_s)
            await asyncio.sleep(max(lease.retry_after_s, LEAST_WAIT_S))
        # Spent at once: a lease that is still out would keep the next token from being issued.
        self._limiter.give_back(lease.lease_id, 0)
