"""What every HTTP route shares: the app they are mounted on, who may use it, the bound on bodies, errors as JSON."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as RoutingError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.api.addressed import Addressed
from actors.api.errors import error_response
from actors.api.runs import Deployment, execution_router, retry_after
from actors.errors import InvalidRequest, ServiceError
from actors.schemas import ExecutionRequest

MAX_BODY_BYTES = 96 * 2**20
"""The largest files that a request may bring, in base64, and a little more."""


def make_app(deployment: Deployment, max_body_bytes: int = MAX_BODY_BYTES, hosts: Collection[str] = ()) -> FastAPI:
    """The HTTP face of a deployment, as an ASGI app; ``hosts`` are what it goes by beside its address."""
    app = FastAPI(title="e2b-orchestrator", description="Runs untrusted programs in sandboxes.")
    app.include_router(execution_router(deployment))
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    app.add_middleware(Addressed, hosts=hosts)  # what was added last is asked first
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(RoutingError, _refused)
    return app


class BodyLimit:
    """Answer 413 to a body that is longer than ``max_bytes``, without taking in more than that."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = dict(scope.get("headers", ())).get(b"content-length", b"")
        # What is announced is believed at once; what is not is counted as it comes.
        announced, taken = int(length) if length.isdigit() else 0, 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if max(announced, taken) > self._max_bytes:
                raise HTTPException(413, f"the body must be at most {self._max_bytes:,} bytes")
            return message

        await self._app(scope, counted, send)


async def _service_error(_: Request, error: Any) -> JSONResponse:
    place = {"field": error.field, "rule": error.rule} if isinstance(error, InvalidRequest) else {}
    headers = retry_after(getattr(error, "retry_after_s", None))
    return error_response(error.http_status, error.code, str(error), headers, **place)


async def _malformed(request: Request, error: Any) -> JSONResponse:
    if not request.headers.get("content-type", "").startswith("application/json"):
        # Insisted upon, since it is what keeps a web page from posting programs to its visitor's own machine.
        return await _service_error(request, InvalidRequest("content-type", "must be application/json"))
    # The first part only says that it is the body.
    return await _service_error(request, ExecutionRequest.refusal_of(error, skip=1, whole="body"))


async def _refused(_: Request, error: Any) -> JSONResponse:
    codes = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
    return error_response(
        error.status_code, codes.get(error.status_code, "bad_request"), str(error.detail), error.headers
    )
