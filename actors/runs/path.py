"""The path of a run: admit → replay a key → cache → breaker → queue → rate limit → sandbox → report.

Inside, the service's own failures are raised; ``RequestPath._outcome`` turns every one of them into a result, there
and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial

from actors.backends.base import OUTPUTS_S, PREPARE_S
from actors.config import Settings
from actors.core.backoff import Backoff, RetryBudget
from actors.core.breakers import CallPermit
from actors.core.determinism import verdict
from actors.core.result_cache import Hit, cache_key
from actors.core.router import Route, route
from actors.errors import (
    ActorUnavailable,
    BreakerOpen,
    Draining,
    InvalidRequest,
    Rejected,
    SandboxFailed,
    SandboxLost,
    ServiceError,
    StaleGrant,
    Throttled,
)
from actors.runs.grants import HeldGrant
from actors.runs.results import failed, finished, from_cache, lasting, same
from actors.runs.run import Run
from actors.runs.services import Services
from actors.runs.session_record import SessionRecord
from actors.schemas import (
    ExecutionRequest,
    ExecutionResult,
    GrantRequest,
    Limits,
    Outcome,
    OutputEvent,
    Program,
    SandboxAnswer,
)

MARGIN_S = 8.0
"""What a sandbox may need beyond the program's own timeout: a replacement, the kill, the way back."""
_UNSAID = Limits()
log = logging.getLogger(__name__)
Stage = Callable[[Run], Awaitable[ExecutionResult]]


@dataclass(slots=True)
class BackendCall:
    """One call of a sandbox, and what it says of its backend."""

    started_at: float = field(default_factory=time.perf_counter)
    ok: bool | None = None
    """Known only of a call that was answered: one that was given up, or refused for its grant, says nothing."""
    execute_s: float = 0.0
    """Spent by the programs, not by the backend."""


class RequestPath:
    """Carries runs through the system and says how each ended."""

    def __init__(self, settings: Settings, services: Services, rng: random.Random | None = None) -> None:
        self._settings, self.services = settings, services
        self._backoff = Backoff(settings.retry, rng or random.Random(), RetryBudget())
        rows = settings.backends.items()
        self._default_limits = {name: Limits(**row.limits.model_dump()) for name, row in rows}
        self.draining = False
        """Whether nothing new is accepted."""

    async def carry(self, run: Run, *, raise_invalid: bool = True) -> ExecutionResult:
        """Carry one run to its end.

        Raises:
            InvalidRequest: nothing ran; unless ``raise_invalid`` is False, since in a batch that is a result too. Every
                other failure is an outcome.
        """
        self.start_clock(run)
        stage = self._admitted if run.request.idempotency_key is None else self._run_or_replay
        return await self._outcome(run, stage, raise_invalid)

    async def carry_chunk(self, runs: list[Run]) -> list[ExecutionResult]:
        """Run admitted programs of one user and one backend, none of a session, on one grant and in one call.

        What certainly did not start is then tried by itself, as any other run: the programs of a chunk do not share
        what only some of them suffered from.
        """
        for run in runs:
            self.start_clock(run)
        answers: list[SandboxAnswer | ServiceError]
        results: dict[str, ExecutionResult] = {}
        try:
            try:
                answers = await self._attempt_chunk(runs)
            except ServiceError as error:
                answers = [error] * len(runs)
            for run, answer in zip(runs, answers, strict=True):
                results[run.run_id] = await self._outcome(run, partial(self._after_chunk, answer=answer))
        finally:
            self._settle(results, runs)
        return list(results.values())

    def admit(self, run: Run) -> None:
        """Let a run in and choose its backend; a session's run goes where its session is.

        Raises:
            Draining: nothing new is accepted.
            Rejected, InvalidRequest: as the router raises them.
        """
        if self.draining:
            raise Draining("the deployment is draining and accepts nothing new")
        if run.request.session is None:
            since = time.perf_counter()
            run.route = self.route(run.request)
            run.took("route_s", since)

    def refusal(self, run: Run) -> ExecutionResult | None:
        """Let a run in as ``admit`` does; the result of one that is not let in."""
        try:
            self.admit(run)
        except ServiceError as error:
            return failed(run, error)
        return None

    def route(self, request: ExecutionRequest) -> Route:
        """Choose a backend for what is asked.

        Raises:
            Rejected, InvalidRequest: as the router raises them.
        """
        settings = self._settings.router
        return route(
            request.code,
            policy=settings.policy,
            requested=request.backend,
            image=request.image,
            local=settings.local,
            cloud=settings.cloud,
            available=self.services.backends(),
            needs_network=request.limits.network is True,
        )

    def note_cache_key(self, run: Run) -> str | None:
        """Give the run its key in the cache, if its result may be shared with other runs."""
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
            run.cache_key = cache_key(
                user=None if settings.shared else request.user,
                code=request.code,
                language=request.language,
                files=request.files,
                env=request.env,
                stdin=request.stdin,
                seed=request.seed,
                outputs=request.outputs,
                build_tag=self.services.backends()[run.route.backend].build_tag,
                limits=self._limits(run.route.backend, request).model_dump_json() + f" {request.timeout_s}",
                isolation=run.route.backend,
            )
            return run.cache_key
        finally:
            run.took("cache_s", since)

    def start_clock(self, run: Run) -> None:
        """Give the run its time to begin in; the first call counts, so that nothing on the way gives it more."""
        most_s = self._settings.queue.max_wait_s
        run.begin_within(min(run.request.max_wait_s or most_s, most_s))

    async def _outcome(self, run: Run, stage: Stage, raise_invalid: bool = False) -> ExecutionResult:
        """Carry the run through a stage and all that follows it; what the service fails at becomes a result."""
        try:
            return await stage(run)
        except ServiceError as error:
            if raise_invalid and isinstance(error, InvalidRequest):
                raise
            return failed(run, error)

    async def _run_or_replay(self, run: Run) -> ExecutionResult:
        key = run.request.idempotency_key
        assert key is not None
        # The ledger keeps results, so what fails on the way must have become one.
        start = partial(self._outcome, stage=self._admitted, raise_invalid=True)
        return await self.services.keyed.run_or_replay(run, key, start)

    async def _admitted(self, run: Run) -> ExecutionResult:
        self.admit(run)
        if run.request.session is not None:
            return await self._in_session(run, run.request.session)
        if self.note_cache_key(run) is None:
            return await self._attempt_and_retry(run)
        return await self._reuse_or_compute(run)

    async def _in_session(self, run: Run, session_id: str) -> ExecutionResult:
        """Run it in the sandbox that its session holds; nothing is asked of the queue, and nothing is tried twice."""
        since = time.perf_counter()
        async with self.services.sessions.use(run.request.user, session_id, run.left_s()) as session:
            run.took("queue_s", since)
            result = await self._outcome(run, partial(self._attempt_in_session, session=session), raise_invalid=True)
            self.services.sessions.note(session_id, result)
            return result

    async def _reuse_or_compute(self, run: Run) -> ExecutionResult:
        key, since = run.cache_key, time.perf_counter()
        assert key is not None
        try:
            # A follower's own patience: its leader may be stuck, and then it computes for itself.
            wait_s = min(run.request.timeout_s, run.left_s())
            found = await self.services.cache.lookup(key, run.run_id, wait_s)
        except ActorUnavailable as error:
            log.warning("cache unavailable, running uncached", extra={"run_id": run.run_id, "error": str(error)})
            return await self._attempt_and_retry(run)
        finally:
            run.took("cache_s", since)
        if isinstance(found, Hit):
            return await self._verify(run, key, found) if found.verify else from_cache(run, found.value)
        run.claim_id = found.claim_id
        results: dict[str, ExecutionResult] = {}
        try:
            results[run.run_id] = await self._attempt_and_retry(run)
        finally:
            self._settle(results, [run])
        return results[run.run_id]

    async def _verify(self, run: Run, key: str, hit: Hit) -> ExecutionResult:
        """Run a program whose result is known, to see that it gives the same again."""
        result = await self._attempt_and_retry(run)
        if result.mask:
            return from_cache(run, hit.value)  # the second run says nothing about the program
        self.services.cache.observe(key, same(hit.value, result))
        return result

    def _settle(self, results: dict[str, ExecutionResult], runs: list[Run]) -> None:
        """Publish what is worth keeping, and give the other claims of these runs up."""
        claims = [
            (run.cache_key, run.claim_id, _publishable(run, results.get(run.run_id)))
            for run in runs
            if run.cache_key is not None and run.claim_id is not None
        ]
        if claims:
            self.services.cache.settle(claims)

    async def _attempt_and_retry(self, run: Run) -> ExecutionResult:
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
                if run.may_have_run and not run.request.idempotent:
                    raise
                attempt += 1
                delay_s = self._backoff.next_delay(attempt, run.left_s())
                if delay_s is None or not error.retryable:
                    raise
                log.info("trying again", extra={"run_id": run.run_id, "attempt": attempt, "error": str(error)})
                await asyncio.sleep(delay_s)

    async def _attempt(self, run: Run, backend: str) -> ExecutionResult:
        """Wait for a sandbox and run the program there."""
        permit = self.services.breakers.permit(backend, run.request.user)  # before it waits for nothing
        async with self._granted(run, self._grant_request([run], backend)) as held:
            run.sandbox_id = held.grant.sandbox_id
            async with self._reported(permit, [run]) as call:
                answer = await self._run_on_backend(run, held)
                call.ok, call.execute_s = answer.report.outcome is not Outcome.INFRA, answer.execute_s
        self._backoff.succeeded()
        return finished(run, answer, backend)

    async def _attempt_chunk(self, runs: list[Run]) -> list[SandboxAnswer | ServiceError]:
        assert runs[0].route is not None
        backend = runs[0].route.backend
        permit = self.services.breakers.permit(backend, runs[0].request.user)
        request = self._grant_request(runs, backend)
        async with self._granted(runs[0], request) as held:
            for run in runs:
                run.sandbox_id, run.stages["queue_s"] = held.grant.sandbox_id, runs[0].stages["queue_s"]
            async with self._reported(permit, runs) as call:
                programs = [self._program(run, backend) for run in runs]
                sandbox = self.services.sandboxes[held.grant.sandbox_id]
                answers = await sandbox.execute_many(held.next_ticket(request.ttl_s), programs)
                if any(isinstance(answer, Throttled) for answer in answers):
                    self.services.tokens.throttled(backend)
                call.ok = all(map(_well, answers))
                call.execute_s = sum(answer.execute_s for answer in answers if isinstance(answer, SandboxAnswer))
        return answers

    async def _after_chunk(self, run: Run, answer: SandboxAnswer | ServiceError) -> ExecutionResult:
        assert run.route is not None
        if isinstance(answer, SandboxAnswer):
            return finished(run, answer, run.route.backend)
        run.may_have_run = getattr(answer, "may_have_run", False)
        if not answer.retryable or (run.may_have_run and not run.request.idempotent):
            raise answer
        return await self._attempt_and_retry(run)

    async def _attempt_in_session(self, run: Run, session: SessionRecord) -> ExecutionResult:
        backend = session.backend
        run.route = Route(backend, (), f"{backend}: the session is there")
        if run.request.backend not in (None, "local", backend):
            raise InvalidRequest("backend", f"the session is on {backend!r}; leave it out, or name that one")
        if run.request.image not in (None, image := self.services.backends()[backend].image):
            raise InvalidRequest("image", f"the session's is {image!r}; leave it out, or name that one")
        run.sandbox_id = session.sandbox_id
        run.session_env, run.session_limits = session.env, session.limits
        permit = self.services.breakers.permit(backend, run.request.user)
        async with self._reported(permit, [run]) as call:
            answer = await self._run_in_session(run, session)
            call.ok, call.execute_s = answer.report.outcome is not Outcome.INFRA, answer.execute_s
        if session.made_way and answer.report.outcome is not Outcome.OK:
            raise SandboxLost("the session had to make way for another user's while it ran", may_have_run=True)
        return finished(run, answer, backend)

    @asynccontextmanager
    async def _granted(self, run: Run, request: GrantRequest) -> AsyncIterator[HeldGrant]:
        """Wait for a sandbox, lend it for one call, then give it back."""
        grants, since = self.services.grants, time.perf_counter()
        held = await grants.acquire(request)
        run.took("queue_s", since)
        healthy, since = True, time.perf_counter()
        try:
            yield held
        except Throttled:
            raise
        except SandboxFailed:
            healthy = False
            raise
        finally:
            # Of a cancelled run too: the sandbox was told, and ends the program before it runs another.
            grants.release(held, time.perf_counter() - since, request.priority, healthy, request.programs)

    @asynccontextmanager
    async def _reported(self, permit: CallPermit, runs: list[Run]) -> AsyncIterator[BackendCall]:
        """Make one call of a backend, unless it fails since leave for this was given, and say how it went."""
        services, since, backend = self.services, time.perf_counter(), permit.backend
        permit = services.breakers.confirm(permit)
        await services.tokens.spend(backend, len(runs), min(run.left_s() for run in runs))
        for run in runs:
            run.took("limit_s", since)
        call = BackendCall()
        try:
            yield call
        except StaleGrant:
            raise
        except Throttled:
            services.tokens.throttled(backend)
            raise
        except SandboxFailed:
            call.ok = False
            raise
        finally:
            if call.ok is not None:
                own_s = (time.perf_counter() - call.started_at - call.execute_s) / len(runs)
                services.breakers.report(permit, call.ok, own_s)

    async def _run_on_backend(self, run: Run, held: HeldGrant) -> SandboxAnswer:
        grant = held.grant
        sandbox, program = self.services.sandboxes[grant.sandbox_id], self._program(run, grant.backend)
        ticket, fresh = held.next_ticket(_lease_s([run])), run.request.fresh
        with _started(run):
            if run.emit is None:
                return await sandbox.execute(ticket, program, fresh)
            return await _passed_on(run, sandbox.stream(ticket, program, fresh))

    async def _run_in_session(self, run: Run, session: SessionRecord) -> SandboxAnswer:
        sandbox, program = self.services.sandboxes[session.sandbox_id], self._program(run, session.backend)
        ttl_s = _lease_s([run])
        with _started(run):
            if run.emit is None:
                return await sandbox.execute_in_session(program, ttl_s)
            return await _passed_on(run, sandbox.stream_in_session(program, ttl_s))

    def _limits(self, backend: str, request: ExecutionRequest, session: Limits = _UNSAID) -> Limits:
        """The request's limits, with its session's and the backend's where it says nothing."""
        asked = request.limits.model_dump(exclude_none=True)
        if session is not _UNSAID:
            asked = session.model_dump(exclude_none=True) | asked
        defaults = self._default_limits[backend]
        return defaults.model_copy(update=asked) if asked else defaults

    def _program(self, run: Run, backend: str) -> Program:
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
            limits=self._limits(backend, request, run.session_limits),
            session=request.session,
            context=request.context,
        )

    def _grant_request(self, runs: list[Run], backend: str) -> GrantRequest:
        request = runs[0].request
        return GrantRequest(
            backend=backend,
            user=request.user,
            priority=request.priority,
            deadline_s=min(run.left_s() for run in runs),
            ttl_s=_lease_s(runs),
            programs=len(runs),
        )


def _lease_s(runs: list[Run]) -> float:
    """How long a sandbox may take for these programs: so long that none of them can make the lease run out."""
    requests = [run.request for run in runs]
    files_s = sum(PREPARE_S for request in requests if request.files)
    outputs_s = sum(OUTPUTS_S for request in requests if request.outputs)
    return MARGIN_S + sum(map(_longest_s, runs)) + files_s + outputs_s


def _longest_s(run: Run) -> float:
    """How long the program may take, if it has to wait for a core for as long as it may."""
    asked_s, session_s = run.request.limits.cpu_wait_s, run.session_limits.cpu_wait_s
    return run.request.timeout_s + ((session_s if asked_s is None else asked_s) or 0.0)


@contextmanager
def _started(run: Run) -> Iterator[None]:
    """Note that the program may run from now on, unless the sandbox says that it did not."""
    before, run.may_have_run = run.may_have_run, True
    try:
        yield
    except (SandboxFailed, Rejected, InvalidRequest) as error:
        run.may_have_run = before or getattr(error, "may_have_run", False)
        raise


async def _passed_on(run: Run, events: AsyncGenerator[OutputEvent | SandboxAnswer]) -> SandboxAnswer:
    assert run.emit is not None
    async with aclosing(events):
        async for item in events:
            if isinstance(item, SandboxAnswer):
                return item
            run.emit(item)
    raise SandboxLost("the sandbox's stream ended without an answer", may_have_run=True)


def _well(answer: SandboxAnswer | ServiceError) -> bool:
    """Whether an answer says nothing against the backend."""
    if isinstance(answer, SandboxAnswer):
        return answer.report.outcome is not Outcome.INFRA
    return isinstance(answer, Throttled) or not isinstance(answer, SandboxFailed)


def _publishable(run: Run, result: ExecutionResult | None) -> ExecutionResult | None:
    """The result, if other runs may have it: the key names the backend, so not if it came from a fallback."""
    if result is None or run.route is None or result.backend != run.route.backend:
        return None
    return result if lasting(result) else None
