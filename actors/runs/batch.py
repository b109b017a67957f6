"""Many programs at the price of few calls: one grant and one call serve several programs of a user."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable

from actors.core.result_cache import Hit, Lead
from actors.errors import ActorUnavailable
from actors.runs.path import RequestPath
from actors.runs.results import from_cache
from actors.runs.run import Run
from actors.schemas import ExecutionResult
from actors.tasks import Tasks

CHUNK_S = 0.2
"""Programs of about so much work share a call: enough to make the call cheap, little enough to show progress."""
MAX_CHUNK = 64
SINGLES = 64
"""How many of the runs that are carried one by one are on their way at a time."""
Finished = tuple[int, ExecutionResult]
Item = tuple[int, Run]


class ChunkSize:
    """How many programs share a call; grows and shrinks with how long they took."""

    def __init__(self) -> None:
        self.programs = 1

    def learn(self, programs: int, seconds: float) -> None:
        """At most doubles each time, so that one quick program does not promise sixty-four."""
        fitting = int(CHUNK_S / max(seconds / programs, 1e-6))
        self.programs = max(1, min(fitting, 2 * self.programs, MAX_CHUNK))


class Batch:
    """Carries many programs along the request path, paying per chunk for what a single run pays for itself.

    Programs that must be looked after one by one (a session's, one with an idempotency key or a demanded fresh sandbox,
    one whose result another run is computing) are carried alone, some at a time. Every outcome is a result; a bug on
    the way ends the batch.
    """

    def __init__(self, path: RequestPath, concurrency: Callable[[str], int]) -> None:
        self._path, self._concurrency = path, concurrency

    async def carry(self, items: list[Item]) -> AsyncIterator[Finished]:
        """Yield every run's index and result as they finish; leaving early cancels the rest."""
        done: asyncio.Queue[Finished | BaseException] = asyncio.Queue()
        singles = asyncio.Semaphore(SINGLES)
        tasks = Tasks(done.put_nowait)

        async def carry_alone(index: int, run: Run) -> None:
            async with singles:
                done.put_nowait((index, await self._path.carry(run, raise_invalid=False)))

        async def carry_lane(lane: deque[Item], size: ChunkSize) -> None:
            while lane:
                chunk = [lane.popleft() for _ in range(min(size.programs, len(lane)))]
                to_run, apart, known = await self._look_up(chunk)
                for finished in known:
                    done.put_nowait(finished)
                for index, run in apart:
                    tasks.spawn(carry_alone(index, run))
                if to_run:
                    for finished in await self._carry_chunk(to_run, size):
                        done.put_nowait(finished)

        try:
            alone, lanes, refused = self._sorted(items)
            for finished in refused:
                done.put_nowait(finished)
            for index, run in alone:
                tasks.spawn(carry_alone(index, run))
            for backend, lane in lanes:
                size = ChunkSize()
                for _ in range(min(self._concurrency(backend), len(lane))):
                    tasks.spawn(carry_lane(lane, size))
            for _ in items:
                finished_or_bug = await done.get()
                if isinstance(finished_or_bug, BaseException):
                    raise finished_or_bug
                yield finished_or_bug
        finally:
            await tasks.end()

    def _sorted(self, items: list[Item]) -> tuple[list[Item], list[tuple[str, deque[Item]]], list[Finished]]:
        """Split into what is carried alone, lanes of what may share calls, and what is not let in."""
        alone: list[Item] = []
        lanes: dict[tuple[str, str, int], deque[Item]] = defaultdict(deque)
        refused: list[Finished] = []
        for index, run in items:
            request = run.request
            if request.fresh or request.session or request.idempotency_key:
                alone.append((index, run))
                continue
            if (refusal := self._path.refusal(run)) is not None:
                refused.append((index, refusal))
                continue
            assert run.route is not None
            self._path.note_cache_key(run)
            lanes[run.route.backend, request.user, request.priority].append((index, run))
        return alone, [(backend, lane) for (backend, _, _), lane in lanes.items()], refused

    async def _look_up(self, items: list[Item]) -> tuple[list[Item], list[Item], list[Finished]]:
        """Split into what is to be run, what must wait for another run's result, and what the cache knew."""
        keys = [(run.cache_key, run.run_id) for _, run in items if run.cache_key is not None]
        if not keys:
            return items, [], []
        try:
            answers = iter(await self._path.services.cache.lookup_many(keys))
        except ActorUnavailable:
            return items, [], []
        to_run: list[Item] = []
        apart: list[Item] = []
        known: list[Finished] = []
        for index, run in items:
            found = next(answers) if run.cache_key is not None else None
            if isinstance(found, Hit):
                known.append((index, from_cache(run, found.value)))
            elif found is None or isinstance(found, Lead):
                run.claim_id = found.claim_id if found else None
                to_run.append((index, run))
            else:
                apart.append((index, run))
        return to_run, apart, known

    async def _carry_chunk(self, items: list[Item], size: ChunkSize) -> list[Finished]:
        results = await self._path.carry_chunk([run for _, run in items])
        if not any(result.mask for result in results):
            # The wait for a grant is no work, so it says nothing of how many fit.
            worked_s = sum(result.timings.prepare_s + result.timings.execute_s for result in results)
            size.learn(len(items), worked_s)
        return [(index, result) for (index, _), result in zip(items, results, strict=True)]
