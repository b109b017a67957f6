"""``/v1/run``, ``/v1/metrics`` and ``/healthz``: the deployment over HTTP, thinly."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from actors.errors import InvalidRequest, ServiceError
from actors.schemas import ExecutionResult, Limits, Outcome

MAX_BODY_BYTES = 96 * 2**20
STATUS = {"invalid_request": 422, "unknown_session": 404, "duplicate_run": 409, "rate_limited": 429}
"""Of rejected runs by their code; the others are 503, like every failure of the service."""


class Front(Protocol):
    """The deployment, as this router needs it."""

    async def run(self, code: str, options: dict[str, Any]) -> ExecutionResult: ...
    async def metrics(self) -> dict[str, Any]: ...
    async def health(self) -> dict[str, Any]: ...


class FileBody(BaseModel):
    """A file as base64, for what is not text."""

    model_config = ConfigDict(extra="forbid")
    base64: str


class RunBody(BaseModel):
    """A program and its options, as ``Orchestrator.run`` takes them; files are text, or ``{"base64": …}``."""

    model_config = ConfigDict(extra="forbid")
    code: str
    user: str = "default"
    language: str = "python"
    timeout_s: float = 30.0
    session: str | None = None
    env: dict[str, str] = {}
    files: dict[str, str | FileBody] = {}
    stdin: str | None = None
    limits: Limits = Limits()
    priority: int = 1
    backend: str | None = None
    cache: str = "auto"
    idempotency_key: str | None = None
    idempotent: bool = False
    fresh: bool = False

    def options(self) -> dict[str, Any]:
        """Everything but the code.

        Raises:
            InvalidRequest: a file is not base64.
        """
        files = {
            name: content if isinstance(content, str) else _decoded(name, content)
            for name, content in self.files.items()
        }
        return self.model_dump(exclude={"code", "files"}) | {"files": files}


def _decoded(name: str, content: FileBody) -> bytes:
    try:
        return base64.b64decode(content.base64, validate=True)
    except binascii.Error:
        raise InvalidRequest(f"files.{name}.base64", "is not base64") from None


def make_router(front: Callable[[], Front]) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/run", response_model=ExecutionResult, summary="Run one program")
    async def run(request: Request) -> Response:
        try:
            body = RunBody.model_validate_json(await _body(request))
            result = await _unless_disconnected(request, front().run(body.code, body.options()))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            return _refusal(InvalidRequest(".".join(map(str, first["loc"])) or "body", first["msg"]))
        except ServiceError as error:
            return _refusal(error)
        return _answer(result)

    @router.get("/v1/metrics", summary="Counters and states of every component")
    async def metrics() -> dict[str, Any]:
        return await front().metrics()

    @router.get("/healthz", summary="Whether programs can run now")
    async def healthz() -> Response:
        try:
            health = await front().health()
        except ServiceError as error:
            return _refusal(error)
        return JSONResponse(health, 200 if health["status"] == "ok" else 503)

    return router


async def _body(request: Request) -> bytes:
    """Read the body, refusing one that is too large before it is all in memory."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise _TooLarge("body", f"must be at most {MAX_BODY_BYTES:,} bytes")
        parts.append(part)
    return b"".join(parts)


class _TooLarge(InvalidRequest):
    http_status = 413


async def _unless_disconnected(request: Request, work: Awaitable[ExecutionResult]) -> ExecutionResult:
    """Await the run, and stop it when its client has gone."""
    running = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            running.cancel()
        return await running
    finally:
        watching.cancel()
        running.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer(result: ExecutionResult) -> Response:
    status, headers = 200, {}
    if result.outcome in (Outcome.REJECTED, Outcome.INFRA):
        status = STATUS.get(result.error_code or "", 503)
        if result.retry_after_s:
            headers["Retry-After"] = str(max(1, round(result.retry_after_s)))
    return Response(result.model_dump_json(by_alias=True), status, headers, "application/json")


def _refusal(error: ServiceError) -> Response:
    content: dict[str, Any] = {"code": error.code, "message": str(error), "retryable": error.retryable}
    if isinstance(error, InvalidRequest):
        content |= {"field": error.field, "rule": error.rule}
    return JSONResponse({"error": content}, error.http_status)
