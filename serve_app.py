"""The HTTP front door, on Ray Serve: ``serve run serve_app:app``.

There is no authentication yet: whoever reaches the port runs programs, as any ``user`` that they care to name. Serve
listens on 127.0.0.1 unless told otherwise (a configuration file made by ``serve build`` says 0.0.0.0: change that), and
it should stay so, or behind something that authenticates, whose name ``http.hosts`` then holds. Requests for another
host and from other sites' pages are refused.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI
from ray import serve

from actors.api.app import make_app
from actors.clients.calls import ActorClient
from actors.clients.outcomes import outcome_of
from actors.config import Settings
from actors.deployment import connect
from actors.deployment.creation import create_deployment
from actors.errors import ActorUnavailable
from actors.schemas import ExecutionRequest, ExecutionResult

RUN_MARGIN_S = 60.0
"""What the Orchestrator may need beyond a run's wait in the queue and its timeout before it is given up."""
METRICS_TIMEOUT_S = 30.0


@serve.deployment(
    # The orchestrator's queue is what bounds and orders the work; Serve's own limit of 5 would hide it.
    max_ongoing_requests=1000,
    ray_actor_options={"num_cpus": 0.1},
)
@serve.ingress()
class FrontDoor:
    """One replica: joins the deployment of its namespace, or starts it. Holds nothing that a restart would lose."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it
        # Off the event loop, which must go on answering Serve.
        await asyncio.to_thread(_join, settings)
        self._max_wait_s, self._hosts = settings.queue.max_wait_s, settings.http.hosts
        # Looks its actor up by name again when the handle fails.
        self._orchestrator = ActorClient(settings.namespace, "Orchestrator")

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self, hosts=self._hosts)

    async def run_request(self, request: ExecutionRequest) -> ExecutionResult:
        """Run one program; cancelling this stops it.

        Raises:
            ActorUnavailable: there is no Orchestrator, so nothing ran.
        """
        timeout_s = self._max_wait_s + request.timeout_s + RUN_MARGIN_S
        _ = self._orchestrator.actor
        try:
            result: ExecutionResult = await self._orchestrator.call("run_request", request, timeout_s=timeout_s)
        except ActorUnavailable as error:
            return outcome_of(error)
        return result

    async def metrics(self) -> dict[str, Any]:
        answered: dict[str, Any] = await self._orchestrator.call("get_metrics", timeout_s=METRICS_TIMEOUT_S)
        return answered

    async def health(self) -> dict[str, Any]:
        answered: dict[str, Any] = await self._orchestrator.call("health")
        return answered


def application(settings: Settings | None = None) -> serve.Application:
    """The app to give to ``serve.run``; without settings, those that the environment says.

    Raises:
        ConfigurationError: they are wrong.
    """
    # Serve keeps what replicas are constructed with, so no key may be in it.
    sent = (settings or Settings.load()).model_copy(update={"e2b_api_key": None})
    bound: serve.Application = FrontDoor.bind(sent)  # type: ignore[attr-defined]  # Serve's decorators have no types
    return bound


def _join(settings: Settings) -> None:
    connect.join_ray(settings.namespace, start_local=False)
    if connect.join_deployment(settings.namespace) is None:
        create_deployment(settings)


app = application()
