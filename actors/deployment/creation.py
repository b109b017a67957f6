"""How the actors of a deployment are created and ended, in the Ray that this process is connected to."""

from __future__ import annotations

import logging
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from actors.circuit_breaker import CircuitBreaker
from actors.clients import registry
from actors.clients.handle import OrchestratorHandle
from actors.config import Settings
from actors.errors import ActorUnavailable, ConfigurationError
from actors.fair_queue import FairQueue
from actors.orchestrator import Orchestrator
from actors.pool_supervisor import PoolSupervisor
from actors.rate_limiter import RateLimiter
from actors.result_cache import ResultCache

START_TIMEOUT_S = 120.0
DRAIN_S = 10.0
STOP_TIMEOUT_S = 40.0
"""For ending sandboxes, beyond the time that is given to what is in flight."""
CLASSES: dict[str, type] = {
    actor.__name__: actor
    for actor in (ResultCache, RateLimiter, CircuitBreaker, FairQueue, PoolSupervisor, Orchestrator)
}
"""What each name of ``registry.SINGLETONS`` is of."""
WAITING = ("ResultCache", "FairQueue", "PoolSupervisor", "Orchestrator")
"""Those whose calls wait for something, so that very many go on at a time; the others answer at once, one by one."""
MAX_CALLS = 10_000
log = logging.getLogger(__name__)


def create_deployment(settings: Settings) -> OrchestratorHandle:
    """Create every actor and wait until the first sandbox can serve; one that is there already is joined.

    Raises:
        IsolationUnavailable, ActorUnavailable: it could not start; nothing is left of it.
        ConfigurationError: one is there with another configuration.
    """
    # Ray keeps what actors are constructed with, so no key may be in it; who needs one reads it on its node.
    sent = settings.model_copy(update={"e2b_api_key": None})
    handles = {name: _create_actor(name, sent) for name in registry.SINGLETONS}
    try:
        ray.get(handles["PoolSupervisor"].ready.remote(), timeout=START_TIMEOUT_S)
        running = fingerprint_of(handles["Orchestrator"])
    except (RayError, ActorUnavailable) as error:
        registry.kill_sandboxes(settings.namespace)
        registry.kill_singletons(settings.namespace)
        cause = getattr(error, "cause", None)
        raise cause or ActorUnavailable("PoolSupervisor", f"did not start: {error}") from None
    require_same(settings, running)
    orchestrator: OrchestratorHandle = handles["Orchestrator"]
    return orchestrator


def _create_actor(name: str, settings: Settings) -> Any:
    actor_class: Any = ray.remote(CLASSES[name])
    concurrency = {"max_concurrency": MAX_CALLS} if name in WAITING else {}
    return actor_class.options(
        name=name,
        namespace=settings.namespace,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=0,
        enable_task_events=False,
        **concurrency,
    ).remote(settings)


def fingerprint_of(orchestrator: Any) -> str:
    """The fingerprint of the configuration that a deployment runs with, once it is ready.

    Raises:
        ActorUnavailable: it does not become ready.
    """
    try:
        running: Any = ray.get(orchestrator.start.remote(), timeout=START_TIMEOUT_S)
    except GetTimeoutError:
        raise ActorUnavailable("Orchestrator", f"was not ready within {START_TIMEOUT_S:g} s") from None
    return str(running)


def require_same(settings: Settings, running: str) -> None:
    """Insist that a running deployment has the configuration that was asked for.

    Raises:
        ConfigurationError: it has not.
    """
    if settings.fingerprint() != running:
        raise ConfigurationError(
            f"deployment {settings.namespace!r} runs with another configuration ({running}, asked "
            f"{settings.fingerprint()}); join it with actors.connect() alone, shut it down first, or give yours a "
            "namespace of its own"
        )


def end_deployment(namespace: str, timeout_s: float = DRAIN_S) -> None:
    """Drain a deployment for at most ``timeout_s`` and end it, leaving Ray as it is. Idempotent."""
    try:
        handle = ray.get_actor("Orchestrator", namespace=namespace)
        ray.get(handle.shutdown.remote(timeout_s), timeout=timeout_s + STOP_TIMEOUT_S)
    except (ValueError, RayError) as error:
        # Gone, or it cannot end itself because another actor is: what is left of it is ended below.
        log.info("the deployment did not end by itself", extra={"namespace": namespace, "error": str(error)})
    registry.kill_sandboxes(namespace)
    registry.kill_singletons(namespace)
