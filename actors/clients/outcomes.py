"""For callers that hold the Orchestrator's handle: Ray's failures as typed outcomes, or as the errors behind them."""

from __future__ import annotations

from typing import TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError, TaskCancelledError

from actors.errors import InvalidRequest, Rejected, ServiceError
from actors.schemas import ExecutionResult, Outcome

T = TypeVar("T")


def outcome_of(error: BaseException, run_id: str = "") -> ExecutionResult:
    """Return the typed outcome behind an exception that ``ray.get(orchestrator.run.remote(…))`` raised.

    The Orchestrator's death leaves the outcome unknown: ``infra`` with ``may_have_run``. An error that says nothing of
    a run (a bug in the caller, an interrupt) is raised again.
    """
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, (InvalidRequest, Rejected)):
        outcome, may_have_run = Outcome.REJECTED, False
    elif isinstance(cause, TaskCancelledError):
        outcome, may_have_run = Outcome.CANCELLED, True
    elif isinstance(cause, (ServiceError, RayActorError, GetTimeoutError)):
        outcome, may_have_run = Outcome.INFRA, getattr(cause, "may_have_run", True)
    else:
        raise error
    return ExecutionResult(
        run_id=run_id,
        outcome=outcome,
        message=str(cause) or repr(cause),
        error_code=getattr(cause, "code", "actor_unavailable"),
        may_have_run=may_have_run,
        retryable=getattr(cause, "retryable", False) and not may_have_run,
        retry_after_s=getattr(cause, "retry_after_s", None) or None,
    )


def value_of(ref: ObjectRef[T]) -> T:
    """Wait for what a call answers; an interrupt ends the call.

    Raises:
        ServiceError: what the method itself raised, rather than Ray's error around it.
    """
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, ServiceError):
            raise error.cause from None
        raise
    except KeyboardInterrupt:
        ray.cancel(ref)
        raise
