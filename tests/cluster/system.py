"""A running deployment, and short ways to use it in tests."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

import actors
from actors import testing
from actors.config import Settings
from actors.deployment import connect

POOL = {"min_size": 2, "target_size": 3, "max_size": 5, "maintenance_interval_s": 1.0}


@dataclass(frozen=True)
class System:
    """The parts of a deployment, by name."""

    settings: Settings
    orchestrator: ActorHandle[Any]

    def run(self, code: str, **options: Any) -> actors.ExecutionResult:
        result: actors.ExecutionResult = ray.get(self.orchestrator.run.remote(code, **options), timeout=60)
        return result

    def start(self, *programs: str, **options: Any) -> list[ray.ObjectRef[actors.ExecutionResult]]:
        """Runs that nothing shares."""
        return [self.orchestrator.run.remote(code, cache="off", **options) for code in programs]

    def actor(self, name: str) -> ActorHandle[Any]:
        return ray.get_actor(name, namespace=self.settings.namespace)

    def metrics(self, section: str) -> dict[str, Any]:
        found: dict[str, dict[str, Any]] = ray.get(self.orchestrator.get_metrics.remote(), timeout=30)
        return found[section]

    def leased(self) -> list[str]:
        """Sandboxes that a run has now."""
        watched = ray.get(self.actor("FairQueue").watch.remote("fake", 0.0), timeout=10)
        return [slot.sandbox_id for slot in watched.slots if slot.use == "leased"]


@contextmanager
def running(**sections: Any) -> Iterator[System]:
    """A small deployment on the fake backend; nothing of it may be left afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        fields: dict[str, Any] = {
            "namespace": f"test-{uuid.uuid4().hex[:8]}",
            "router": {"local": "fake"},
            "pool": POOL,
            "cache": {"verify_rate": 0.0},
            "ledger": {"path": Path(directory) / "ledger.sqlite3"},
        }
        settings = Settings.load(**(fields | sections))
        try:
            yield System(settings, connect.start(settings))
        finally:
            connect.end_deployment(settings.namespace)
            eventually(lambda: not left_of(settings.namespace), 15, "every actor is gone")


def left_of(namespace: str) -> list[str]:
    """Names of the deployment's actors that exist."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in named if actor["namespace"] == namespace]


def pid_of(system: System, name: str) -> int:
    """The process of an actor."""
    pid: int = ray.get(system.actor(name).__ray_call__.remote(lambda _: os.getpid()), timeout=10)
    return pid


def eventually(holds: Callable[[], bool], within_s: float, what: str) -> None:
    """Wait until something that another process does has happened."""
    holds.__name__ = what
    testing.eventually(holds, within_s)
