"""The Orchestrator actor: the front of the system, and all that a Ray job talks to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Unpack

from actors.backends import specs
from actors.backends.base import Emit
from actors.backends.output import as_it_happens
from actors.clients import registry
from actors.clients.calls import ActorClient, was_restarted
from actors.clients.sandboxes import SandboxClients
from actors.clients.singletons import BreakerClient, LimiterClient, QueueClient, SupervisorClient
from actors.config import Settings
from actors.core.ceilings import Ceilings
from actors.core.queue.reports import QueueNews
from actors.core.router import BackendView
from actors.core.source import source_error
from actors.errors import ActorUnavailable, Draining, InvalidRequest, Rejected, ServiceError
from actors.runs import machine
from actors.runs.batch import Batch
from actors.runs.breaker_view import BreakerView
from actors.runs.grants import GrantKeeper
from actors.runs.keyed_runs import KeyedRuns
from actors.runs.ledger import Ledger
from actors.runs.near_cache import NearCache
from actors.runs.path import RequestPath
from actors.runs.results import not_source
from actors.runs.run import Run
from actors.runs.scoring import score
from actors.runs.services import Services
from actors.runs.session_table import SessionTable
from actors.runs.token_leases import TokenLeases
from actors.schemas import ExecutionRequest, ExecutionResult, Outcome, OutputEvent, RunOptions
from actors.schemas.action import Answer, Event, SessionInfo, followed, performed
from actors.schemas.request import checked_batch
from actors.schemas.score import Score, Submission
from actors.tasks import Tasks
from actors.telemetry.logs import log_as_json
from actors.telemetry.prometheus import EXPORT_S, Exporter
from actors.telemetry.statistics import RunStatistics

log = logging.getLogger(__name__)
NEWS_POLL_S = 20.0
"""How long the queue may stay silent while there is nothing new."""
REREGISTER_S = 0.1
"""How often a queue that is restarting is told what is held, until it listens."""
PAUSE_S = 1.0
"""Before a loop that failed begins anew."""
START_PATIENCE_S = 10.0
"""How long a run waits for a start, or restart, that is under way."""
MAX_FORKS = 64
"""The most that one call makes."""


class Orchestrator:
    """Run programs, whoever asks; every way to end is an ``ExecutionResult``.

    In memory only: which runs are in flight, which grants are held, where sessions live. A restart loses these: callers
    with a run in flight see Ray's ``ActorUnavailableError`` (``actors.outcome_of`` turns it into a result), what was
    running is given up, and sessions are gone. Keyed runs are remembered on disk.
    """

    def __init__(self, settings: Settings) -> None:
        log_as_json()
        self._settings = settings
        namespace = settings.namespace
        self._supervisor, self._queue = SupervisorClient(namespace), QueueClient(namespace)
        self._breaker, self._limiter = BreakerClient(namespace), LimiterClient(namespace)
        self._sandboxes = SandboxClients(namespace)
        self._backends: dict[str, BackendView] = {}
        self._grants = GrantKeeper(self._queue, settings.queue)
        self._services = Services(
            cache=NearCache(namespace, settings.cache),
            breakers=BreakerView(self._breaker, self._limiter),
            grants=self._grants,
            tokens=TokenLeases(self._limiter),
            sandboxes=self._sandboxes,
            sessions=SessionTable(settings, self._grants, self._sandboxes, self._queue),
            keyed=KeyedRuns(Ledger(settings.ledger, namespace)),
            backends=lambda: self._backends,
        )
        self._ceilings = Ceilings.derived(settings.max_limits, settings.default_limits, machine.memory_mib())
        self._path = RequestPath(settings, self._services)
        self._batch = Batch(self._path, lambda backend: self._backends[backend].concurrency)
        self._statistics = RunStatistics([spec.name for spec in specs.table(settings).values() if not spec.local])
        self._exporter = Exporter(namespace)
        self._in_flight = 0
        self._ready = asyncio.Event()
        self._taken_over = not was_restarted()
        # Here rather than in a call of somebody's, so that a restarted actor works again by itself.
        self._tasks = Tasks(lambda error: log.error("a loop failed and begins anew", exc_info=error))
        for loop in (self._hear_queue, self._look_at_pool, self._export):
            self._tasks.keep(loop, PAUSE_S)

    async def start(self) -> str:
        """Wait until the router knows the backends; returns the fingerprint of the configuration."""
        await self._ready.wait()
        with contextlib.suppress(ServiceError):  # a supervisor that is away now was there before
            self._take_in(await self._supervisor.backends())
        return self._settings.fingerprint()

    async def run(self, code: str, **options: Unpack[RunOptions]) -> ExecutionResult:
        """Run one program and say how it ended.

        Args:
            code: the program; the value of its last expression is the result's ``text``.
            user: whom limits, fairness and isolation apply to.
            language: ``"python"``, ``"bash"``, ``"javascript"`` or ``"typescript"``.
            timeout_s: the program is interrupted, then killed, after so many seconds.
            max_wait_s: it is rejected if it has not begun after so many seconds; None is the deployment's.
            session: id of an open session, whose interpreter and files it continues.
            context: which of the session's interpreters; None is its first.
            env: variables of this run only.
            files: name to content, put into the workspace before it starts.
            outputs: names or patterns of files to bring back, in the result's ``files``.
            stdin: what ``input()`` reads.
            seed: of ``random`` and ``numpy.random``, so that a program draws the same in every run.
            limits: ``Limits`` or a dict of its fields.
            priority: ``Priority.HIGH``, ``NORMAL`` or ``LOW``.
            backend: the backend that is to run it, by name, or ``"local"``; None lets the router choose.
            image: what its sandbox is to be made from; None leaves that to the backend.
            cache: ``"auto"`` shares results of deterministic programs, ``"off"`` never.
            idempotency_key: the program is started at most once for this key and user, across crashes too.
            idempotent: it may be started again if the service failed while it ran.
            fresh: demand a sandbox that nothing ever ran in.

        Raises:
            InvalidRequest: names the field and the rule; nothing ran.
        """
        return await self.run_request(ExecutionRequest.checked(code=code, **options))

    async def run_request(self, request: ExecutionRequest) -> ExecutionResult:
        """Run a request that a front door of this deployment has validated; it is not validated again.

        Raises:
            InvalidRequest: it asks for more than the deployment allows; nothing ran.
        """
        self._ceilings.check(request)
        return await self._carry(request)

    async def run_many(
        self, programs: Sequence[str | dict[str, Any]], **options: Unpack[RunOptions]
    ) -> list[ExecutionResult]:
        """Run many programs of one user; returns one result per program, in order.

        A program is its code, or a dict of ``code`` and options of its own. Whatever text the code is, it has a result.

        Raises:
            InvalidRequest: names the option, or the program and its option; nothing ran.
        """
        return await self._run_requests(await self._checked_batch(programs, options))

    async def stream(self, code: str, **options: Unpack[RunOptions]) -> AsyncIterator[OutputEvent | ExecutionResult]:
        """Like ``run``: a streaming generator of output events as they happen, then the result.

        ``actors.stream`` yields what it gives, without Ray's references.
        """
        request = ExecutionRequest.checked(code=code, **options)
        self._ceilings.check(request)
        async with contextlib.aclosing(as_it_happens(lambda emit: self._carry(request, emit))) as items:
            async for item in items:
                yield item

    async def stream_many(
        self, programs: Sequence[str | dict[str, Any]], **options: Unpack[RunOptions]
    ) -> AsyncIterator[tuple[int, ExecutionResult]]:
        """Like ``run_many``: pairs of index and result, as they finish."""
        requests = await self._checked_batch(programs, options)
        async with contextlib.aclosing(self._carry_many(requests)) as items:
            async for item in items:
                yield item

    async def score(self, code: str, cases: Sequence[Any], **options: Unpack[RunOptions]) -> Score:
        """Run a program once for each case and say which it passes; ``Case`` says what a case may ask.

        ``options`` are those of ``run``, for every case alike.

        Raises:
            InvalidRequest: names the option, or the case, the field and the rule; nothing ran.
        """
        return (await self._score([Submission.of({"code": code, "cases": cases})], options, alone=True))[0]

    async def score_many(self, programs: Sequence[dict[str, Any]], **options: Unpack[RunOptions]) -> list[Score]:
        """Score many programs, each a dict of ``code`` and ``cases``; returns their scores in order.

        Raises:
            InvalidRequest: names the option, or the program, the case, the field and the rule; nothing ran.
        """
        if not isinstance(programs, list | tuple):
            raise InvalidRequest("programs", "must be a list of dicts of code and cases")
        places = (("programs", str(index)) for index in range(len(programs)))
        return await self._score([*map(Submission.of, programs, places)], options)

    async def _score(
        self, submissions: list[Submission], options: Mapping[str, Any], alone: bool = False
    ) -> list[Score]:
        await self._begun()
        shared = ExecutionRequest.of({"code": "", **options})
        self._ceilings.check(shared)
        self._check_place(shared)
        return await score(submissions, self._run_requests, options, self._ceilings, alone)

    async def open_session(
        self,
        *,
        user: str = "default",
        backend: str | None = None,
        image: str | None = None,
        timeout_s: float = 30.0,
        env: dict[str, str] | None = None,
        limits: Any = None,
        forkable: bool = False,
    ) -> str:
        """Open a place that keeps interpreters, files and processes; returns the id for ``run(session=…)``.

        ``backend`` and ``image`` choose its sandbox as those of ``run`` do. ``env`` and ``limits`` are those of all its
        programs, unless a program says otherwise. Only one that is ``forkable`` can be forked; in the jail it goes
        without two of the walls, as its results say. Waits for at most ``timeout_s``. ``actors.Session`` is its face
        for people.

        Raises:
            Rejected: too many sessions, or no sandbox could be had.
        """
        await self._begun()
        if self._path.draining:
            raise Draining("the deployment is draining and accepts nothing new")
        place = {"user": user, "backend": backend, "image": image}
        request = ExecutionRequest.checked(code="pass", timeout_s=timeout_s, env=env, limits=limits, **place)
        self._ceilings.check(request)
        backend = self._path.route(request).backend
        return await self._services.sessions.open(user, backend, timeout_s, request.env, request.limits, forkable)

    async def fork_session(self, session: str, count: int = 1, *, user: str = "default") -> list[str]:
        """Open sessions that start from the same interpreter and files as this one has now; returns their ids.

        For many attempts from one preparation. Threads, processes and further contexts are not forked. Forks share the
        sandbox of their session and take turns in it.

        Raises:
            InvalidRequest: ``count`` is none from 1 to 64.
            Rejected: too many forks; the session is unknown, or runs a program.
            ActionFailed: it was not opened with ``forkable=True``, or its first context is not Python.
        """
        if not isinstance(count, int) or not 1 <= count <= MAX_FORKS:
            raise InvalidRequest("count", f"must be from 1 to {MAX_FORKS}")
        return await self._services.sessions.fork(user, session, count)

    async def list_sessions(self, *, user: str | None = None) -> list[SessionInfo]:
        """The open sessions, of one user or of all."""
        return self._services.sessions.infos(user)

    async def perform(self, session: str, action: Any, *, user: str = "default") -> Answer:
        """Do something in a session besides running programs; ``actors.schemas.action`` says what there is.

        Raises:
            InvalidRequest: that is no action, or a field of it breaks a rule.
            UnknownSession: there is no such session of this user.
            ActionFailed: it cannot be done; says why.
        """
        return await self._services.sessions.perform(user, session, performed(action))

    async def follow(self, session: str, action: Any, *, user: str = "default") -> AsyncIterator[Event]:
        """Like ``perform``: a streaming generator of what comes of it. Leaving early ends it."""
        async with contextlib.aclosing(self._services.sessions.follow(user, session, followed(action))) as events:
            async for event in events:
                yield event

    async def close_session(self, session: str, *, user: str = "default") -> None:
        """End a session; one that is gone already is not an error."""
        await self._services.sessions.close(user, session)

    async def get_metrics(self) -> dict[str, Any]:
        """Counters and states of every component, by section; a section whose actor is away says so."""
        sections: dict[str, Any] = {
            "orchestrator": self._statistics.snapshot()
            | {
                "in_flight": self._in_flight,
                "draining": self._path.draining,
                "grants_kept": self._grants.saved,
                "near_hits": self._services.cache.saved,
            }
        }
        asked: dict[str, ActorClient] = {
            "pool": self._supervisor,
            "queue": self._queue,
            "circuit_breaker": self._breaker,
            "cache": self._services.cache,
            "rate_limiter": self._limiter,
        }
        answers = await asyncio.gather(*(client.call("metrics") for client in asked.values()), return_exceptions=True)
        for name, answered in zip(asked, answers, strict=True):
            if isinstance(answered, BaseException) and not isinstance(answered, ServiceError):
                raise answered
            sections[name] = {"unavailable": str(answered)} if isinstance(answered, ServiceError) else answered
        sections["orchestrator"]["sessions"] = len(self._services.sessions)
        return sections

    async def health(self) -> dict[str, Any]:
        """Whether programs can run now; ``status`` is ``ok``, ``starting``, ``degraded`` or ``draining``."""
        try:
            pool: dict[str, Any] = await self._supervisor.call("health")
        except ActorUnavailable as error:
            pool = {"status": "degraded", "detail": str(error)}
        status = "draining" if self._path.draining else pool["status"]
        return {
            "status": status,
            "namespace": self._settings.namespace,
            "fingerprint": self._settings.fingerprint(),
            "in_flight": self._in_flight,
            "pool": pool,
        }

    async def drain(self, timeout_s: float = 60.0) -> bool:
        """Accept nothing new and wait for what is in flight; returns whether all of it ended in time."""
        self._path.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._in_flight:
                    await asyncio.sleep(0.02)
        return self._in_flight == 0

    async def shutdown(self, timeout_s: float = 10.0) -> None:
        """Drain for at most ``timeout_s``, then end every sandbox and every actor of the deployment."""
        await self.drain(timeout_s)
        self._tasks.cancel()
        self._grants.close()
        self._services.keyed.close()
        await self._supervisor.call("stop", timeout_s=30.0)
        # After this call has been answered.
        asyncio.get_running_loop().call_later(0.05, registry.kill_singletons, self._settings.namespace)

    async def _begun(self) -> None:
        """Let a start or restart that is just under way come to its end; without one, runs are refused."""
        if not self._ready.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), START_PATIENCE_S)

    async def _carry(self, request: ExecutionRequest, emit: Emit | None = None) -> ExecutionResult:
        run = Run(request, uuid.uuid4().hex, emit)
        self._path.start_clock(run)
        self._in_flight += 1
        try:
            if (error := source_error(request.code)) is not None:
                result = not_source(run, error)
            else:
                await self._begun()
                result = await self._path.carry(run)
        finally:
            self._in_flight -= 1
        self._record(result)
        return result

    async def _checked_batch(self, programs: Any, options: Mapping[str, Any]) -> list[ExecutionRequest]:
        requests = checked_batch(programs, options)
        if not requests:
            self._ceilings.check(ExecutionRequest.of({"code": "", **options}))
        for index, request in enumerate(requests):
            self._ceilings.check(request, f"programs.{index}.")
        await self._begun()
        for index, request in enumerate(requests):
            self._check_place(request, f"programs.{index}.")
        return requests

    async def _run_requests(self, requests: list[ExecutionRequest]) -> list[ExecutionResult]:
        results: dict[int, ExecutionResult] = {}
        async for index, result in self._carry_many(requests):
            results[index] = result
        return [results[index] for index in range(len(requests))]

    async def _carry_many(self, requests: list[ExecutionRequest]) -> AsyncGenerator[tuple[int, ExecutionResult]]:
        runs: list[tuple[int, Run]] = []
        for index, request in enumerate(requests):
            run = Run(request, uuid.uuid4().hex)
            if (error := source_error(request.code)) is None:
                runs.append((index, run))
                continue
            result = not_source(run, error)
            self._record(result)
            yield index, result
        left = len(runs)
        self._in_flight += left
        try:
            async for index, result in self._batch.carry(runs):
                self._in_flight -= 1
                left -= 1
                self._record(result)
                yield index, result
        finally:
            self._in_flight -= left

    def _check_place(self, request: ExecutionRequest, within: str = "") -> None:
        """Raise an ``InvalidRequest`` for a backend or an image that the deployment has not."""
        if request.session is not None or not (request.backend or request.image):
            return
        try:
            self._path.route(request)
        except Rejected:
            pass  # it has no sandbox yet: a result will say so, if that is still true by then
        except InvalidRequest as error:
            raise InvalidRequest(f"{within}{error.field}", error.rule) from None

    def _record(self, result: ExecutionResult) -> None:
        stages = dict(result.timings)
        self._exporter.count(result.outcome.value, result.backend, result.cached, result.timings.total_s)
        self._statistics.record(result.outcome.value, result.backend, result.cached, stages)
        if result.outcome in (Outcome.INFRA, Outcome.REJECTED):
            fields = {"run_id": result.run_id, "user": result.user, "code": result.error_code}
            log.warning("%s: %s", result.outcome.value, result.message, extra=fields)

    async def _hear_queue(self) -> None:
        """Hear who waits, so that kept grants go back at once, which sessions are lost, and of the queue's restart."""
        news = QueueNews()
        while True:
            try:
                news = await self._queue.news(news, NEWS_POLL_S)
                self._grants.contention(news.contenders)
                self._services.sessions.lose(news.lost)
            except ServiceError as error:
                log.warning("queue unavailable", extra={"error": str(error)})
                await self._register()
                news = QueueNews()

    async def _register(self) -> None:
        """Tell a queue that may have restarted what is held, as soon as it listens: it grants nothing before."""
        while True:
            try:
                lost = await self._queue.reregister(self._grants.in_hand(), self._services.sessions.pins())
            except ServiceError:
                await asyncio.sleep(REREGISTER_S)
            else:
                self._grants.revoke(lost.grant_ids)
                self._services.sessions.lose(lost.sandbox_ids)
                return

    async def _look_at_pool(self) -> None:
        """Learn which backends there are, and end what idled out."""
        while True:
            try:
                if not self._taken_over:
                    await self._take_over()
                self._take_in(await self._supervisor.backends())
            except ServiceError as error:
                log.warning("queue or supervisor unavailable", extra={"error": str(error)})
            self._services.breakers.refresh()
            await self._services.sessions.close_idle()
            await asyncio.sleep(1.0 if self._ready.is_set() else 0.1)

    def _take_in(self, views: dict[str, BackendView]) -> None:
        for backend, view in views.items():
            # A supervisor that was restarted does not know yet what it will find.
            if view.available or backend not in self._backends:
                self._backends[backend] = view
        if any(view.available for view in self._backends.values()):
            self._ready.set()

    async def _take_over(self) -> None:
        """End what the life before held, waited for and kept open: nobody knows of it any more."""
        names = registry.sandbox_names(self._settings.namespace)
        ended = await asyncio.gather(*(self._sandboxes[name].end_sessions() for name in names), return_exceptions=True)
        for name, error in zip(names, ended, strict=True):
            if error is not None:
                # Its sessions end all the same: by the next grant on it, or with its actor.
                log.warning("sessions of the life before remain", extra={"sandbox_id": name, "error": repr(error)})
        await self._queue.abandon()
        self._taken_over = True

    async def _export(self) -> None:
        while True:
            await asyncio.sleep(EXPORT_S)
            self._exporter.copy(await self.get_metrics())
