"""The deployment on Ray Serve: ``serve run serve_app:app``.

Thin on purpose: it validates, forwards and translates. It has no authentication: bind it to a loopback address, as
Serve does by default, or put something in front of it that has.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI
from ray import serve

from actors import wiring
from actors.api.execution import make_router
from actors.clients import ActorClient
from actors.config import Settings
from actors.schemas import MAX_TIMEOUT_S, ExecutionResult

api = FastAPI(title="e2b-orchestrator", summary="Run untrusted code in sandboxes.")
CONNECT_TIMEOUT_S = 30.0


@serve.deployment(max_ongoing_requests=1000)
@serve.ingress(api)
class Gateway:
    """Joins the deployment, or starts it, and forwards to it; looks it up again when it was restarted."""

    def __init__(self) -> None:
        self._settings = Settings.load()
        self._client = ActorClient(self._settings.namespace, "Orchestrator")
        self._joined = asyncio.Event()
        api.include_router(make_router(lambda: self))

    async def _orchestrator(self) -> ActorClient:
        if not self._joined.is_set():
            # Blocking, for seconds if there is nothing to join yet: not on the loop that serves.
            await asyncio.to_thread(wiring.connect, None)
            self._joined.set()
        return self._client

    async def run(self, code: str, options: dict[str, Any]) -> ExecutionResult:
        client = await self._orchestrator()
        result: ExecutionResult = await client.call_with("run", (code,), options, timeout_s=MAX_TIMEOUT_S)
        return result

    async def metrics(self) -> dict[str, Any]:
        answered: dict[str, Any] = await (await self._orchestrator()).call("get_metrics")
        return answered

    async def health(self) -> dict[str, Any]:
        answered: dict[str, Any] = await (await self._orchestrator()).call("health", timeout_s=CONNECT_TIMEOUT_S)
        return answered


app = Gateway.bind()
