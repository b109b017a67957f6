"""What callers, actors and backends say to each other.

``request`` is what a user asks, ``result`` what comes back, ``internal`` what only the system itself sees. Durations
are in seconds and sizes in bytes or MiB, as the names say; nothing carries a clock reading from one process to another.
"""

from __future__ import annotations

from actors.schemas.internal import (
    Grant,
    GrantRelease,
    GrantRequest,
    GrantTicket,
    Program,
    SandboxAnswer,
    SandboxStatus,
)
from actors.schemas.request import (
    CacheMode,
    ExecutionRequest,
    Language,
    Limits,
    Priority,
    RunOptions,
    SessionRunOptions,
)
from actors.schemas.result import (
    ExecutionResult,
    Outcome,
    OutputEvent,
    ProgramError,
    ProgramReport,
    RichResult,
    Timings,
    Usage,
)

__all__ = [
    "CacheMode",
    "ExecutionRequest",
    "ExecutionResult",
    "Grant",
    "GrantRelease",
    "GrantRequest",
    "GrantTicket",
    "Language",
    "Limits",
    "Outcome",
    "OutputEvent",
    "Priority",
    "Program",
    "ProgramError",
    "ProgramReport",
    "RichResult",
    "RunOptions",
    "SandboxAnswer",
    "SandboxStatus",
    "SessionRunOptions",
    "Timings",
    "Usage",
]
