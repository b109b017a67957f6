"""How the command line fails: a line that says what to do, and an exit code that a script can tell apart."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.text import Text

from actors.cli.terminal import SafeConsole
from actors.errors import ActorUnavailable, ConfigurationError, InvalidRequest, IsolationUnavailable, ServiceError
from actors.schemas import Outcome

# Soft wrapping leaves long lines whole, for whoever copies or greps them.
out = SafeConsole(soft_wrap=True, highlight=False)
err = SafeConsole(stderr=True, soft_wrap=True, highlight=False)

USAGE, SERVICE, INTERRUPTED = 2, 3, 130
EXIT_CODES = {
    Outcome.OK: 0,
    Outcome.ERROR: 1,
    Outcome.OUTPUT_LIMIT: 1,
    Outcome.TIMEOUT: 124,
    Outcome.OUT_OF_MEMORY: 137,
    Outcome.CRASHED: 139,
    Outcome.CANCELLED: INTERRUPTED,
    Outcome.REJECTED: SERVICE,
    Outcome.INFRA: SERVICE,
}
"""Source: timeout(1) for 124; a shell's 128 + signal for a kill (137), a segfault (139) and an interrupt (130)."""


def fail(message: str, code: int, kind: str = "usage", as_json: bool = False) -> NoReturn:
    """End the command with one line, on stderr, or as an object on stdout for a machine."""
    if as_json:
        typer.echo(json.dumps({"error": {"code": kind, "message": message}}))
    else:
        err.print(Text.assemble(("error: ", "bold red"), message))
    raise typer.Exit(code)


@contextmanager
def reported(as_json: bool = False) -> Iterator[None]:
    """Turn errors that a user can do something about into a line and an exit code; a bug keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED, "interrupted", as_json)
    except Exception as error:
        known = service_error(error)
        if known is None:
            raise
        usage = isinstance(known, (InvalidRequest, ConfigurationError))
        message = str(known)
        if isinstance(known, IsolationUnavailable):
            message += "\nfor every requirement by itself: e2b-orchestrator doctor"
        fail(message, USAGE if usage else SERVICE, known.code, as_json)


def service_error(error: Exception) -> ServiceError | None:
    """Our error behind one of Ray's, or the error itself; None if it is neither."""
    # The cause first: what Ray raises is also of the cause's type, but its text is a traceback.
    cause = getattr(error, "cause", None)
    if isinstance(cause, ServiceError):
        return cause
    if isinstance(error, ServiceError):
        return error
    # What Ray raises where no cluster is to be found; its subclasses (a broken pipe) are something else.
    if type(error) is ConnectionError:
        return ActorUnavailable("Ray", f"cannot be joined: {error}")
    if "ray" not in sys.modules:
        return None
    from ray.exceptions import GetTimeoutError, RayActorError, RaySystemError

    if isinstance(error, GetTimeoutError):
        return ActorUnavailable("Orchestrator", "did not answer in time")
    if isinstance(error, (RayActorError, RaySystemError)):
        return ActorUnavailable("Orchestrator", "is gone or restarting; try again, or see e2b-orchestrator status")
    return None
