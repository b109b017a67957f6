"""The MIME bundle of a value, its forms by MIME type, made to fit a frame: what does not is cut or left out, and named.

Runs in interpreters, when a program displays a value. Whatever that value's own methods gave, what leaves here is text
or valid JSON, within the bounds that the host enforces by killing.
"""

from __future__ import annotations

import base64
import json
import math
from typing import Any

from actors.backends.jail import frames

MAX_TEXT = 1_000_000
"""Most characters of plain text and Markdown; the rest is cut."""
MAX_WHOLE = 10_000_000
"""Most characters of forms of which half is worth nothing: pictures, pages, scripts."""
MAX_FORMS = 32
_MAX_BYTES = frames.MAX_FRAME_BYTES - 2**20  # of all forms of a value together
_MAX_VALUES = frames.MAX_VALUES - 1000
_MAX_NESTING = frames.MAX_NESTING - 2  # a form is two levels down in its frame
_MAX_NAME = 200
_SHORT = 10_000
"""Most characters of a text that fits whatever it holds."""
_CUT = ("text/plain", "text/markdown")
_ALWAYS_TEXT = ("text/plain", "text/html", "text/markdown", "text/latex", "image/svg+xml", "application/javascript")
_ALWAYS_OBJECTS = ("e2b/data", "e2b/chart")
_SVG = "image/svg+xml"


class LeftOut(Exception):
    """A form is left out; says why. A formatter may also return one in the place of the form."""


def fit(bundle: dict[Any, Any]) -> tuple[dict[str, Any], dict[str, str], int]:
    """Return the forms of a value as they can be sent, why any was cut or left out, and the size of all in bytes."""
    if len(bundle) == 1 and type(text := bundle.get("text/plain")) is str and len(text) < _SHORT:
        return bundle, {}, len(text)
    forms: dict[str, Any] = {}
    omitted: dict[str, str] = {}
    room = _Room()
    # What is small and can always be shown comes first, what repeats it as data last.
    names = sorted(bundle, key=lambda name: (name in _ALWAYS_OBJECTS, name != "text/plain"))
    for name in names[:MAX_FORMS]:
        kind = str(name)[:_MAX_NAME]
        try:
            form, missing = _fitted(kind, bundle[name], room)
        except LeftOut as reason:
            omitted[kind] = f"left out: {reason}"
            continue
        forms[kind] = form
        if missing is not None:
            omitted[kind] = missing
    if len(names) > MAX_FORMS:
        omitted["forms"] = f"left out: {len(names) - MAX_FORMS:,}, since a value has at most {MAX_FORMS}"
    return forms, omitted, room.taken


def cut(text: str, most: int = MAX_TEXT) -> str:
    """Return a text that fits a frame beside others, from whose middle characters are missing if it was too long."""
    most = most if text.isascii() else most // 3
    if len(text) <= most:
        return text
    marker = f"\n[… {len(text) - most:,} characters left out]\n"
    return text[: most // 2] + marker + text[-(most // 2) :]


class _Room:
    """What is left of the room that a frame has for the forms of one value."""

    def __init__(self) -> None:
        self.taken, self._values = 0, _MAX_VALUES

    def take_text(self, text: str) -> None:
        self._take_bytes(len(json.dumps(text)))

    def take_data(self, data: object) -> object:
        """Return data as JSON has it, if there is room for it."""
        text = _dumped(data)
        if len(text) > _MAX_BYTES:
            raise LeftOut(f"{len(text):,} characters of JSON are too many")
        values, nesting = frames.measure(text.encode())
        if values > self._values:
            raise LeftOut(f"more than {self._values:,} values")
        if nesting > _MAX_NESTING:
            raise LeftOut(f"nested deeper than {_MAX_NESTING} levels")
        self._values -= values
        self._take_bytes(len(text))
        return json.loads(text)

    def _take_bytes(self, size: int) -> None:
        if self.taken + size > _MAX_BYTES:
            raise LeftOut(f"with it all forms together have more than {_MAX_BYTES:,} bytes")
        self.taken += size


def _fitted(kind: str, given: object, room: _Room) -> tuple[object, str | None]:
    """Return a form as it can be sent, and what is missing if it was cut."""
    form = _text_of(kind, given)
    if kind in _ALWAYS_OBJECTS and not isinstance(form, dict):
        raise LeftOut("it is no object")
    if isinstance(form, str):
        text, missing = _cut(kind, form)
        room.take_text(text)
        return text, missing
    return room.take_data(form), None


def _text_of(kind: str, form: object) -> object:
    """Return a form as text where it is or must be one; binary data as base64, as Jupyter has it."""
    if isinstance(form, LeftOut):
        raise form
    if isinstance(form, bytes | bytearray):
        return form.decode(errors="replace") if kind in _ALWAYS_TEXT else base64.b64encode(form).decode()
    if isinstance(form, str):
        return str(form)
    if isinstance(form, list) and form and all(isinstance(line, str) for line in form) and kind in _ALWAYS_TEXT:
        return "".join(form)  # as notebooks keep text
    if kind in _ALWAYS_TEXT or _is_picture(kind):
        raise LeftOut(f"it is no text but of type {type(form).__name__[:_MAX_NAME]}")
    return form


def _is_picture(kind: str) -> bool:
    return kind == "application/pdf" or (kind.startswith("image/") and kind != _SVG)


def _cut(kind: str, text: str) -> tuple[str, str | None]:
    """Return a text as far as it may go, and what is missing."""
    if kind not in _CUT:
        if len(text) > MAX_WHOLE:
            raise LeftOut(f"{len(text):,} characters, more than {MAX_WHOLE:,}")
        return text, None
    most = MAX_TEXT if text.isascii() else MAX_TEXT // 3
    if len(text) <= most:
        return text, None
    return (
        f"{text[:most]}\n[… truncated: {len(text)} characters in all]",
        f"cut: the first {most:,} of {len(text):,} characters",
    )


def _dumped(data: object) -> str:
    try:
        try:
            return json.dumps(data, default=_converted, allow_nan=False)
        except (TypeError, ValueError):  # numbers or keys that JSON lacks
            return json.dumps(_cleaned(data, set()), allow_nan=False)
    except LeftOut:
        raise
    except RecursionError:
        raise LeftOut(f"nested deeper than {_MAX_NESTING} levels") from None
    except Exception as error:  # noqa: BLE001 - of the value's own methods
        raise LeftOut(f"not JSON: {type(error).__name__}") from None


def _converted(part: Any) -> object:
    """Return the numbers of packages as Python's own, sets as lists, and what else JSON lacks as text."""
    if callable(getattr(part, "tolist", None)):
        return part.tolist()
    if isinstance(part, set | frozenset):
        return list(part)
    return str(part)


def _cleaned(part: Any, above: set[int]) -> object:
    """Return data in which every key is text, and each number that JSON lacks is null, as JavaScript writes it."""
    if part is None or isinstance(part, str | bool | int):
        return part
    if isinstance(part, float):
        return part if math.isfinite(part) else None
    if not isinstance(part, dict | list | tuple):
        return _cleaned(_converted(part), above)
    if id(part) in above:
        raise LeftOut("not JSON: it contains itself")
    if len(part) > _MAX_VALUES:
        raise LeftOut(f"more than {_MAX_VALUES:,} values")
    if len(above) == _MAX_NESTING:
        raise LeftOut(f"nested deeper than {_MAX_NESTING} levels")
    inner = above | {id(part)}
    if isinstance(part, dict):
        return {_key(key): _cleaned(item, inner) for key, item in part.items()}
    return [_cleaned(item, inner) for item in part]


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    return "null" if key is None else json.dumps(key) if isinstance(key, bool) else str(key)
