"""The Orchestrator's streams as plain generators, which yield values where Ray has references.

Closing one, or leaving the loop over it, ends what it runs; one that nobody has begun to read has begun nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Unpack

import ray

from actors.clients.handle import OrchestratorHandle
from actors.clients.outcomes import value_of
from actors.schemas import ExecutionResult, OutputEvent, RunOptions

if TYPE_CHECKING:
    from actors.clients.handle import StreamingMethod

P = ParamSpec("P")
T = TypeVar("T")


def stream(
    orchestrator: OrchestratorHandle, code: str, **options: Unpack[RunOptions]
) -> Generator[OutputEvent | ExecutionResult]:
    """Run a program, and yield its output as it happens and then its result."""
    return values_of(orchestrator.stream, code, **options)


def stream_many(
    orchestrator: OrchestratorHandle, programs: Sequence[str | dict[str, Any]], **options: Unpack[RunOptions]
) -> Generator[tuple[int, ExecutionResult]]:
    """Run many programs, and yield the index and the result of each as it ends."""
    return values_of(orchestrator.stream_many, programs, **options)


def values_of(method: StreamingMethod[P, T], *args: P.args, **kwargs: P.kwargs) -> Generator[T]:
    """Call a streaming method, and yield what it yields.

    Raises:
        ServiceError: what the method itself raised.
    """
    refs = method.remote(*args, **kwargs)
    try:
        for ref in refs:
            yield value_of(ref)
    finally:
        ray.cancel(refs)
