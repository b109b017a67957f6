"""Background tasks that are held until they end, and that never fail unseen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    """The background tasks of one owner, who is told of every one that fails.

    The event loop itself holds tasks only weakly, and reports a failure only when the task is forgotten.
    """

    def __init__(self, failed: Callable[[BaseException], object]) -> None:
        self._failed = failed
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start some work that ends by itself."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(self, work: Callable[[], Coroutine[Any, Any, None]], pause_s: float) -> asyncio.Task[None]:
        """Start a loop that must go on: each time it fails it is begun again, after a pause."""
        return self.spawn(self._kept(work, pause_s))

    def cancel(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    async def end(self) -> None:
        """Cancel all that is going on, and wait until it has ended."""
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _kept(self, work: Callable[[], Coroutine[Any, Any, None]], pause_s: float) -> None:
        while True:
            try:
                return await work()
            except Exception as error:  # noqa: BLE001 - the owner is told, whatever it is
                self._failed(error)
            await asyncio.sleep(pause_s)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)
