"""Routes that run programs: the HTTP form of a request and of its result."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, Protocol

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import ConfigDict
from pydantic_core import PydanticSerializationError

from actors.errors import ServiceError
from actors.schemas import (
    ExecutionRequest,
    ExecutionResult,
    Outcome,
)


class Deployment(Protocol):
    """What the routes need of the system behind them."""

    async def run_request(self, request: ExecutionRequest) -> ExecutionResult: ...
    async def metrics(self) -> dict[str, Any]: ...
    async def health(self) -> dict[str, Any]:
        """Its ``status`` is ``ok`` while programs can run."""
        ...


class RunBody(ExecutionRequest):
    """A request in JSON: its rules are those of ``Orchestrator.run``, and a number in quotes is no number."""

    model_config = ConfigDict(strict=True)

    @property
    def request(self) -> ExecutionRequest:
        """What was validated, as a plain request: who gets it needs to know nothing of HTTP."""
        return ExecutionRequest.model_construct(self.model_fields_set, **dict(self))


def execution_router(deployment: Deployment) -> APIRouter:
    """``POST /v1/run``, ``GET /v1/metrics`` and ``GET /healthz``."""
    router = APIRouter()

    @router.post("/v1/run", response_model=ExecutionResult)
    async def run_program(body: RunBody) -> Response:
        """Run one program and say how it ended.

        The status is 200 for every outcome that says something about the program, be it that it failed; 4xx or 503
        for one that was rejected and never started; 502 or 503 where the service failed. Closing the connection stops
        the program.
        """
        result = await deployment.run_request(body.request)
        headers = retry_after(result.retry_after_s)
        return Response(encoded(result), status_of(result), headers, "application/json")

    @router.get("/v1/metrics")
    async def metrics() -> dict[str, Any]:
        """Counters and states of every component, by section."""
        return await deployment.metrics()

    @router.get("/healthz")
    async def healthz() -> JSONResponse:
        """200 while programs can run, else 503; the body says why."""
        try:
            health = await deployment.health()
        except ServiceError as error:
            health = {"status": "unavailable", "detail": str(error)}
        return JSONResponse(health, 200 if health["status"] == "ok" else 503)

    return router


def status_of(result: ExecutionResult) -> int:
    """200 unless the outcome says nothing about the program; then the status of the error behind it."""
    if not result.outcome.masked:
        return 200
    if result.error_code in _STATUSES:
        return _STATUSES[result.error_code]
    return 502 if result.outcome is Outcome.INFRA else 503


def retry_after(seconds: float | None) -> dict[str, str]:
    """The Retry-After header, in whole seconds and never too early; none where waiting is no remedy."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))} if seconds else {}


def encoded(result: ExecutionResult) -> bytes:
    """The result as JSON, whatever the program put into it: half of a surrogate pair becomes a question mark."""
    try:
        return result.model_dump_json().encode()
    except PydanticSerializationError:
        return json.dumps(result.model_dump(mode="json"), ensure_ascii=False).encode(errors="replace")


def _tree(error: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield error
    for kind in error.__subclasses__():
        yield from _tree(kind)


_STATUSES = {error.code: error.http_status for error in _tree(ServiceError)}
