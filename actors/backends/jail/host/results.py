"""The translation of what an interpreter says that it displayed into what users get; nothing of it is believed."""

from __future__ import annotations

import binascii
import signal
from typing import Any

from actors.backends.jail.frames import ProtocolViolation
from actors.schemas import ProgramError, RichResult

MAX_FORMATS = 32
_MAX_WORDS = 1000
_FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}
_OBJECTS = ("data", "chart")
_BASE64 = ("png", "jpeg", "pdf")
_NOT_BASE64 = "left out: it is not base64"
_EXIT = "ExitStatus"


def signal_name(number: int) -> str:
    """Return what a signal is called; real-time ones but the first and last have only numbers."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def result_of(message: dict[str, Any]) -> RichResult:
    """Return the value that a ``result`` message describes.

    Raises:
        ProtocolViolation: the message has another shape.
    """
    formats = message.get("formats")
    if not isinstance(formats, dict) or len(formats) > MAX_FORMATS:
        raise ProtocolViolation("a result without its formats")
    fields: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    omitted = _omitted(message.get("omitted"))
    for kind, value in formats.items():
        field = _FIELDS.get(kind)
        value = clean(value)
        if field is None:
            extra[clean(kind)] = value
        elif field in _BASE64 and isinstance(value, str) and not _is_base64(value):
            omitted[field] = _NOT_BASE64
        elif field == "json" or isinstance(value, dict if field in _OBJECTS else str):
            fields[field] = value
        else:
            raise ProtocolViolation(f"a result whose {field} is of the wrong type")
    display_id = message.get("display_id")
    if not (display_id is None or isinstance(display_id, str)):
        raise ProtocolViolation("a result with a display_id of the wrong type")
    return RichResult(
        is_main_result=message.get("main") is True,
        extra=extra or None,
        display_id=clean(display_id),
        omitted=omitted or None,
        **fields,
    )


def _is_base64(text: str) -> bool:
    try:
        return binascii.a2b_base64("".join(text.split()), strict_mode=True) is not None
    except ValueError:
        return False


def _omitted(said: Any) -> dict[str, str]:
    if said is None:
        return {}
    if not isinstance(said, dict) or len(said) > 2 * MAX_FORMATS:
        raise ProtocolViolation("a result that does not say which forms it lacks")
    reasons = {_FIELDS.get(kind, clean(kind)): clean(reason) for kind, reason in said.items()}
    if not all(isinstance(reason, str) and len(reason) <= _MAX_WORDS for reason in reasons.values()):
        raise ProtocolViolation("a result that does not say why it lacks a form")
    return reasons


def error_of(message: dict[str, Any]) -> ProgramError:
    """Return the exception that an ``error`` message describes.

    Raises:
        ProtocolViolation: the message has another shape.
    """
    name, value, traceback = (message.get(key) for key in ("name", "value", "traceback"))
    if not (isinstance(name, str) and isinstance(value, str) and isinstance(traceback, str)):
        raise ProtocolViolation("an error without its name, value and traceback")
    return ProgramError(name=clean(name), value=clean(value), traceback=clean(traceback))


def status_of(message: dict[str, Any], error: ProgramError | None) -> int:
    """Return the exit status in a ``done`` message; without one it follows from the error.

    Raises:
        ProtocolViolation: it is no status.
    """
    status = message.get("status")
    if status is None:
        if error is None:
            return 0
        return int(error.value) if error.name == _EXIT and error.value.isdecimal() else 1
    if not isinstance(status, int) or not -64 <= status <= 255:
        raise ProtocolViolation("a status that is none")
    return status


def exit_error(status: int) -> ProgramError:
    """Return the error of a program whose process has ended with a status, and with no exception."""
    return ProgramError(name=_EXIT, value=str(status), traceback=f"{_EXIT}: {status}")


def clean(value: Any) -> Any:
    """Replace lone surrogates, for which UTF-8 has no bytes, since a report must survive being sent."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clean(item) for item in value]
    return value
