"""What a user asks for. Validated here, before anything runs."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self, TypedDict

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from actors.errors import InvalidRequest
from actors.schemas.message import Message

MAX_CODE_BYTES = 1_000_000
"""The longest program that is run; a longer one is an ``error``, as one is that does not compile."""
MAX_FILES = 1_000
MAX_FILES_BYTES = 64 * 2**20
MAX_STDIN_BYTES = 16 * 2**20
MAX_ENV_BYTES = 128 * 2**10
MAX_TIMEOUT_S = 24 * 3600.0

MAX_OUTPUTS = 100
Language = Literal["python", "bash", "javascript", "typescript"]
CacheMode = Literal["auto", "off"]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class Priority(IntEnum):
    """Bands of the queue; within a band users share fairly, and waiting raises a run's band."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Limits(Message):
    """What one run may use. A field left out takes the deployment's default."""

    memory_mib: Annotated[int, Field(ge=16, le=1_048_576)] | None = None
    cpu_s: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] | None = None
    """CPU time of the program and all its children."""
    cpu_wait_s: Annotated[float, Field(ge=0, le=MAX_TIMEOUT_S)] | None = None
    """How much longer than ``timeout_s`` it may take because it waits for a core, until it has computed so long."""
    processes: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Processes and threads together."""
    disk_mib: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """The size of the workspace, and that of /tmp."""
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


def _check_env(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not _ENV_NAME.match(name):
            raise ValueError(f"{name!r} is not a variable name (letters, digits and underscores)")
        if "\0" in value or any(0xD800 <= ord(character) <= 0xDFFF for character in value):
            raise ValueError(f"the value of {name} must be valid text without NUL characters")
    if sum(len(name) + len(value) for name, value in env.items()) > MAX_ENV_BYTES:
        raise ValueError(f"must be at most {MAX_ENV_BYTES:,} bytes in all")
    return env


EnvVars = Annotated[dict[str, str], AfterValidator(_check_env)]


def _as_bytes(given: Any) -> Any:
    match given:
        case str():
            return given.encode("utf-8", "surrogateescape")
        case {"base64": str(text), **others} if not others:
            try:
                return base64.b64decode(text, validate=True)
            except ValueError as error:
                raise InvalidRequest("base64", f"must be valid base64 ({error})") from None
        case None | bytes() | bytearray():
            return given
    raise ValueError('must be text, bytes or {"base64": …}')


def _as_priority(given: Any) -> Priority:
    band = Priority.__members__.get(given.upper()) if isinstance(given, str) else given
    if band not in list(Priority):
        raise ValueError("must be 'high', 'normal' or 'low', or 0, 1 or 2")
    return Priority(band)


_BASE64 = {"type": "object", "properties": {"base64": {"type": "string"}}, "required": ["base64"]}
Content = Annotated[bytes, BeforeValidator(_as_bytes), WithJsonSchema({"anyOf": [{"type": "string"}, _BASE64]})]
"""What a file holds. A caller may give text, or ``{"base64": …}`` where JSON has no bytes."""
PriorityBand = Annotated[
    Priority, BeforeValidator(_as_priority), WithJsonSchema({"enum": [band.name.lower() for band in Priority]})
]
"""A band of the queue. A caller may give its name."""


class ExecutionRequest(Message):
    """One program to run, and how.

    Build it with ``ExecutionRequest.checked(...)``, which names the field and the rule when something is wrong.
    """

    code: str
    """The program; the value of its last expression is the result's ``text``."""
    user: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f]+$")] = "default"
    """Whom limits, fairness and isolation apply to."""
    language: Language = "python"
    """What the program is written in."""
    timeout_s: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S, allow_inf_nan=False, strict=True)] = 30.0
    """The program is interrupted, then killed, after so many seconds."""
    max_wait_s: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S, allow_inf_nan=False, strict=True)] | None = None
    """The run is rejected if it has not begun after so many seconds; None is the deployment's."""
    session: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    """Id of an open session, whose interpreter and files it continues."""
    context: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")] | None = None
    """Which of the session's interpreters; None is its first."""
    env: EnvVars = Field(default_factory=dict)
    """Variables of this run only."""
    files: dict[FileName, Content] = Field(default_factory=dict)
    """Name to content, put into the workspace before the program starts."""
    outputs: Annotated[tuple[FileName, ...], Field(max_length=MAX_OUTPUTS, strict=False)] = ()
    """Names or patterns of files to bring back, in the result's ``files``."""
    stdin: Content | None = None
    """What ``input()`` reads."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """Seeds ``random`` and ``numpy.random``, so that a program draws the same in every run."""
    limits: Limits = Limits()
    """What it may use; a field left out is its session's, or the deployment's."""
    priority: PriorityBand = Priority.NORMAL
    """Its band in the queue."""
    backend: Name | None = None
    """The backend that is to run it, by name, or ``local``; None lets the router choose."""
    image: Name | None = None
    """What its sandbox is to be made from; None leaves that to the backend."""
    cache: CacheMode = "auto"
    """``auto`` shares results of deterministic programs, ``off`` never."""
    idempotency_key: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None
    """The program is started at most once for this key and user, across crashes too."""
    idempotent: bool = False
    """It may be started again if the service failed while it ran."""
    fresh: bool = False
    """Demand a sandbox that nothing ever ran in."""

    @classmethod
    def of(cls, fields: Mapping[str, Any], place: tuple[str, ...] = ()) -> Self:
        """Build a request from what a caller gives, where None is an option that is left out.

        Any text may be ``code``: one that cannot be a program is no mistake of the caller's (``core/source.py``).

        Raises:
            InvalidRequest: some field is missing, unknown, of the wrong type or out of its bounds.
        """
        return super().of({name: value for name, value in fields.items() if value is not None}, place)

    @classmethod
    def checked(cls, **fields: Any) -> Self:
        """Like ``of``, of keyword arguments."""
        return cls.of(fields)

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

    @model_validator(mode="after")
    def _sessions_fit(self) -> ExecutionRequest:
        if self.context is not None and self.session is None:
            raise InvalidRequest("context", "is a session's; name the session too")
        if self.fresh and self.session is not None:
            raise InvalidRequest("fresh", "a session's programs continue what is there; leave one of the two out")
        return self

    @field_validator("stdin")
    @classmethod
    def _stdin_fits(cls, stdin: bytes | None) -> bytes | None:
        if stdin is not None and len(stdin) > MAX_STDIN_BYTES:
            raise ValueError(f"must be at most {MAX_STDIN_BYTES:,} bytes, not {len(stdin):,}")
        return stdin


class SessionRunOptions(TypedDict, total=False):
    """What a caller may say of a run in a session besides its code, for type checkers and editors.

    Each is a field of ``ExecutionRequest``, with the types of everything that it accepts.
    """

    language: Language
    timeout_s: float
    max_wait_s: float | None
    context: str | None
    env: Mapping[str, str]
    files: Mapping[str, str | bytes]
    outputs: Sequence[str]
    stdin: str | bytes | None
    seed: int | None
    limits: Limits | Mapping[str, Any]
    priority: Priority | Literal["high", "normal", "low"]
    backend: str | None
    image: str | None
    cache: CacheMode
    idempotency_key: str | None
    idempotent: bool


class RunOptions(SessionRunOptions, total=False):
    """What a caller may say of any run besides its code."""

    user: str
    session: str | None
    fresh: bool


def checked_batch(programs: Any, options: Mapping[str, Any]) -> list[ExecutionRequest]:
    """Check the programs of a batch, each its code or a dict of code and options of its own, before any of them runs.

    Every option is the caller's, whether all programs share it or one has it to itself: a wrong one is raised, and
    makes no results that a trainer would mask.

    Raises:
        InvalidRequest: names the option, or the program and its option.
    """
    if isinstance(programs, str) or not isinstance(programs, Sequence):
        raise InvalidRequest("programs", "must be a list of programs")
    if options.get("idempotency_key") is not None and len(programs) > 1:
        raise InvalidRequest("idempotency_key", "is of one program; give each a key of its own")
    if not programs:
        ExecutionRequest.of({"code": "", **options})
    return [_checked_program(index, program, options) for index, program in enumerate(programs)]


def _checked_program(index: int, program: Any, options: Mapping[str, Any]) -> ExecutionRequest:
    own = {"code": program} if isinstance(program, str) else program
    if not isinstance(own, Mapping):
        kind = type(program).__name__
        raise InvalidRequest(f"programs.{index}", f"must be code, or a dict of code and options, not {kind}")
    try:
        return ExecutionRequest.of({**options, **own})
    except InvalidRequest as error:
        name = error.field.partition(".")[0]
        if name in options and name not in own:
            raise
        raise InvalidRequest(f"programs.{index}.{error.field}", error.rule) from None
