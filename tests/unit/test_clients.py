"""What the faces for people and scripts make of Ray's answers, without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError, TaskCancelledError

import actors
from actors.clients.streams import values_of
from actors.errors import (
    ActorUnavailable,
    BreakerOpen,
    InvalidRequest,
    Rejected,
    SandboxLost,
    SandboxStartFailed,
    ServiceError,
    UnknownSession,
)
from actors.schemas import ExecutionRequest, Outcome, RunOptions, SessionRunOptions


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("error", "outcome", "may_have_run", "retryable", "retry_after_s"),
    [
        (Rejected("no", 2.5), Outcome.REJECTED, False, True, 2.5),
        (BreakerOpen("failing"), Outcome.REJECTED, False, True, None),
        (UnknownSession("gone"), Outcome.REJECTED, False, False, None),
        (InvalidRequest("user", "must be text"), Outcome.REJECTED, False, False, None),
        (SandboxStartFailed("no room"), Outcome.INFRA, False, True, None),
        (SandboxLost("gone", may_have_run=True), Outcome.INFRA, True, False, None),
        (ActorUnavailable("Orchestrator", "is gone"), Outcome.INFRA, True, False, None),
    ],
)
def test_an_error_of_ours_is_an_outcome_that_says_what_to_do(
    error: ServiceError,
    outcome: Outcome,
    may_have_run: bool,
    retryable: bool,
    retry_after_s: float | None,
    wrapped: bool,
) -> None:
    raised = RayTaskError("run", "traceback", error).as_instanceof_cause() if wrapped else error
    result = actors.outcome_of(raised, "r1")
    assert (result.run_id, result.outcome, result.error_code) == ("r1", outcome, error.code)
    assert (result.may_have_run, result.retryable, result.retry_after_s) == (may_have_run, retryable, retry_after_s)
    assert result.message == str(error)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RayActorError(), Outcome.INFRA),
        (GetTimeoutError("late"), Outcome.INFRA),
        (TaskCancelledError(), Outcome.CANCELLED),
    ],
)
def test_an_error_of_ray_leaves_open_whether_the_program_ran(error: Exception, outcome: Outcome) -> None:
    result = actors.outcome_of(error)
    assert (result.outcome, result.may_have_run, result.retryable) == (outcome, True, False)
    assert result.mask


@pytest.mark.parametrize("error", [TypeError("a bug"), KeyboardInterrupt()])
def test_an_error_that_says_nothing_of_a_run_is_raised_again(error: BaseException) -> None:
    with pytest.raises(type(error)):
        actors.outcome_of(error)


class Method:
    """A streaming method whose references are the values themselves."""

    def __init__(self, *values: Any) -> None:
        self.values, self.calls = values, 0

    def remote(self) -> Iterator[Any]:
        self.calls += 1
        return iter(self.values)


@pytest.fixture
def cancelled(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What has been cancelled, in a Ray that answers with what it is asked for and raises what is an error."""

    def get(ref: Any) -> Any:
        if isinstance(ref, BaseException):
            raise ref
        return ref

    found: list[object] = []
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "cancel", found.append)
    return found


def test_a_stream_that_is_left_early_ends_what_it_runs(cancelled: list[object]) -> None:
    values: Any = values_of(Method(1, 2, 3))  # type: ignore[arg-type]
    assert next(values) == 1
    assert not cancelled
    values.close()
    assert len(cancelled) == 1


def test_a_stream_that_nobody_reads_has_begun_nothing(cancelled: list[object]) -> None:
    method = Method(1)
    values_of(method).close()  # type: ignore[arg-type]
    assert (method.calls, cancelled) == (0, [])


def test_a_stream_raises_the_method_s_own_error(cancelled: list[object]) -> None:
    error = InvalidRequest("user", "must be text")
    values: Any = values_of(Method(1, RayTaskError("stream", "traceback", error)))  # type: ignore[arg-type]
    assert next(values) == 1
    with pytest.raises(InvalidRequest) as raised:
        next(values)
    assert raised.value is error


def test_an_interrupt_ends_the_call_that_is_waited_for(cancelled: list[object]) -> None:
    interrupt = KeyboardInterrupt()
    values: Any = values_of(Method(interrupt))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        next(values)
    assert cancelled[0] is interrupt


def test_the_options_of_a_run_are_the_fields_of_a_request() -> None:
    fields = ExecutionRequest.model_fields.keys() - {"code"}
    assert get_type_hints(RunOptions).keys() == fields
    assert get_type_hints(SessionRunOptions).keys() == fields - {"user", "session", "fresh"}
