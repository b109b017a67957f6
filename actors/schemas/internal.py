"""What actors and backends say to each other: the program to run, the grant to run it on, the report."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from actors.schemas.message import Message
from actors.schemas.request import Language, Limits, Priority
from actors.schemas.result import ProgramReport


class Program(Message):
    """What a backend is asked to run: a request with every limit filled in."""

    run_id: str
    code: str
    language: Language = "python"
    timeout_s: float = 30.0
    env: dict[str, str] = Field(default_factory=dict)
    files: dict[str, bytes] = Field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    """Files of the workspace to bring back; each may be a pattern."""
    stdin: bytes | None = None
    seed: int | None = None
    limits: Limits = Limits()
    session: str | None = None
    """The session to run in; None for a pristine interpreter."""
    context: str | None = None
    """Which of the session's interpreters; None for its first."""


@dataclass(frozen=True, slots=True)
class GrantTicket:
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
class GrantRequest:
    """A request for one grant."""

    backend: str
    user: str
    priority: Priority
    deadline_s: float
    """Rejected when not granted within so long."""
    ttl_s: float
    programs: int = 1


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease on a sandbox."""

    grant_id: str
    sandbox_id: str
    backend: str
    user: str
    epoch: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class GrantRelease:
    """The end of a grant."""

    grant_id: str
    backend: str
    epoch: int
    used_s: float
    healthy: bool = True
    programs: int = 1
