"""Fixtures for tests that run programs; pytest finds this plugin by itself once the package is installed.

    def test_greeting(orchestrator):
        assert ray.get(orchestrator.run.remote("print('hi')")).stdout == "hi\\n"

    def test_patience(deployment):
        small = deployment(pool={"max_size": 1})
        assert small.run("# fake: slow=9", timeout_s=0.1).outcome == "timeout"
        assert small.metrics("orchestrator")["total_requests"] == 1

    def test_for_real(deployment):
        assert deployment(router={"local": "jail"}).run("sum(range(10))").text == "45"

Deployments are small, and on the fake backend unless a test asks for more: one that prints and adds, and otherwise does
what programs say in comments (``actors.backends.fake.directives`` lists what they can). Each has a namespace and a
ledger of its own, and a test fails if any actor or process is left of one. Ray is imported when a fixture is used.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import pytest

if TYPE_CHECKING:
    from psutil import Process

    from actors.clients.handle import OrchestratorHandle
    from actors.config import Settings
    from actors.schemas import ExecutionResult, RunOptions

CPUS = 4
ANSWER_WITHIN_S = 60.0
GONE_WITHIN_S = 15.0
POLL_S = 0.05
DEFAULTS: dict[str, dict[str, Any]] = {
    "router": {"local": "fake"},
    "pool": {"min_size": 1, "target_size": 1, "max_size": 2, "maintenance_interval_s": 1.0},
    "cache": {"verify_rate": 0.0},
}
"""Settings that differ from those of a deployment in production."""


@pytest.fixture(scope="session")
def orchestrator_cluster() -> Iterator[None]:
    """Ray on this machine, started once and gone with the session; a Ray that is there already is used and left."""
    import ray

    if ray.is_initialized():
        yield
        return
    from actors.deployment.local_ray import LocalCluster

    with _process_left_as_it_was():
        # Serve would otherwise drain an idle proxy for half a minute.
        os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1")
        cluster = LocalCluster.start(CPUS)
        try:
            yield
        finally:
            cluster.stop()


@pytest.fixture
def deployment(orchestrator_cluster: None) -> Iterator[Callable[..., Deployment]]:  # noqa: ARG001  # it must be there
    """Start deployments for one test: ``deployment(pool={"max_size": 3})``, by sections of the settings."""
    with ExitStack() as running:
        yield lambda **sections: running.enter_context(deployed(**sections))


@pytest.fixture(scope="module")
def orchestrator(orchestrator_cluster: None) -> Iterator[OrchestratorHandle]:  # noqa: ARG001  # it must be there
    """The handle of a deployment with the defaults for tests, shared by the tests of a module."""
    with deployed() as running:
        yield running.orchestrator


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment that is running, with its first sandbox ready."""

    settings: Settings
    orchestrator: OrchestratorHandle

    @property
    def namespace(self) -> str:
        return self.settings.namespace

    def run(self, code: str, **options: Unpack[RunOptions]) -> ExecutionResult:
        """Run a program to its end; ``options`` are those of ``Orchestrator.run``."""
        import ray

        return ray.get(self.orchestrator.run.remote(code, **options), timeout=ANSWER_WITHIN_S)

    def metrics(self, section: str) -> dict[str, Any]:
        """A section of ``Orchestrator.get_metrics``."""
        import ray

        found: dict[str, Any] = ray.get(self.orchestrator.get_metrics.remote(), timeout=ANSWER_WITHIN_S)[section]
        return found


@contextmanager
def deployed(**sections: Any) -> Iterator[Deployment]:
    """Run a deployment in the Ray that this process is connected to, for fixtures of one's own.

    Raises:
        AssertionError: something of it was left when it had been shut down.
    """
    from actors.config import Settings
    from actors.deployment.creation import create_deployment, end_deployment

    with tempfile.TemporaryDirectory(prefix="e2bo-test-") as directory:
        defaults = DEFAULTS | {"ledger": {"path": Path(directory) / "ledger.sqlite"}}
        merged = {name: values | sections.get(name, {}) for name, values in defaults.items()}
        settings = Settings.load(**{"namespace": f"test-{uuid.uuid4().hex[:12]}", **sections, **merged})
        try:
            yield Deployment(settings, create_deployment(settings))
        finally:
            processes = _processes(settings.namespace)
            end_deployment(settings.namespace)
            _assert_gone(settings.namespace, processes)


def eventually(condition: Callable[[], object], within_s: float = 30.0, what: str = "") -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it still does not after ``within_s``; says ``what`` was waited for.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what or getattr(condition, '__name__', condition)}")
        time.sleep(POLL_S)


def pid_of(namespace: str, name: str) -> int | None:
    """The process that a named actor lives in; None while it has none."""
    import ray
    from ray._private import state

    try:
        actor_id = ray.get_actor(name, namespace=namespace)._actor_id.hex()
    except ValueError:
        return None
    pid: int = state.actors(actor_id).get("Pid", 0)
    return pid or None


def _processes(namespace: str) -> list[Process]:
    """The processes of a deployment's actors on this machine, and all that they started."""
    import psutil

    from actors.clients.registry import actor_names

    found: set[Process] = set()
    for pid in filter(None, (pid_of(namespace, name) for name in actor_names(namespace))):
        try:
            process = psutil.Process(pid)
            found |= {process, *process.children(recursive=True)}
        except psutil.NoSuchProcess:
            continue  # it ended meanwhile
    return list(found)


def _assert_gone(namespace: str, processes: list[Process]) -> None:
    import psutil

    from actors.clients.registry import actor_names

    def left() -> list[str]:
        return actor_names(namespace) + [str(process) for process in psutil.wait_procs(processes, timeout=0)[1]]

    deadline = time.monotonic() + GONE_WITHIN_S
    while remains := left():
        assert time.monotonic() < deadline, f"left of deployment {namespace}: {', '.join(remains)}"
        time.sleep(POLL_S)


@contextmanager
def _process_left_as_it_was() -> Iterator[None]:
    """Put environment and signal handlers back: Ray changes both."""
    environment = dict(os.environ)
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()} if in_main else {}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in handlers.items():
            # None is a handler that was not set from Python.
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
