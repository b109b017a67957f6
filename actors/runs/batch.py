"""Many programs at the price of few calls: one grant and one call serve several programs of a user."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from actors.core.result_cache import Hit, Lead
from actors.errors import ActorUnavailable, InvalidRequest, ServiceError
from actors.runs.path import RequestPath
from actors.runs.results import failed, from_cache
from actors.runs.run import Run
from actors.schemas import ExecutionResult

CHUNK_S = 0.2
"""Programs of about so much work share a call: enough to make the call cheap, little enough to show progress."""
MAX_CHUNK = 64
SINGLES = 64
Finished = tuple[int, ExecutionResult]


@dataclass(slots=True)
class Item:
    index: int
    run: Run
    key: str | None = None
    claim_id: str | None = None


class Chunk:
    """How many programs share a call; grows and shrinks with how long they took."""

    def __init__(self) -> None:
        self.size = 1

    def learn(self, programs: int, seconds: float) -> None:
        """At most doubles each time, so that one quick program does not promise sixty-four."""
        fitting = int(CHUNK_S / max(seconds / programs, 1e-6))
        self.size = max(1, min(fitting, 2 * self.size, MAX_CHUNK))


class Batch:
    """Run many programs along the request path, paying per chunk for what a single run pays for itself.

    Programs that must be looked after one by one (a session's, one with an idempotency key or a demanded fresh sandbox,
    one whose result another run is computing) take the single path instead, some at a time. ``single`` is that path;
    every outcome is its result, and what it raises ends the batch.
    """

    def __init__(
        self,
        path: RequestPath,
        concurrency: dict[str, int],
        single: Callable[[Run], Awaitable[ExecutionResult]] | None = None,
    ) -> None:
        self._path, self._concurrency = path, concurrency
        self._single = single or path.execute

    async def execute(self, runs: list[tuple[int, Run]]) -> AsyncIterator[Finished]:
        """Yield every run's index and result as they finish; leaving early cancels the rest."""
        done: asyncio.Queue[Finished | BaseException] = asyncio.Queue()
        singles = asyncio.Semaphore(SINGLES)
        lanes: dict[tuple[str, str, int], deque[Item]] = defaultdict(deque)
        tasks: set[asyncio.Task[None]] = set()

        def start(work: Coroutine[Any, Any, None]) -> None:
            task = asyncio.create_task(work)
            tasks.add(task)
            task.add_done_callback(ended)

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                done.put_nowait(error)

        async def single(item: Item) -> None:
            async with singles:
                done.put_nowait((item.index, await self._outcome(item.run, self._single)))

        async def work(backend: str, lane: deque[Item], chunk: Chunk) -> None:
            while lane:
                items = [lane.popleft() for _ in range(min(chunk.size, len(lane)))]
                to_run, apart, known = await self._look_up(items)
                for finished in known:
                    done.put_nowait(finished)
                for item in apart:
                    start(single(item))
                if to_run:
                    for finished in await self._run_chunk(backend, to_run, chunk):
                        done.put_nowait(finished)

        try:
            for index, run in runs:
                item = Item(index, run)
                if run.request.fresh or run.request.session or run.request.idempotency_key:
                    start(single(item))
                    continue
                try:
                    chosen = self._path.choose_route(run)
                except ServiceError as error:
                    done.put_nowait((index, failed(run, error)))
                    continue
                item.key = self._path.cache_key(run)
                lanes[chosen.backend, run.request.user, run.request.priority].append(item)
            for (backend, _, _), lane in lanes.items():
                chunk = Chunk()
                for _ in range(min(self._concurrency[backend], len(lane))):
                    start(work(backend, lane, chunk))
            for _ in runs:
                finished = await done.get()
                if isinstance(finished, BaseException):
                    raise finished
                yield finished
        finally:
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_up(self, items: list[Item]) -> tuple[list[Item], list[Item], list[Finished]]:
        """Split into what is to be run, what takes the single path, and what the cache knew."""
        asked = [item for item in items if item.key is not None]
        if not asked:
            return items, [], []
        keys = [(item.key or "", item.run.run_id) for item in asked]
        try:
            answers = await self._path.services.cache.lookup_many(keys)
        except ActorUnavailable:
            return items, [], []
        to_run = [item for item in items if item.key is None]
        apart: list[Item] = []
        known: list[Finished] = []
        for item, found in zip(asked, answers, strict=True):
            if isinstance(found, Hit):
                known.append((item.index, from_cache(item.run, found.value)))
            elif isinstance(found, Lead):
                item.claim_id = found.claim_id
                to_run.append(item)
            else:
                apart.append(item)
        return to_run, apart, known

    async def _run_chunk(self, backend: str, items: list[Item], chunk: Chunk) -> list[Finished]:
        runs = [item.run for item in items]
        results: list[ExecutionResult | None] = [None] * len(items)
        try:
            results[:] = await self._path.execute_chunk(runs, backend)
            # The wait for a grant is no work, so it says nothing of how many fit.
            chunk.learn(len(runs), sum(_worked_s(result) for result in results if result is not None))
        except ServiceError as error:
            # They do not share what only some of them suffered from: one by one is slower and safer.
            results[:] = [await self._alone(run, error) for run in runs]
        finally:
            claims = zip(items, results, strict=True)
            self._path.settle([(item.key, item.claim_id, result) for item, result in claims])
        return [(item.index, result) for item, result in zip(items, results, strict=True) if result is not None]

    async def _alone(self, run: Run, error: ServiceError) -> ExecutionResult:
        """After its chunk failed: what certainly did not start is tried by itself, the rest is in doubt."""
        if getattr(error, "may_have_run", False) and not run.request.idempotent:
            return failed(run, error)
        return await self._outcome(run, self._path.execute)

    async def _outcome(self, run: Run, path: Callable[[Run], Awaitable[ExecutionResult]]) -> ExecutionResult:
        """In a batch an invalid request is a result too."""
        try:
            return await path(run)
        except InvalidRequest as error:
            return failed(run, error)


def _worked_s(result: ExecutionResult) -> float:
    return result.timings.prepare_s + result.timings.execute_s
