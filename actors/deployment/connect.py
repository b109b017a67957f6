"""Names, options, creation and shutdown of the actors."""

from __future__ import annotations

import logging
import os
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from actors.circuit_breaker import CircuitBreaker
from actors.clients import registry
from actors.clients.handle import OrchestratorHandle
from actors.config import Settings
from actors.deployment import join_file, local_ray
from actors.errors import ActorUnavailable, ConfigurationError, NoDeployment
from actors.fair_queue import FairQueue
from actors.orchestrator import Orchestrator
from actors.pool_supervisor import PoolSupervisor
from actors.rate_limiter import RateLimiter
from actors.result_cache import ResultCache

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 40.0
"""For ending sandboxes, beyond the time that is given to what is in flight."""
CLASSES: dict[str, type] = {
    "ResultCache": ResultCache,
    "RateLimiter": RateLimiter,
    "CircuitBreaker": CircuitBreaker,
    "FairQueue": FairQueue,
    "PoolSupervisor": PoolSupervisor,
    "Orchestrator": Orchestrator,
}
ASYNC = ("ResultCache", "FairQueue", "PoolSupervisor", "Orchestrator")
log = logging.getLogger(__name__)
_local: local_ray.LocalCluster | None = None


def connect(settings: Settings | None = None) -> OrchestratorHandle:
    """Join the deployment of this cluster, or start one; returns the Orchestrator's handle.

    Uses the Ray that this process is connected to; else the cluster that ``RAY_ADDRESS`` names; else the long-lived
    deployment that ``e2b-orchestrator up`` left on this machine; else a Ray of its own, which ends with this process.

    Raises:
        ConfigurationError: ``settings`` are wrong, or are not those of the deployment that is running.
        IsolationUnavailable: a local deployment cannot isolate programs on this machine.
    """
    asked = settings or Settings.load()
    attach(asked.namespace)
    return join(asked.namespace, settings) or start(asked)


def attach(namespace: str, start_local: bool = True) -> None:
    """Connect this process to Ray, as ``connect`` says.

    Raises:
        NoDeployment: there is no Ray to join and ``start_local`` is false.
    """
    global _local
    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    elif (found := join_file.read(namespace)) is not None:
        local_ray.join(found)
    elif start_local:
        _local = local_ray.LocalCluster.start()
    else:
        raise NoDeployment("no deployment is running on this machine; start one with `e2b-orchestrator up`")


def join(namespace: str, settings: Settings | None = None) -> OrchestratorHandle | None:
    """The running deployment's Orchestrator, or None.

    Raises:
        ConfigurationError: it runs with another configuration than ``settings``.
        ActorUnavailable: it is there and does not become ready.
    """
    try:
        handle: Any = ray.get_actor("Orchestrator", namespace=namespace)
    except ValueError:
        return None
    try:
        running = _fingerprint(handle)
    except RayActorError:
        return None  # it is just being shut down
    if settings is not None:
        _must_be_same(settings, running)
    orchestrator: OrchestratorHandle = handle
    return orchestrator


def start(settings: Settings) -> OrchestratorHandle:
    """Create every actor and wait until the first sandbox can serve.

    Raises:
        IsolationUnavailable, ActorUnavailable: it could not start; nothing is left of it.
        ConfigurationError: somebody has started one with another configuration meanwhile.
    """
    # Ray keeps what actors are constructed with, so no key may be in it; who needs one reads it on its node.
    sent = settings.model_copy(update={"e2b_api_key": None})
    handles: dict[str, Any] = {}
    for name in registry.SINGLETONS:
        options: dict[str, Any] = {"max_concurrency": 10_000} if name in ASYNC else {}
        actor_class: Any = ray.remote(CLASSES[name])
        handles[name] = actor_class.options(
            name=name,
            namespace=settings.namespace,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            enable_task_events=False,
            **options,
        ).remote(sent)
    try:
        ray.get(handles["PoolSupervisor"].ready.remote(), timeout=START_TIMEOUT_S)
        running = _fingerprint(handles["Orchestrator"])
    except (RayError, ActorUnavailable) as error:
        registry.kill_sandboxes(settings.namespace)
        registry.kill_singletons(settings.namespace)
        cause = getattr(error, "cause", None)
        raise cause or ActorUnavailable("PoolSupervisor", f"did not start: {error}") from None
    _must_be_same(settings, running)
    orchestrator: OrchestratorHandle = handles["Orchestrator"]
    return orchestrator


def _fingerprint(orchestrator: Any) -> str:
    """What configuration it runs with, once it is ready."""
    try:
        running: Any = ray.get(orchestrator.start.remote(), timeout=START_TIMEOUT_S)
    except GetTimeoutError:
        raise ActorUnavailable("Orchestrator", f"was not ready within {START_TIMEOUT_S:g} s") from None
    return str(running)


def _must_be_same(settings: Settings, running: str) -> None:
    if settings.fingerprint() != running:
        raise ConfigurationError(
            f"deployment {settings.namespace!r} runs with another configuration ({running}, asked "
            f"{settings.fingerprint()}); join it with actors.connect() alone, shut it down first, or give yours a "
            "namespace of its own"
        )


def shutdown(namespace: str = "e2b-orchestrator", timeout_s: float = 10.0) -> None:
    """Drain and end the deployment, and the local Ray if this process started one. Idempotent."""
    global _local
    if ray.is_initialized():
        end_deployment(namespace, timeout_s)
    if _local is not None:
        _local.stop()
        _local = None


def end_deployment(namespace: str, timeout_s: float = 10.0) -> None:
    """Drain and end one deployment, leaving Ray as it is. Idempotent."""
    try:
        handle = ray.get_actor("Orchestrator", namespace=namespace)
        ray.get(handle.shutdown.remote(timeout_s), timeout=timeout_s + STOP_TIMEOUT_S)
    except (ValueError, RayError) as error:
        # Gone, or it cannot end itself because another actor is: what is left of it is ended below.
        log.info("the deployment did not end by itself", extra={"namespace": namespace, "error": str(error)})
    registry.kill_sandboxes(namespace)
    registry.kill_singletons(namespace)
