"""Errors as every route answers them: ``{"error": {"code": …, "message": …}}``.

``field`` and ``rule`` come with them where a field of the request is at fault.
"""

from __future__ import annotations

from fastapi.responses import JSONResponse


def error_response(
    status: int, code: str, message: str, headers: dict[str, str] | None = None, **more: str
) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message, **more}}, status, headers)
