"""Runs with an idempotency key: one start for a key, whoever asks and whatever crashed since."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from actors.errors import DuplicateRun, InvalidRequest, OutcomeLost
from actors.runs.ledger import Ledger, request_hash
from actors.runs.results import cancelled
from actors.runs.run import Run
from actors.schemas import ExecutionRequest, ExecutionResult

T = TypeVar("T")
Start = Callable[[Run], Awaitable[ExecutionResult]]


class KeyedRuns:
    """Starts a keyed program at most once.

    Who asks while it runs waits for the same result; who asks later has it from the ledger.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._one_thread = asyncio.Lock()  # at a time, which the ledger asks of its callers
        self._going: dict[tuple[str, str], tuple[str, asyncio.Future[ExecutionResult]]] = {}
        self._writes: set[asyncio.Task[None]] = set()

    async def run_or_replay(self, run: Run, key: str, start: Start) -> ExecutionResult:
        """Start it, or return how the run with this key and user ended.

        A key whose program certainly did not start, since it was refused or given up before, may be used again.

        Raises:
            DuplicateRun: the key is another request's, or its run goes on for longer than this one would.
            OutcomeLost: the program was started with this key, and nobody knows how it ended.
            InvalidRequest: as ``start`` raises it.
        """
        request = run.request
        owner, asked = (request.user, key), request_hash(request)
        while owner in self._going:
            going_for, going = self._going[owner]
            if going_for != asked:
                raise DuplicateRun("idempotency_key is in use for a different request")
            await asyncio.wait([going], timeout=run.left_s() + request.timeout_s)
            if not going.done():
                raise DuplicateRun("the run with this idempotency_key is still going")
            if not going.cancelled():
                return going.result()
        going = asyncio.get_running_loop().create_future()
        self._going[owner] = asked, going
        try:
            known = await self._begin(run)
            result = known if known is not None else await self._start(run, start)
            going.set_result(result)
            return result
        finally:
            del self._going[owner]
            going.cancel()

    def close(self) -> None:
        self._ledger.close()

    async def _begin(self, run: Run) -> ExecutionResult | None:
        begun = asyncio.ensure_future(self._in_thread(self._ledger.begin, run.request, run.run_id))
        try:
            known = await asyncio.shield(begun)
        except asyncio.CancelledError:
            # The row may be on disk all the same; nobody else may see it.
            await self._write(self._undo(begun, run.request))
            raise
        if isinstance(known, str):
            raise OutcomeLost(f"run {known} was started with this key and its outcome was lost")
        return known

    async def _start(self, run: Run, start: Start) -> ExecutionResult:
        request = run.request
        try:
            result = await start(run)
        except InvalidRequest:
            await self._write(self._in_thread(self._ledger.forget, request))
            raise
        except asyncio.CancelledError:
            if run.may_have_run:
                await self._write(self._in_thread(self._ledger.finish, request, cancelled(run)))
            else:
                await self._write(self._in_thread(self._ledger.forget, request))
            raise
        await self._write(self._in_thread(self._ledger.finish, request, result))
        return result

    async def _undo(self, begun: asyncio.Task[ExecutionResult | str | None], request: ExecutionRequest) -> None:
        await asyncio.wait([begun])
        if begun.exception() is None and begun.result() is None:
            await self._in_thread(self._ledger.forget, request)

    async def _in_thread(self, call: Callable[..., T], *args: Any) -> T:
        async with self._one_thread:
            return await asyncio.to_thread(call, *args)

    def _write(self, writing: Coroutine[Any, Any, None]) -> Awaitable[None]:
        """Write to the end, also when whoever waits for it is cancelled once more."""
        task = asyncio.ensure_future(writing)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return asyncio.shield(task)
