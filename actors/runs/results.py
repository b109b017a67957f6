"""Results: how each end of a run is told, and which of them hold for other runs of the same program."""

from __future__ import annotations

import time
from typing import Any

from actors.core.determinism import verdict
from actors.errors import InvalidRequest, Rejected, ServiceError
from actors.runs.run import Run
from actors.schemas import ExecutionResult, Outcome, OutputEvent, ProgramError, ProgramReport, SandboxAnswer, Timings


def finished(run: Run, answer: SandboxAnswer, backend: str) -> ExecutionResult:
    """The result of a program that a sandbox reported on."""
    report = answer.report
    run.stages["prepare_s"], run.stages["execute_s"] = answer.prepare_s, answer.execute_s
    return _result(
        run,
        report,
        backend=backend,
        generation=answer.generation,
        retryable=report.outcome is Outcome.INFRA and (run.request.idempotent or not report.may_have_run),
        error_code="infra" if report.outcome is Outcome.INFRA else None,
    )


def failed(run: Run, error: ServiceError) -> ExecutionResult:
    """The result of a run that the service failed or would not take."""
    # Of an earlier attempt too, whatever ended the last one.
    may_have_run = run.may_have_run or bool(getattr(error, "may_have_run", False))
    report = ProgramReport(
        outcome=Outcome.REJECTED if isinstance(error, (Rejected, InvalidRequest)) else Outcome.INFRA,
        message=str(error),
        may_have_run=may_have_run,
    )
    return _result(
        run,
        report,
        backend=run.route.backend if run.route else None,
        retryable=error.retryable and (run.request.idempotent or not may_have_run),
        error_code=error.code,
        retry_after_s=getattr(error, "retry_after_s", None) or None,
    )


def cancelled(run: Run) -> ExecutionResult:
    """The result of a run that was given up after its program may have started; kept for its idempotency key."""
    report = ProgramReport(
        outcome=Outcome.CANCELLED, message="the call was cancelled while the program ran", may_have_run=True
    )
    return _result(run, report, backend=run.route.backend if run.route else None, error_code="cancelled")


def not_source(run: Run, error: ProgramError) -> ExecutionResult:
    """The result of a text that cannot be a program: it fails as one that does not compile, and nothing is started."""
    if run.emit is not None:
        run.emit(OutputEvent(kind="error", error=error))
    return _result(run, ProgramReport(outcome=Outcome.ERROR, error=error, may_have_run=False))


def from_cache(run: Run, value: ExecutionResult) -> ExecutionResult:
    """Another run's result, as this run's."""
    return value.model_copy(
        update={"run_id": run.run_id, "user": run.request.user, "cached": True, "timings": _timings(run)}
    )


def lasting(result: ExecutionResult) -> bool:
    """Whether another run of the program would give the same: its own doing, and no memory address in it."""
    if result.outcome not in (Outcome.OK, Outcome.ERROR):
        return False
    shown = [result.stdout, result.stderr, *(rich.text or "" for rich in result.results)]
    shown += [result.error.value, result.error.traceback] if result.error else []
    return not any(map(verdict.shows_address, shown))


def same(one: ExecutionResult, other: ExecutionResult) -> bool:
    """Whether two runs of a program ended and put out the same."""
    fields = ("outcome", "stdout", "stderr", "results")
    return all(getattr(one, name) == getattr(other, name) for name in fields)


def _result(run: Run, report: ProgramReport, **more: Any) -> ExecutionResult:
    return ExecutionResult.model_construct(
        **dict(report),
        run_id=run.run_id,
        user=run.request.user,
        route=run.route.why if run.route else "",
        sandbox_id=run.sandbox_id,
        timings=_timings(run),
        **more,
    )


def _timings(run: Run) -> Timings:
    stages: dict[str, Any] = run.stages | {"total_s": time.perf_counter() - run.came_at}
    return Timings.model_construct(**stages)
