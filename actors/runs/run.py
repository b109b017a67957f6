"""A run on its way, and what it needs of the rest of the system."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.backends.base import Emit
from actors.core.result_cache import Follow, Hit, Lead
from actors.core.router import BackendView, Route
from actors.errors import ServiceError
from actors.runs.grants import HeldGrant
from actors.schemas import ExecutionRequest, ExecutionResult, GrantRequest, GrantTicket, Limits, Program, SandboxAnswer


@dataclass(slots=True)
class Run:
    """One run on its way, and the time it spent in each stage."""

    request: ExecutionRequest
    run_id: str
    emit: Emit | None = None
    session_grant: HeldGrant | None = None
    """The session's own use of its sandbox, if the run is in one."""
    session_env: dict[str, str] = field(default_factory=dict)
    session_limits: Limits = field(default_factory=Limits)
    """What its session says of all its programs."""
    started_at: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)
    route: Route | None = None
    held: HeldGrant | None = None

    def took(self, stage: str, since: float) -> None:
        self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - since


Claim = tuple[str, str, ExecutionResult | None]
"""A key, the claim on it, and the result to publish; None gives the claim up."""


class Cache(Protocol):
    async def lookup_many(self, keys: list[tuple[str, str]]) -> list[Hit | Lead | Follow]: ...
    async def lookup(self, key: str, claimant: str, wait_s: float) -> Hit | Lead: ...
    def settle(self, claims: list[Claim]) -> None: ...
    def observe(self, key: str, equal: bool) -> None: ...


class Breakers(Protocol):
    def permit(self, backend: str) -> int:
        """The generation to report with. Raises ``BreakerOpen``."""
        ...

    def report(self, backend: str, generation: int, ok: bool, seconds: float) -> None: ...


class Grants(Protocol):
    async def acquire(self, wanted: GrantRequest) -> HeldGrant: ...
    def release(
        self, held: HeldGrant, used_s: float, priority: int, healthy: bool = True, programs: int = 1
    ) -> None: ...


class Tokens(Protocol):
    async def spend(self, backend: str, count: int = 1) -> None:
        """Raises ``RateLimited``."""
        ...


class SandboxFace(Protocol):
    async def execute(self, ticket: GrantTicket, program: Program, fresh: bool) -> SandboxAnswer: ...
    async def execute_many(
        self, ticket: GrantTicket, programs: list[Program]
    ) -> list[SandboxAnswer | ServiceError]: ...
    def stream(self, ticket: GrantTicket, program: Program, fresh: bool) -> Any: ...


class Sandboxes(Protocol):
    def __getitem__(self, sandbox_id: str) -> SandboxFace: ...


@dataclass(frozen=True, slots=True)
class Services:
    """What a run needs of the rest of the system."""

    cache: Cache
    breakers: Breakers
    grants: Grants
    tokens: Tokens
    sandboxes: Sandboxes
    backends: Callable[[], Mapping[str, BackendView]]
    build_tag: Callable[[str], str]
