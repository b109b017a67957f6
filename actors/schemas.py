"""What callers, actors and backends say to each other.

Requests are validated here, before anything runs; results are built by the service and only carried. Durations are in
seconds and sizes in bytes or MiB, as the names say; nothing carries a clock reading from one process to another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)

from actors.errors import InvalidRequest

MAX_CODE_BYTES = 1_000_000
MAX_FILES = 1_000
MAX_FILES_BYTES = 64 * 2**20
MAX_STDIN_BYTES = 16 * 2**20
MAX_ENV_BYTES = 128 * 2**10
MAX_TIMEOUT_S = 24 * 3600.0

Language = Literal["python"]
CacheMode = Literal["auto", "off"]
BackendName = Literal["jail", "e2b", "fake"]


class Outcome(StrEnum):
    """How a run ended. Only the first six say anything about the program."""

    OK = "ok"
    ERROR = "error"
    """The program raised."""
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"
    CRASHED = "crashed"
    """The interpreter died: a segfault, ``os._exit``, a signal."""
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    """Never started: the queue is full, the breaker open, a limit reached, a session unknown."""
    INFRA = "infra"
    """The service failed; says nothing about the program."""

    @property
    def masked(self) -> bool:
        """Whether a trainer must leave this run out: it says nothing about the program."""
        return self in (Outcome.CANCELLED, Outcome.REJECTED, Outcome.INFRA)


class Priority(IntEnum):
    """Bands of the queue; within a band users share fairly, and waiting raises a run's band."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Message(BaseModel):
    """Base of what is sent: immutable, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Limits(Message):
    """What one run may use. A field left out takes the deployment's default."""

    memory_mib: Annotated[int, Field(ge=16, le=1_048_576)] | None = None
    cpu_s: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] | None = None
    """CPU time of the program and all its children."""
    processes: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Processes and threads together."""
    disk_mib: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Of the workspace and of /tmp, each."""
    output_bytes: Annotated[int, Field(ge=1024, le=2**30)] | None = None
    """Kept of stdout and stderr, each; what exceeds it is counted and dropped."""
    network: bool | None = None


def _check_file_name(name: str) -> str:
    path = PurePosixPath(name)
    if not name or "\0" in name or len(name.encode("utf-8", "surrogatepass")) > 1024:
        raise ValueError("must be a non-empty name of at most 1,024 bytes without a NUL")
    if path.is_absolute() or ".." in path.parts or "\\" in name or str(path) in (".", ""):
        raise ValueError(f"{name!r} must be a relative path inside the workspace, without '..' or backslashes")
    if any(ord(character) < 32 or 0xD800 <= ord(character) <= 0xDFFF for character in name):
        raise ValueError(f"{name!r} must not contain control characters")
    return str(path)


FileName = Annotated[str, AfterValidator(_check_file_name)]
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class ExecutionRequest(Message):
    """One program to run and how; see ``Orchestrator.run`` for what each field does.

    Build it with ``ExecutionRequest.checked(...)``, which names the field and the rule when something is wrong.
    """

    code: str
    user: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f]+$")] = "default"
    language: Language = "python"
    timeout_s: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S, allow_inf_nan=False, strict=True)] = 30.0
    session: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    env: dict[str, str] = Field(default_factory=dict)
    files: dict[FileName, bytes] = Field(default_factory=dict)
    stdin: str | bytes | None = None
    limits: Limits = Limits()
    priority: Priority = Priority.NORMAL
    backend: BackendName | Literal["local"] | None = None
    cache: CacheMode = "auto"
    idempotency_key: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None
    idempotent: bool = False
    fresh: bool = False

    @classmethod
    def checked(cls, **fields: Any) -> ExecutionRequest:
        """Build a request, or say which field breaks which rule.

        Raises:
            InvalidRequest: some field is missing, unknown, of the wrong type or out of its bounds.
        """
        # Asked first: validating and copying 100 MB of text only to refuse it would block everyone else.
        code = fields.get("code")
        if isinstance(code, str) and len(code) > MAX_CODE_BYTES:
            raise InvalidRequest("code", f"must be at most {MAX_CODE_BYTES:,} bytes, not {len(code):,}")
        try:
            return cls(**{name: value for name, value in fields.items() if value is not None})
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"] if part != "[key]") or "request"
            rule = first["msg"].removeprefix("Value error, ")
            raise InvalidRequest(field, rule[:1].lower() + rule[1:]) from None

    @field_validator("code")
    @classmethod
    def _code_is_text(cls, code: str) -> str:
        if not code.strip():
            raise ValueError("must contain a program, not only white space")
        try:
            size = len(code.encode())
        except UnicodeEncodeError as error:
            raise ValueError("must be valid Unicode text (it holds a lone surrogate)") from error
        if size > MAX_CODE_BYTES:
            raise ValueError(f"must be at most {MAX_CODE_BYTES:,} bytes, not {size:,}")
        if "\0" in code:
            raise ValueError("must not contain NUL characters")
        return code

    @field_validator("env")
    @classmethod
    def _env_is_clean(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            if not _ENV_NAME.match(name):
                raise ValueError(f"{name!r} is not a variable name (letters, digits and underscores)")
            if "\0" in value or any(0xD800 <= ord(character) <= 0xDFFF for character in value):
                raise ValueError(f"the value of {name} must be valid text without NUL characters")
        if sum(len(name) + len(value) for name, value in env.items()) > MAX_ENV_BYTES:
            raise ValueError(f"must be at most {MAX_ENV_BYTES:,} bytes in all")
        return env

    @field_validator("files", mode="before")
    @classmethod
    def _files_are_bytes(cls, files: Any) -> Any:
        if not isinstance(files, dict):
            return files
        return {name: data.encode() if isinstance(data, str) else data for name, data in files.items()}

    @field_validator("files")
    @classmethod
    def _files_fit(cls, files: dict[str, bytes]) -> dict[str, bytes]:
        if len(files) > MAX_FILES:
            raise ValueError(f"must be at most {MAX_FILES:,} files, not {len(files):,}")
        size = sum(map(len, files.values()))
        if size > MAX_FILES_BYTES:
            raise ValueError(f"must be at most {MAX_FILES_BYTES:,} bytes in all, not {size:,}")
        for name in files:
            if any(str(parent) in files for parent in PurePosixPath(name).parents):
                raise ValueError(f"{name!r} lies under a name that is itself a file")
        return files

    @field_validator("stdin")
    @classmethod
    def _stdin_fits(cls, stdin: str | bytes | None) -> bytes | None:
        data = stdin.encode("utf-8", "surrogateescape") if isinstance(stdin, str) else stdin
        if data is not None and len(data) > MAX_STDIN_BYTES:
            raise ValueError(f"must be at most {MAX_STDIN_BYTES:,} bytes, not {len(data):,}")
        return data


class Program(Message):
    """What a backend is asked to run: a request with every limit filled in."""

    run_id: str
    code: str
    language: Language = "python"
    timeout_s: float = 30.0
    env: dict[str, str] = Field(default_factory=dict)
    files: dict[str, bytes] = Field(default_factory=dict)
    stdin: bytes | None = None
    limits: Limits = Limits()
    session: str | None = None
    """The interpreter to run in; None for a pristine one."""


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

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

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


@dataclass(frozen=True, slots=True)
class GrantUse:
    """Leave to use a leased sandbox once. A sandbox refuses an older epoch, and a use it has seen already."""

    grant_id: str
    epoch: int
    use: int
    user: str
    ttl_s: float
    """The sandbox stops the work after so long, even if nobody asks for it any more."""


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """What a sandbox actor says of itself."""

    sandbox_id: str
    backend: str
    generation: int
    executions: int
    age_s: float
    build_tag: str
    isolation: str
    user: str | None
    sessions: int


@dataclass(frozen=True, slots=True)
class SandboxAnswer:
    """A program's report, and which sandbox it ran in."""

    report: ProgramReport
    generation: int
    prepare_s: float
    execute_s: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for one grant."""

    backend: str
    user: str
    priority: Priority
    deadline_s: float
    """Rejected when not granted within so long."""
    ttl_s: float
    programs: int = 1
    cost_s: float | None = None
    sandbox_id: str | None = None
    """That very sandbox, which a session is pinned to."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease on a sandbox."""

    grant_id: str
    sandbox_id: str
    backend: str
    user: str
    epoch: int
    ttl_s: float
    retainable: bool
    """Nobody else waits: the holder may keep it a moment for the same user's next run."""


@dataclass(frozen=True, slots=True)
class Release:
    """The end of a grant."""

    grant_id: str
    backend: str
    epoch: int
    used_s: float
    healthy: bool = True
    programs: int = 1
