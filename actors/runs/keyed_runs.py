"""Runs with an idempotency key: one start for a key, whoever asks and whatever crashed since."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from actors.errors import DuplicateRun, SandboxLost
from actors.runs.ledger import Ledger, request_hash
from actors.runs.results import failed
from actors.runs.run import Run
from actors.schemas import ExecutionResult


class KeyedRuns:
    """Start a keyed program at most once.

    Who asks while it runs waits for the same result; who asks later has it from the ledger. ``start`` is how a program
    is run.
    """

    def __init__(self, ledger: Ledger, start: Callable[[Run], Awaitable[ExecutionResult]]) -> None:
        self._ledger, self._start = ledger, start
        self._one_thread = asyncio.Lock()  # at a time, which the ledger asks of its callers
        self._going: dict[tuple[str, str], tuple[str, asyncio.Future[ExecutionResult]]] = {}

    async def run(self, run: Run, key: str) -> ExecutionResult:
        """Start it, or say how the run with this key and user ended."""
        owner, asked = (run.request.user, key), request_hash(run.request)
        if owner in self._going:
            going_for, going = self._going[owner]
            if going_for != asked:
                return failed(run, DuplicateRun("idempotency_key is in use for a different request"))
            await asyncio.wait([going])
            return _lost(run, "the run with this key was cancelled or failed") if going.cancelled() else going.result()
        going = asyncio.get_running_loop().create_future()
        self._going[owner] = asked, going
        try:
            result = await self._unless_known(run)
            going.set_result(result)
            return result
        finally:
            del self._going[owner]
            going.cancel()

    def close(self) -> None:
        self._ledger.close()

    async def _unless_known(self, run: Run) -> ExecutionResult:
        try:
            async with self._one_thread:
                known = await asyncio.to_thread(self._ledger.begin, run.request, run.run_id)
        except DuplicateRun as error:
            return failed(run, error)
        if isinstance(known, ExecutionResult):
            return known
        if known is not None:
            return _lost(run, f"run {known} was started with this key and its outcome was lost")
        result = await self._start(run)
        async with self._one_thread:
            await asyncio.to_thread(self._ledger.finish, run.request, result)
        return result


def _lost(run: Run, why: str) -> ExecutionResult:
    # Not even an idempotent request may be sent again with this key: its answer would be this one.
    return failed(run, SandboxLost(why, may_have_run=True)).model_copy(update={"retryable": False})
