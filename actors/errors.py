"""The one tree of errors that this package raises.

A program that fails is a result, never an exception. Inside the path of a run the service's own failures are raised as
the errors below; the Orchestrator turns them into an outcome in one place, so that callers of ``run`` see only results,
except for an ``InvalidRequest``.

Errors travel between actors, so every one passes all its values to ``super().__init__`` and can be pickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol


class ServiceError(Exception):
    """Root of the tree. ``str()`` of any of them says what happened and what to do."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False


class InvalidRequest(ServiceError, ValueError):
    """The request breaks a rule; nothing ran. ``field`` is the offending argument."""

    code, http_status = "invalid_request", 422

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(field, rule)
        self.field, self.rule = field, rule

    def __str__(self) -> str:
        return f"{self.field}: {self.rule}"


class ConfigurationError(ServiceError):
    """Settings are wrong, or differ from those of the deployment that is already running."""

    code, http_status = "configuration", 500


class Rejected(ServiceError):
    """Nothing ran, and the same request may be admitted after ``retry_after_s`` seconds."""

    code, http_status, retryable = "rejected", 429, True

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason, retry_after_s)
        self.reason, self.retry_after_s = reason, retry_after_s

    def __str__(self) -> str:
        return f"{self.reason}; retry in {self.retry_after_s:.1f} s" if self.retry_after_s else self.reason


class RateLimited(Rejected):
    """The plan's rate is used up."""

    code = "rate_limited"


class QueueFull(Rejected):
    """Too many runs wait already, in all or of this user."""

    code, http_status = "queue_full", 503


class DeadlineUnreachable(Rejected):
    """No sandbox would be free before the request's deadline."""

    code, http_status = "deadline", 503


class BreakerOpen(Rejected):
    """The backend is failing and is given time to recover."""

    code, http_status = "breaker_open", 503


class PoolExhausted(Rejected):
    """No sandbox could be had: every one is in use and no more may be started."""

    code, http_status = "pool_exhausted", 503


class Draining(Rejected):
    """The deployment finishes what it has and accepts nothing new."""

    code, http_status = "draining", 503


class UnknownSession(Rejected):
    """The session was never opened, was closed, idled out, or its sandbox was lost. Its state is gone."""

    code, http_status, retryable = "unknown_session", 404, False


class ContextLost(UnknownSession):
    """An interpreter of the session crashed, was killed or never opened; the session and its files are there."""

    code, http_status = "context_lost", 409


class SessionBusy(Rejected):
    """The session runs a program, which this cannot be done during."""

    code, http_status = "session_busy", 409


class DuplicateRun(Rejected):
    """The idempotency key was used for another request, or its run is still going."""

    code, http_status, retryable = "duplicate_run", 409, False


class ActionFailed(ServiceError):
    """What was asked for in a session cannot be done: a file is missing, the disk full. ``problem`` says it."""

    code, http_status = "action_failed", 400

    def __init__(self, problem: str, message: str) -> None:
        super().__init__(problem, message)
        self.problem, self.message = problem, message

    def __str__(self) -> str:
        return f"{self.problem}: {self.message}"


class NotFound(ActionFailed, FileNotFoundError):
    """The file, directory or command is not there."""

    code, http_status = "not_found", 404


class SandboxFailed(ServiceError):
    """A sandbox failed while it was needed. ``may_have_run`` says whether the program may have started."""

    code, http_status, retryable = "sandbox_failed", 502, True

    def __init__(self, reason: str, may_have_run: bool = False) -> None:
        super().__init__(reason, may_have_run)
        self.reason, self.may_have_run = reason, may_have_run

    def __str__(self) -> str:
        return self.reason


class SandboxStartFailed(SandboxFailed):
    """A sandbox could not be made; no program ran."""

    code = "sandbox_start_failed"


class Throttled(SandboxStartFailed):
    """The backend's provider refused for its rate limit; no program ran, and the sandbox is as well as before."""

    code, http_status = "throttled", 503


class SandboxLost(SandboxFailed):
    """A sandbox vanished while a program may have been running in it."""

    code = "sandbox_lost"


class OutcomeLost(SandboxFailed):
    """A program was started with this idempotency key, and nobody knows how it ended. The key can only be replaced."""

    code, retryable = "outcome_lost", False

    def __init__(self, reason: str, may_have_run: bool = True) -> None:
        super().__init__(reason, may_have_run)


class StaleGrant(SandboxFailed):
    """The grant was revoked, has expired, or was used before; no program ran."""

    code = "stale_grant"


class IsolationUnavailable(ServiceError):
    """This machine cannot jail programs. ``cause`` says why and ``hint`` what to do about it."""

    code, http_status = "isolation_unavailable", 503

    def __init__(self, cause: str, hint: str) -> None:
        super().__init__(cause, hint)
        self.cause, self.hint = cause, hint

    def __str__(self) -> str:
        return f"{self.cause}. {self.hint}"


class ActorUnavailable(ServiceError):
    """An actor of the deployment is restarting, is gone or did not answer in time."""

    code, http_status, retryable = "actor_unavailable", 503, True

    def __init__(self, actor: str, what: str) -> None:
        super().__init__(actor, what)
        self.actor, self.what = actor, what

    def __str__(self) -> str:
        return f"{self.actor}: {self.what}"


class NoDeployment(ServiceError):
    """There is no deployment to join."""

    code, http_status = "no_deployment", 503


class Validation(Protocol):
    """What pydantic and FastAPI raise when something given breaks rules."""

    def errors(self) -> Sequence[Any]: ...


class Fault(NamedTuple):
    """Where something given breaks a rule, and which. What was given there is left out: it may be a key, or long."""

    place: tuple[str, ...]
    rule: str


def faults(error: Validation) -> list[Fault]:
    """Put what pydantic found into our words.

    A validator that knows the place better than pydantic does raises an ``InvalidRequest``, with the rest of the way.
    """
    found = []
    for each in error.errors():
        # What is wrong with a dict's key is told of the key itself.
        place, rule = tuple(str(part) for part in each["loc"] if part != "[key]"), each["msg"]
        match each.get("ctx"):
            case {"error": InvalidRequest() as cause}:
                place, rule = (*place, cause.field), cause.rule
        rule = rule.removeprefix("Value error, ")
        found.append(Fault(place, rule[:1].lower() + rule[1:]))
    return found


def invalid(
    error: Validation, *, within: tuple[str, ...] = (), skip: int = 0, whole: str = "request"
) -> InvalidRequest:
    """Our error for the first fault that was found.

    ``within`` is where the thing lies that was validated; the first ``skip`` parts of pydantic's place say nothing to
    the caller; ``whole`` stands for a fault that is of no field.
    """
    place, rule = faults(error)[0]
    return InvalidRequest(".".join((*within, *place[skip:])) or whole, rule)
