"""An actor-model system on Ray that runs untrusted code in sandboxes.

    import ray, actors
    orchestrator = actors.connect()
    result = ray.get(orchestrator.run.remote("print('hi')"))
    with actors.Session.open(orchestrator) as session:
        session.commands.run("ls")

Who calls whom, always in this direction and never in a circle::

    caller ──► Orchestrator ──► ResultCache, FairQueue, Sandbox          (awaited on the path of a run)
               Orchestrator ─ ─► CircuitBreaker, RateLimiter             (snapshots, leases and batched reports)
               PoolSupervisor ──► FairQueue, Sandbox, RateLimiter        (its own loop, off the path)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.clients.handle import OrchestratorHandle
    from actors.clients.outcomes import outcome_of
    from actors.clients.session import Session
    from actors.clients.streams import stream, stream_many
    from actors.config import Settings
    from actors.deployment.connect import connect, shutdown
    from actors.errors import InvalidRequest, ServiceError
    from actors.schemas import ExecutionResult, Limits, Outcome, OutputEvent, Priority
    from actors.schemas.score import Case, Score

__all__ = [
    "Case",
    "ExecutionResult",
    "InvalidRequest",
    "Limits",
    "OrchestratorHandle",
    "Outcome",
    "OutputEvent",
    "Priority",
    "Score",
    "ServiceError",
    "Session",
    "Settings",
    "connect",
    "outcome_of",
    "shutdown",
    "stream",
    "stream_many",
]

_HOMES = {
    "actors.config": ("Settings",),
    "actors.errors": ("InvalidRequest", "ServiceError"),
    "actors.clients.handle": ("OrchestratorHandle",),
    "actors.clients.outcomes": ("outcome_of",),
    "actors.schemas": ("ExecutionResult", "Limits", "Outcome", "OutputEvent", "Priority"),
    "actors.schemas.score": ("Case", "Score"),
    "actors.clients.session": ("Session",),
    "actors.clients.streams": ("stream", "stream_many"),
    "actors.deployment.connect": ("connect", "shutdown"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Late, so that a submodule that needs no Ray (the command line's help, the test plugin) does not wait for it.
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
