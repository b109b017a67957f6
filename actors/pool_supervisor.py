"""The PoolSupervisor actor: a pool of sandboxes for every backend, of the size that the load needs."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from actors.backends import specs
from actors.clients import cluster, registry
from actors.clients.sandboxes import SandboxActors
from actors.clients.singletons import LimiterClient, QueueClient
from actors.config import Settings
from actors.core.router import BackendView
from actors.errors import ConfigurationError, IsolationUnavailable
from actors.pools.pool import Pool
from actors.sandbox import Sandbox
from actors.tasks import Tasks
from actors.telemetry.logs import log_as_json

log = logging.getLogger(__name__)
CLUSTER_LOOK_S = 2.0
"""The size of the cluster is looked at so often."""
RETRY_S = 1.0
"""What failed for a bug is tried again after so long."""
FATAL = (IsolationUnavailable, ConfigurationError)
"""Why a backend may be missing that starting again cannot mend."""
_WORST_FIRST = ("degraded", "starting", "ok")


class PoolSupervisor:
    """Keep as many sandbox actors of each backend as its load needs, all of them alive, young and of the right build.

    In memory only. A restart finds the live sandbox actors in Ray's register and adopts them; those that do not answer
    are killed. While it is away nothing is scaled or replaced, but runs go on.
    """

    def __init__(self, settings: Settings) -> None:
        log_as_json()
        self._settings = settings
        self._actors = SandboxActors(Sandbox, settings)
        queue, limiter = QueueClient(settings.namespace), LimiterClient(settings.namespace)
        self._pools = {name: Pool(spec, self._actors, queue, limiter) for name, spec in specs.table(settings).items()}
        self._tasks = Tasks(lambda error: log.error("supervision failed", exc_info=error))
        self._tasks.keep(self._begin, RETRY_S)
        self._tasks.keep(self._follow_cluster, RETRY_S)

    async def ready(self) -> None:
        """Return when the first sandbox of every backend can serve, or has failed to start.

        Raises:
            IsolationUnavailable, ConfigurationError: of any backend; it will never start here.
            ServiceError: no backend could start; says why the first could not.
        """
        ends = await asyncio.gather(*(asyncio.shield(pool.first) for pool in self._pools.values()))
        errors = [error for error in ends if error is not None]
        fatal = [error for error in errors if isinstance(error, FATAL)]
        if fatal or len(errors) == len(ends):
            raise (fatal or errors)[0]

    async def backends(self) -> dict[str, BackendView]:
        """What the router may choose from."""
        return {name: pool.view() for name, pool in self._pools.items()}

    async def health(self) -> dict[str, Any]:
        """The worst pool's ``status``, how many sandboxes serve in all, and what is wrong where."""
        pools = {name: pool.health() for name, pool in self._pools.items()}
        return {
            "status": min((health["status"] for health in pools.values()), key=_WORST_FIRST.index),
            "sandboxes": sum(health["sandboxes"] for health in pools.values()),
            "detail": "; ".join(f"{name}: {health['detail']}" for name, health in pools.items() if health["detail"]),
        }

    async def metrics(self) -> dict[str, Any]:
        """The figures of the only pool; of several, their sums and those of each."""
        pools = {name: pool.metrics() for name, pool in self._pools.items()}
        if len(pools) == 1:
            return next(iter(pools.values()))
        return summed(pools) | {"backends": pools}

    async def stop(self) -> None:
        """Withdraw and stop every sandbox. Idempotent."""
        self._tasks.cancel()
        await asyncio.gather(*(pool.stop() for pool in self._pools.values()))
        registry.kill_sandboxes(self._settings.namespace)

    async def _begin(self) -> None:
        await asyncio.gather(*(self._adopt(sandbox_id) for sandbox_id in self._actors.names()))
        for pool in self._pools.values():
            pool.begin()

    async def _adopt(self, sandbox_id: str) -> None:
        """Hand a sandbox actor that an earlier life of this actor made to its backend's pool, if it is well."""
        client = self._actors.client(sandbox_id)
        try:
            status = await client.check(self._settings.pool.health_timeout_s)
            self._pools[status.backend].adopt(client, status)
        except Exception as error:  # noqa: BLE001 - one that is none of ours must not keep the rest from being adopted
            log.warning("an orphan was killed", extra={"sandbox_id": sandbox_id, "error": repr(error)})
            self._actors.kill(sandbox_id)

    async def _follow_cluster(self) -> None:
        """Let more run at a time when nodes join, and fewer when they leave."""
        while True:
            cpus = await asyncio.to_thread(cluster.cpus)
            for pool in self._pools.values():
                pool.concurrency = pool.spec.concurrency(cpus)
            await asyncio.sleep(CLUSTER_LOOK_S)


def summed(pools: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What can be added up, and the worst health."""
    first = next(iter(pools.values()))
    counts = [name for name, value in first.items() if isinstance(value, int | float)]
    return {name: sum(figures[name] for figures in pools.values()) for name in counts} | {
        "health_score": min(figures["health_score"] for figures in pools.values())
    }
