"""Routes that run programs: the HTTP form of a request and of its result."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterator
from typing import Any, Literal, Protocol

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticSerializationError

from actors.errors import InvalidRequest, ServiceError
from actors.schemas import (
    BackendName,
    CacheMode,
    ExecutionRequest,
    ExecutionResult,
    Language,
    Limits,
    Outcome,
    Priority,
)


class Deployment(Protocol):
    """What the routes need of the system behind them."""

    async def run(self, request: ExecutionRequest) -> ExecutionResult: ...
    async def metrics(self) -> dict[str, Any]: ...
    async def health(self) -> dict[str, Any]:
        """Its ``status`` is ``ok`` while programs can run."""
        ...


class Body(BaseModel):
    """Base of what is received: a number is not a string, and an unknown field is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)


class Encoded(Body):
    """Bytes that are not text."""

    base64: str


class RunBody(Body):
    """One program to run. A field that is left out takes its default; the bounds are those of ``Orchestrator.run``."""

    code: str
    """The program; the value of its last expression is among the ``results``."""
    user: str = "default"
    """Whom limits, fairness and isolation apply to."""
    language: Language = "python"
    timeout_s: float = 30.0
    """The program is interrupted, then killed, after so many seconds."""
    session: str | None = None
    """Id of an open session, whose interpreter and files it continues."""
    context: str | None = None
    """Which of the session's interpreters; else its first."""
    env: dict[str, str] = Field(default_factory=dict)
    """Variables of this run only."""
    files: dict[str, str | Encoded] = Field(default_factory=dict)
    """Name to content, put into the workspace before the program starts."""
    outputs: list[str] = Field(default_factory=list)
    """Names or patterns of files to bring back, in ``files``."""
    stdin: str | Encoded | None = None
    """What ``input()`` reads."""
    seed: int | None = None
    """Of ``random`` and ``numpy.random``."""
    limits: Limits = Limits()
    priority: Literal["high", "normal", "low"] = "normal"
    backend: BackendName | Literal["local"] | None = None
    cache: CacheMode = "auto"
    idempotency_key: str | None = None
    """The program is started at most once for this key and user, across crashes too."""
    idempotent: bool = False
    """It may be started again if the service failed while it ran."""
    fresh: bool = False
    """Demand a sandbox that nothing ever ran in."""

    def request(self) -> ExecutionRequest:
        """The request that this is the HTTP form of.

        Raises:
            InvalidRequest: a field breaks one of its rules.
        """
        given = {name: getattr(self, name) for name in self.model_fields_set}
        if "files" in given:
            given["files"] = {name: _content(f"files.{name}", content) for name, content in self.files.items()}
        if self.stdin is not None:
            given["stdin"] = _content("stdin", self.stdin)
        if "priority" in given:
            given["priority"] = Priority[self.priority.upper()]
        return ExecutionRequest.checked(**given)


def execution_router(deployment: Deployment) -> APIRouter:
    """``POST /v1/run``, ``GET /v1/metrics`` and ``GET /healthz``."""
    router = APIRouter()

    @router.post("/v1/run", response_model=ExecutionResult)
    async def run(body: RunBody) -> Response:
        """Run one program and say how it ended.

        The status is 200 for every outcome that says something about the program, be it that it failed; 4xx or 503
        for one that was rejected and never started; 502 or 503 where the service failed. Closing the connection stops
        the program.
        """
        result = await deployment.run(body.request())
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


def _content(field: str, content: str | Encoded) -> str | bytes:
    if isinstance(content, str):
        return content
    try:
        return base64.b64decode(content.base64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{field}.base64", f"must be valid base64 ({error})") from None


def _tree(error: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield error
    for kind in error.__subclasses__():
        yield from _tree(kind)


_STATUSES = {error.code: error.http_status for error in _tree(ServiceError)}
