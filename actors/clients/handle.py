"""The Orchestrator's handle: Ray's own. ``handle.pyi`` tells type checkers and editors what its calls take and give."""

from ray.actor import ActorHandle as OrchestratorHandle

__all__ = ["OrchestratorHandle"]
