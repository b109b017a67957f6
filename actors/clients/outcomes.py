"""For callers that hold a raw handle: Ray's failures as results, and streams as plain iterators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError, TaskCancelledError

from actors.errors import InvalidRequest, Rejected, ServiceError
from actors.schemas import ExecutionResult, Outcome, OutputEvent


def outcome_of(error: BaseException, run_id: str = "") -> ExecutionResult:
    """The typed outcome behind an exception that ``ray.get(orchestrator.run.remote(…))`` raised.

    The Orchestrator's death leaves the outcome unknown: ``infra`` with ``may_have_run``. An error that says nothing of
    a run (a bug in the caller, an interrupt) is raised again.
    """
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, (InvalidRequest, Rejected)):
        return _result(run_id, Outcome.REJECTED, cause, may_have_run=False)
    if isinstance(cause, TaskCancelledError):
        return _result(run_id, Outcome.CANCELLED, cause, may_have_run=True)
    if isinstance(cause, (ServiceError, RayActorError, GetTimeoutError)):
        return _result(run_id, Outcome.INFRA, cause, may_have_run=True)
    raise error


def stream(orchestrator: ActorHandle[Any], code: str, **options: Any) -> Iterator[OutputEvent | ExecutionResult]:
    """Run a program and yield its output as it happens, then its result; leaving the loop early stops the program."""
    generator: Any = orchestrator.stream.options(num_returns="streaming").remote(code, **options)
    try:
        for ref in generator:
            yield ray.get(ref)
    finally:
        ray.cancel(generator)


def _result(run_id: str, outcome: Outcome, error: BaseException, may_have_run: bool) -> ExecutionResult:
    return ExecutionResult(
        run_id=run_id,
        outcome=outcome,
        message=str(error) or repr(error),
        error_code=getattr(error, "code", "actor_unavailable"),
        may_have_run=may_have_run,
        retryable=False,
    )
