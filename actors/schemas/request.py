"""What a user asks for. Validated here, before anything runs."""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, field_validator, model_validator

from actors.errors import InvalidRequest
from actors.schemas.message import Message

MAX_CODE_BYTES = 1_000_000
MAX_FILES = 1_000
MAX_FILES_BYTES = 64 * 2**20
MAX_STDIN_BYTES = 16 * 2**20
MAX_ENV_BYTES = 128 * 2**10
MAX_TIMEOUT_S = 24 * 3600.0

MAX_OUTPUTS = 100
Language = Literal["python", "bash", "javascript", "typescript"]
CacheMode = Literal["auto", "off"]
BackendName = Literal["jail", "e2b", "fake"]


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


class ExecutionRequest(Message):
    """One program to run and how; see ``Orchestrator.run`` for what each field does.

    Build it with ``ExecutionRequest.checked(...)``, which names the field and the rule when something is wrong.
    """

    code: str
    user: Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f]+$")] = "default"
    language: Language = "python"
    timeout_s: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S, allow_inf_nan=False, strict=True)] = 30.0
    session: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    context: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")] | None = None
    env: EnvVars = Field(default_factory=dict)
    files: dict[FileName, bytes] = Field(default_factory=dict)
    outputs: Annotated[tuple[FileName, ...], Field(max_length=MAX_OUTPUTS)] = ()
    stdin: str | bytes | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
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

    @model_validator(mode="after")
    def _contexts_are_of_sessions(self) -> ExecutionRequest:
        if self.context is not None and self.session is None:
            raise ValueError("context: is a session's; name the session too")
        return self

    @field_validator("stdin")
    @classmethod
    def _stdin_fits(cls, stdin: str | bytes | None) -> bytes | None:
        data = stdin.encode("utf-8", "surrogateescape") if isinstance(stdin, str) else stdin
        if data is not None and len(data) > MAX_STDIN_BYTES:
            raise ValueError(f"must be at most {MAX_STDIN_BYTES:,} bytes, not {len(data):,}")
        return data
