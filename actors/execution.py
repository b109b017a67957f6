"""The path of a run: route → cache → breaker → queue → rate limit → sandbox → report.

Inside, the service's own failures are raised; ``RequestPath.execute`` turns every one of them into
an outcome, here and nowhere else.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.backends.base import Emit
from actors.config import Settings
from actors.core import determinism
from actors.core.backoff import Backoff, RetryBudget
from actors.core.result_cache import Follow, Hit, Lead, cache_key
from actors.core.router import BackendView, Route, route
from actors.errors import (
    ActorUnavailable,
    BreakerOpen,
    InvalidRequest,
    Rejected,
    SandboxFailed,
    ServiceError,
    StaleGrant,
)
from actors.grants import Held
from actors.schemas import (
    ExecutionRequest,
    ExecutionResult,
    GrantUse,
    Limits,
    Outcome,
    Program,
    ProgramReport,
    SandboxAnswer,
    Timings,
    Wanted,
)
from actors.telemetry import get_logger

PREPARE_MARGIN_S = 5.0
"""What a sandbox may need beyond the program's own timeout: a replacement, the kill, the way back."""
log = get_logger(__name__)


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
    async def acquire(self, wanted: Wanted) -> Held: ...
    def release(self, held: Held, used_s: float, priority: int, healthy: bool = True, programs: int = 1) -> None: ...


class Tokens(Protocol):
    async def spend(self, backend: str, count: int = 1) -> None:
        """Raises ``RateLimited``."""
        ...


class SandboxFace(Protocol):
    async def execute(self, use: GrantUse, program: Program, fresh: bool) -> SandboxAnswer: ...
    async def execute_many(self, use: GrantUse, programs: list[Program]) -> list[SandboxAnswer | ServiceError]: ...
    def stream(self, use: GrantUse, program: Program, fresh: bool) -> Any: ...


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


@dataclass(slots=True)
class Run:
    """One run on its way, and the time it spent in each stage."""

    request: ExecutionRequest
    run_id: str
    emit: Emit | None = None
    sandbox_id: str | None = None
    """Where the session lives, if the run is in one."""
    started_at: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)
    route: Route | None = None
    held: Held | None = None
    answer: SandboxAnswer | None = None

    def took(self, stage: str, since: float) -> None:
        self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - since


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
            return self.failed(run, error)

    def choose_route(self, run: Run) -> Route:
        since = time.perf_counter()
        request, settings = run.request, self._settings.router
        requested: str | None = settings.local if request.backend == "local" else request.backend
        if request.session is not None and requested is None and run.sandbox_id is not None:
            requested = run.sandbox_id.split("-")[0]
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
        since = time.perf_counter()
        try:
            if determinism.score(request.code, request.files).score < settings.min_score:
                return None
            assert run.route is not None
            return cache_key(
                user=None if settings.shared else request.user,
                code=request.code,
                language=request.language,
                files=request.files,
                env=request.env,
                stdin=request.stdin,  # type: ignore[arg-type]  # bytes or None once validated
                build_tag=self.services.build_tag(run.route.backend),
                limits=self.limits(request).model_dump_json() + f" {request.timeout_s}",
                isolation=run.route.backend,
            )
        finally:
            run.took("cache_s", since)

    def limits(self, request: ExecutionRequest) -> Limits:
        """The request's limits, with the deployment's where it says nothing."""
        asked = request.limits.model_dump(exclude_none=True)
        return self._default_limits.model_copy(update=asked) if asked else self._default_limits

    def program(self, run: Run) -> Program:
        request = run.request
        return Program.model_construct(
            run_id=run.run_id,
            code=request.code,
            language=request.language,
            timeout_s=request.timeout_s,
            env=request.env,
            files=request.files,
            stdin=request.stdin,
            limits=self.limits(request),
            session=request.session,
        )

    def wanted(self, run: Run, backend: str, programs: int = 1, timeout_s: float | None = None) -> Wanted:
        request = run.request
        return Wanted(
            backend=backend,
            user=request.user,
            priority=request.priority,
            deadline_s=self._settings.queue.max_wait_s,
            ttl_s=(timeout_s or request.timeout_s) + PREPARE_MARGIN_S,
            programs=programs,
            sandbox_id=run.sandbox_id if request.session else None,
        )

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
            return self.from_cache(run, found.value)
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
            return self.from_cache(run, found.value)  # the second run says nothing about the program
        self.services.cache.observe(key, _same(found.value, result))
        return result

    def settle(self, claims: list[tuple[str | None, str | None, ExecutionResult | None]]) -> None:
        """Publish what is worth keeping, give the other claims up; what was never claimed is passed over."""
        settled: list[Claim] = []
        for key, claim_id, result in claims:
            if key is not None and claim_id is not None:
                settled.append((key, claim_id, result if result is not None and _lasting(result) else None))
        if settled:
            self.services.cache.settle(settled)

    async def execute_chunk(self, runs: list[Run], backend: str) -> list[ExecutionResult]:
        """Run programs of one user, none of a session, on one grant and in one call.

        Raises:
            ServiceError: all of them share its fate.
        """
        first, services = runs[0], self.services
        services.breakers.permit(backend)
        total_s = sum(run.request.timeout_s for run in runs)
        since = time.perf_counter()
        held = await services.grants.acquire(self.wanted(first, backend, len(runs), total_s))
        queue_s = time.perf_counter() - since
        healthy = True
        ok: bool | None = None
        generation, own_s = 0, 0.0
        started_at = time.perf_counter()
        try:
            generation = services.breakers.permit(backend)
            await services.tokens.spend(backend, len(runs))
            use = held.next_use(total_s + PREPARE_MARGIN_S)
            programs = [self.program(run) for run in runs]
            answers = await services.sandboxes[held.grant.sandbox_id].execute_many(use, programs)
            ok = not any(isinstance(answered, SandboxFailed) for answered in answers)
            executed_s = sum(answered.execute_s for answered in answers if isinstance(answered, SandboxAnswer))
            own_s = (time.perf_counter() - started_at - executed_s) / len(runs)
        except StaleGrant:
            healthy = False
            raise
        except SandboxFailed:
            healthy = ok = False
            raise
        finally:
            used_s = time.perf_counter() - started_at
            services.grants.release(held, used_s, first.request.priority, healthy, len(runs))
            if ok is not None:
                services.breakers.report(backend, generation, ok, own_s)
        results = []
        for run, answered in zip(runs, answers, strict=True):
            run.held, run.stages["queue_s"] = held, queue_s
            if isinstance(answered, SandboxAnswer):
                results.append(self.finished(run, answered, backend))
            else:
                results.append(self.failed(run, answered))
        return results

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
        services = self.services
        services.breakers.permit(backend)
        since = time.perf_counter()
        held = run.held = await services.grants.acquire(self.wanted(run, backend))
        run.took("queue_s", since)
        started_at = time.perf_counter()
        healthy = True
        # Known only of a call that reached a sandbox and was not given up: the rest says nothing of the backend.
        ok: bool | None = None
        generation = 0
        try:
            # Asked again, since waiting may have outlived the first answer; this one carries the generation.
            generation = services.breakers.permit(backend)
            await services.tokens.spend(backend)
            run.took("limit_s", started_at)
            started_at = time.perf_counter()
            run.answer = await self._in_sandbox(run, held)
            ok = run.answer.report.outcome is not Outcome.INFRA
        except StaleGrant:
            healthy = False
            raise
        except SandboxFailed:
            healthy = ok = False
            raise
        finally:
            # Of a cancelled run too: the sandbox was told, and ends the program before it runs another.
            used_s = time.perf_counter() - started_at
            services.grants.release(held, used_s, run.request.priority, healthy)
            if ok is not None:
                own_s = used_s - (run.answer.execute_s if run.answer else 0.0)
                services.breakers.report(backend, generation, ok, own_s)
        self._backoff.succeeded()
        return self.finished(run, run.answer, backend)

    async def _in_sandbox(self, run: Run, held: Held) -> SandboxAnswer:
        sandbox = self.services.sandboxes[held.grant.sandbox_id]
        program = self.program(run)
        use = held.next_use(run.request.timeout_s + PREPARE_MARGIN_S)
        if run.emit is None:
            return await sandbox.execute(use, program, run.request.fresh)
        async for item in sandbox.stream(use, program, run.request.fresh):
            if isinstance(item, SandboxAnswer):
                return item
            run.emit(item)
        raise SandboxFailed("the sandbox's stream ended without an answer", may_have_run=True)

    def finished(self, run: Run, answer: SandboxAnswer, backend: str) -> ExecutionResult:
        """The result of a program that a sandbox reported on."""
        report = answer.report
        run.stages["prepare_s"], run.stages["execute_s"] = answer.prepare_s, answer.execute_s
        grant = run.held.grant if run.held else None
        return self._result(
            run,
            report,
            backend=backend,
            sandbox_id=grant.sandbox_id if grant else None,
            generation=answer.generation,
            retryable=report.outcome is Outcome.INFRA and (run.request.idempotent or not report.may_have_run),
            error_code="infra" if report.outcome is Outcome.INFRA else None,
        )

    def failed(self, run: Run, error: ServiceError) -> ExecutionResult:
        """The result of a run that the service failed or would not take."""
        may_have_run = bool(getattr(error, "may_have_run", False))
        report = ProgramReport(
            outcome=Outcome.REJECTED if isinstance(error, (Rejected, InvalidRequest)) else Outcome.INFRA,
            message=str(error),
            may_have_run=may_have_run,
        )
        return self._result(
            run,
            report,
            backend=run.route.backend if run.route else None,
            sandbox_id=run.held.grant.sandbox_id if run.held else None,
            retryable=error.retryable and (run.request.idempotent or not may_have_run),
            error_code=error.code,
            retry_after_s=getattr(error, "retry_after_s", None) or None,
        )

    def from_cache(self, run: Run, value: ExecutionResult) -> ExecutionResult:
        return value.model_copy(
            update={"run_id": run.run_id, "user": run.request.user, "cached": True, "timings": self._timings(run)}
        )

    def _result(self, run: Run, report: ProgramReport, **more: Any) -> ExecutionResult:
        return ExecutionResult.model_construct(
            **dict(report),
            run_id=run.run_id,
            user=run.request.user,
            route=run.route.why if run.route else "",
            timings=self._timings(run),
            **more,
        )

    def _timings(self, run: Run) -> Timings:
        stages: dict[str, Any] = run.stages | {"total_s": time.perf_counter() - run.started_at}
        return Timings.model_construct(**stages)


def _lasting(result: ExecutionResult) -> bool:
    """Whether another run of the program would give the same: its own doing, and no memory address in it."""
    if result.outcome not in (Outcome.OK, Outcome.ERROR):
        return False
    shown = [result.stdout, result.stderr, *(rich.text or "" for rich in result.results)]
    shown += [result.error.value, result.error.traceback] if result.error else []
    return not any(map(determinism.shows_address, shown))


def _same(one: ExecutionResult, other: ExecutionResult) -> bool:
    fields = ("outcome", "stdout", "stderr", "results")
    return all(getattr(one, name) == getattr(other, name) for name in fields)
