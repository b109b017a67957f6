"""What comes back: how a program ended, what it put out and what it used. Built by the service, only carried."""

from __future__ import annotations

import base64
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer

from actors.schemas.message import Message


def _decoded(value: Any) -> Any:
    return base64.b64decode(value) if isinstance(value, str) else value


Base64 = Annotated[
    bytes,
    BeforeValidator(_decoded),
    PlainSerializer(lambda data: base64.b64encode(data).decode(), return_type=str, when_used="json"),
]
"""Bytes; in JSON their base64, as RFC 4648 has it in section 4."""


class Outcome(StrEnum):
    """How a run ended. Only the first six say anything about the program."""

    OK = "ok"
    ERROR = "error"
    """The program raised, or ended with a status that is not 0."""
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"
    CRASHED = "crashed"
    """The interpreter died: a segfault, a signal; in a session also ``os._exit``."""
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    """Never started: the queue is full, the breaker open, a limit reached, a session unknown."""
    INFRA = "infra"
    """The service failed; says nothing about the program."""

    @property
    def masked(self) -> bool:
        """Whether a trainer must leave this run out: it says nothing about the program."""
        return self in (Outcome.CANCELLED, Outcome.REJECTED, Outcome.INFRA)


class RichResult(Message):
    """One value that the program displayed, in each form that it has.

    ``png``, ``jpeg`` and ``pdf`` are base64 text, as in Jupyter and E2B.
    """

    is_main_result: bool = False
    """Whether it is the value of the last expression, rather than displayed on the way."""
    text: str | None = None
    html: str | None = None
    markdown: str | None = None
    svg: str | None = None
    png: str | None = None
    jpeg: str | None = None
    pdf: str | None = None
    latex: str | None = None
    json_: Annotated[Any, Field(alias="json")] = None
    javascript: str | None = None
    data: dict[str, Any] | None = None
    chart: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None
    """Other MIME types by their full names."""
    display_id: str | None = None
    """Given by the program to a value that it may update: a later result with the same id takes this one's place."""
    omitted: dict[str, str] | None = None
    """Forms that were cut or left out since they are too large or no JSON, and why."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    def formats(self) -> list[str]:
        """Names of the forms that are present."""
        names = ("text", "html", "markdown", "svg", "png", "jpeg", "pdf", "latex", "json_", "javascript")
        present = [name.rstrip("_") for name in (*names, "data", "chart") if getattr(self, name) is not None]
        return present + list(self.extra or ())


class ProgramError(Message):
    """The exception that ended the program."""

    name: str
    value: str
    traceback: str = ""


class Usage(Message):
    """What the run used; None where the machine cannot tell."""

    wall_s: float = 0.0
    cpu_s: float | None = None
    cpu_wait_s: float | None = None
    """Spent ready to run while no core was free; measured where ``limits.cpu_wait_s`` allows for it."""
    peak_memory_mib: float | None = None
    output_bytes: int = 0
    """Written to stdout and stderr together, also what was not kept."""


class OutputEvent(Message):
    """Something that a running program put out. Text is coalesced: one event is rarely one ``write``."""

    kind: Literal["stdout", "stderr", "result", "error"]
    text: str = ""
    result: RichResult | None = None
    error: ProgramError | None = None


class ProgramReport(Message):
    """What a backend says of a finished program."""

    outcome: Outcome
    stdout: str = ""
    stderr: str = ""
    results: tuple[RichResult, ...] = ()
    error: ProgramError | None = None
    exit_status: int | None = None
    """The status that the program ended with: 0, 1 after an exception, what it gave to ``exit``; minus the number of
    the signal that ended it. None if the service ended it, or nothing ran."""
    files: dict[str, Base64] = Field(default_factory=dict)
    """The ``outputs`` that were asked for, by name; base64 in JSON."""
    files_missing: dict[str, str] = Field(default_factory=dict)
    """Those that could not be brought back, and why."""
    usage: Usage = Usage()
    message: str | None = None
    """For every outcome but ``ok`` and ``error``: what happened and what to do."""
    isolation: str = ""
    """What separated the program from the one before it and from the machine."""
    may_have_run: bool = True
    sandbox_spent: bool = False
    """The sandbox must not serve another run."""

    @property
    def text(self) -> str | None:
        """Text of the last expression's value."""
        return next((result.text for result in self.results if result.is_main_result), None)


class Timings(Message):
    """Where the time went, in seconds; a stage that a run skipped is 0."""

    route_s: float = 0.0
    cache_s: float = 0.0
    queue_s: float = 0.0
    limit_s: float = 0.0
    prepare_s: float = 0.0
    """Waiting, in the sandbox actor, for a pristine sandbox."""
    execute_s: float = 0.0
    total_s: float = 0.0


class ExecutionResult(ProgramReport):
    """How a run ended, with all that is known of it."""

    run_id: str
    user: str = "default"
    cached: bool = False
    retryable: bool = False
    """Whether the same request may be sent again without the program running twice, with hope of another end."""
    error_code: str | None = None
    """For ``rejected`` and ``infra``: the code of the error (``queue_full``, ``breaker_open``, …)."""
    retry_after_s: float | None = None
    backend: str | None = None
    route: str = ""
    """Why this backend."""
    sandbox_id: str | None = None
    generation: int | None = None
    timings: Timings = Timings()

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK

    @property
    def mask(self) -> bool:
        """Whether a trainer must leave this run out, since it says nothing about the program."""
        return self.outcome.masked
