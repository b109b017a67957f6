"""An actor-model system on Ray that runs untrusted code in sandboxes.

    import ray, actors
    orchestrator = actors.connect()
    result = ray.get(orchestrator.run.remote("print('hi')"))

Who calls whom, always in this direction and never in a circle::

    caller ──► Orchestrator ──► ResultCache, FairQueue, Sandbox          (awaited on the path of a run)
               Orchestrator ─ ─► CircuitBreaker, RateLimiter             (snapshots, leases and batched reports)
               PoolSupervisor ──► FairQueue, Sandbox, RateLimiter        (its own loop, off the path)
"""

from __future__ import annotations

from actors.config import Settings
from actors.errors import InvalidRequest, ServiceError
from actors.outcomes import outcome_of, stream
from actors.schemas import ExecutionResult, Limits, Outcome, OutputEvent, Priority
from actors.wiring import connect, shutdown

__all__ = [
    "ExecutionResult",
    "InvalidRequest",
    "Limits",
    "Outcome",
    "OutputEvent",
    "Priority",
    "ServiceError",
    "Settings",
    "connect",
    "outcome_of",
    "shutdown",
    "stream",
]
