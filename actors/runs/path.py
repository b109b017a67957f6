"""The path of a run: route → cache → breaker → queue → rate limit → sandbox → report.

Inside, the service's own failures are raised; ``RequestPath.execute`` turns every one of them into
an outcome, here and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from actors.config import Settings
from actors.core.backoff import Backoff, RetryBudget
from actors.core.determinism import verdict
from actors.core.result_cache import Hit, Lead, cache_key
from actors.core.router import Route, route
from actors.errors import ActorUnavailable, BreakerOpen, InvalidRequest, SandboxFailed, ServiceError, StaleGrant
from actors.runs.grants import HeldGrant
from actors.runs.results import failed, finished, from_cache, lasting, same
from actors.runs.run import Claim, Run, Services
from actors.schemas import ExecutionRequest, ExecutionResult, GrantRequest, Limits, Outcome, Program, SandboxAnswer

PREPARE_MARGIN_S = 5.0
"""What a sandbox may need beyond the program's own timeout: a replacement, the kill, the way back."""
_UNSAID = Limits()
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Call:
    """One call of a sandbox on a grant, and what it says of the backend."""

    wanted: GrantRequest
    held: HeldGrant
    started_at: float = field(default_factory=time.perf_counter)
    generation: int = 0
    ok: bool | None = None
    """Known only of a call that reached a sandbox and was not given up: the rest says nothing of the backend."""
    execute_s: float = 0.0
    """Spent by the programs, not by the backend."""


class RequestPath:
    """Carry runs through the system and say how each ended."""

    def __init__(self, settings: Settings, services: Services, rng: random.Random | None = None) -> None:
        self._settings, self.services = settings, services
        self._rng = rng or random.Random()
        self._backoff = Backoff(settings.retry, self._rng, RetryBudget())
        defaults = settings.limits
        self._default_limits = Limits(**defaults.model_dump())

    async def execute(self, run: Run) -> ExecutionResult:
        """Carry one run to its end.

        Raises:
            InvalidRequest: nothing ran. Every other failure is an outcome.
        """
        try:
            self.choose_route(run)
            key = self.cache_key(run)
            if key is None:
                return await self._uncached(run)
            return await self._cached(run, key)
        except InvalidRequest:
            raise
        except ServiceError as error:
            return failed(run, error)

    def choose_route(self, run: Run) -> Route:
        since = time.perf_counter()
        request, settings = run.request, self._settings.router
        requested: str | None = settings.local if request.backend == "local" else request.backend
        if requested is None and run.session_grant is not None:
            requested = run.session_grant.grant.backend
        run.route = route(
            request.code,
            policy=settings.policy,
            requested=requested,
            local=settings.local,
            available=self.services.backends(),
            needs_network=request.limits.network is True,
        )
        run.took("route_s", since)
        return run.route

    def cache_key(self, run: Run) -> str | None:
        """The key of a run whose result may be shared with another run, else None."""
        request, settings = run.request, self._settings.cache
        if not settings.enabled or request.cache == "off" or request.session or request.fresh or run.emit:
            return None
        if request.language != "python":
            return None  # what other languages' programs do is not judged
        since = time.perf_counter()
        try:
            if not verdict.judge(request.code, request.files).certain:
                return None
            assert run.route is not None
            return cache_key(
                user=None if settings.shared else request.user,
                code=request.code,
                language=request.language,
                files=request.files,
                env=request.env,
                stdin=request.stdin,
                seed=request.seed,
                outputs=request.outputs,
                build_tag=self.services.build_tag(run.route.backend),
                limits=self._limits(request).model_dump_json() + f" {request.timeout_s}",
                isolation=run.route.backend,
            )
        finally:
            run.took("cache_s", since)

    async def _cached(self, run: Run, key: str) -> ExecutionResult:
        since = time.perf_counter()
        try:
            # A follower's own patience: its leader may be stuck, and then it computes for itself.
            found = await self.services.cache.lookup(key, run.run_id, run.request.timeout_s)
        except ActorUnavailable as error:
            log.warning("cache unavailable, running uncached", extra={"run_id": run.run_id, "error": str(error)})
            return await self._uncached(run)
        finally:
            run.took("cache_s", since)
        if isinstance(found, Hit) and not found.verify:
            return from_cache(run, found.value)
        try:
            result = await self._uncached(run)
        except BaseException:
            if isinstance(found, Lead):
                self.settle([(key, found.claim_id, None)])
            raise
        if isinstance(found, Lead):
            self.settle([(key, found.claim_id, result)])
            return result
        if result.mask:
            return from_cache(run, found.value)  # the second run says nothing about the program
        self.services.cache.observe(key, same(found.value, result))
        return result

    def settle(self, claims: list[tuple[str | None, str | None, ExecutionResult | None]]) -> None:
        """Publish what is worth keeping, give the other claims up; what was never claimed is passed over."""
        settled: list[Claim] = []
        for key, claim_id, result in claims:
            if key is not None and claim_id is not None:
                settled.append((key, claim_id, result if result is not None and lasting(result) else None))
        if settled:
            self.services.cache.settle(settled)

    async def _uncached(self, run: Run) -> ExecutionResult:
        """Run it, trying again what certainly never started, on the next backend if this one's breaker is open."""
        assert run.route is not None
        backends = [run.route.backend, *run.route.fallbacks]
        attempt = 0
        while True:
            try:
                return await self._attempt(run, backends[0])
            except BreakerOpen:
                if len(backends) == 1:
                    raise
                backends.pop(0)
            except (SandboxFailed, ActorUnavailable) as error:
                if run.request.session or (getattr(error, "may_have_run", False) and not run.request.idempotent):
                    raise
                attempt += 1
                delay_s = self._backoff.next_delay(attempt, self._settings.queue.max_wait_s)
                if delay_s is None or not error.retryable:
                    raise
                log.info("trying again", extra={"run_id": run.run_id, "attempt": attempt, "error": str(error)})
                await asyncio.sleep(delay_s)

    async def _attempt(self, run: Run, backend: str) -> ExecutionResult:
        since = time.perf_counter()
        async with self._on_grant(self._wanted(run, backend), run.session_grant) as call:
            run.held = call.held
            run.took("queue_s", since)
            await self._admit(call)
            run.took("limit_s", call.started_at)
            call.started_at = time.perf_counter()
            answer = await self._in_sandbox(run, call.held)
            call.ok, call.execute_s = answer.report.outcome is not Outcome.INFRA, answer.execute_s
        self._backoff.succeeded()
        return finished(run, answer, backend)

    async def execute_chunk(self, runs: list[Run], backend: str) -> list[ExecutionResult]:
        """Run programs of one user, none of a session, on one grant and in one call.

        Raises:
            ServiceError: all of them share its fate.
        """
        total_s = sum(run.request.timeout_s for run in runs)
        since = time.perf_counter()
        async with self._on_grant(self._wanted(runs[0], backend, len(runs), total_s)) as call:
            for run in runs:
                run.held = call.held
                run.took("queue_s", since)
            await self._admit(call)
            for run in runs:
                run.took("limit_s", call.started_at)
            call.started_at = time.perf_counter()
            ticket = call.held.next_ticket(total_s + PREPARE_MARGIN_S)
            programs = [self._program(run) for run in runs]
            answers = await self.services.sandboxes[call.held.grant.sandbox_id].execute_many(ticket, programs)
            call.ok = not any(isinstance(answered, SandboxFailed) for answered in answers)
            call.execute_s = sum(answered.execute_s for answered in answers if isinstance(answered, SandboxAnswer))
        return [
            finished(run, answered, backend) if isinstance(answered, SandboxAnswer) else failed(run, answered)
            for run, answered in zip(runs, answers, strict=True)
        ]

    @asynccontextmanager
    async def _on_grant(self, wanted: GrantRequest, own: HeldGrant | None = None) -> AsyncIterator[Call]:
        """Wait for a sandbox and lend it for one call; then give it back, and report on the backend.

        A session has one of its ``own``, which is neither waited for nor given back.
        """
        services = self.services
        services.breakers.permit(wanted.backend)
        call = Call(wanted, own or await services.grants.acquire(wanted))
        healthy = True
        try:
            yield call
        except StaleGrant:
            healthy = False
            raise
        except SandboxFailed:
            healthy = call.ok = False
            raise
        finally:
            # Of a cancelled run too: the sandbox was told, and ends the program before it runs another.
            used_s = time.perf_counter() - call.started_at
            if own is None:
                services.grants.release(call.held, used_s, wanted.priority, healthy, wanted.programs)
            if call.ok is not None:
                own_s = (used_s - call.execute_s) / wanted.programs
                services.breakers.report(wanted.backend, call.generation, call.ok, own_s)

    async def _admit(self, call: Call) -> None:
        """Ask the breaker again, since waiting may have outlived its first answer, and spend the tokens."""
        call.generation = self.services.breakers.permit(call.wanted.backend)
        await self.services.tokens.spend(call.wanted.backend, call.wanted.programs)

    async def _in_sandbox(self, run: Run, held: HeldGrant) -> SandboxAnswer:
        sandbox = self.services.sandboxes[held.grant.sandbox_id]
        program = self._program(run)
        ticket = held.next_ticket(run.request.timeout_s + PREPARE_MARGIN_S)
        if run.emit is None:
            return await sandbox.execute(ticket, program, run.request.fresh)
        async for item in sandbox.stream(ticket, program, run.request.fresh):
            if isinstance(item, SandboxAnswer):
                return item
            run.emit(item)
        raise SandboxFailed("the sandbox's stream ended without an answer", may_have_run=True)

    def _limits(self, request: ExecutionRequest, session: Limits = _UNSAID) -> Limits:
        """The request's limits, with its session's and the deployment's where it says nothing."""
        asked = request.limits.model_dump(exclude_none=True)
        if session is not _UNSAID:
            asked = session.model_dump(exclude_none=True) | asked
        return self._default_limits.model_copy(update=asked) if asked else self._default_limits

    def _program(self, run: Run) -> Program:
        request = run.request
        return Program.model_construct(
            run_id=run.run_id,
            code=request.code,
            language=request.language,
            timeout_s=request.timeout_s,
            env=self._settings.env | run.session_env | request.env,
            files=request.files,
            outputs=request.outputs,
            stdin=request.stdin,
            seed=request.seed,
            limits=self._limits(request, run.session_limits),
            session=request.session,
            context=request.context,
        )

    def _wanted(self, run: Run, backend: str, programs: int = 1, timeout_s: float | None = None) -> GrantRequest:
        request = run.request
        return GrantRequest(
            backend=backend,
            user=request.user,
            priority=request.priority,
            deadline_s=self._settings.queue.max_wait_s,
            ttl_s=(timeout_s or request.timeout_s) + PREPARE_MARGIN_S,
            programs=programs,
        )
