"""The framing between the host and a process in a container: four bytes of length, then JSON.

Everything that such a process sends was written by untrusted code, for which ``Decoder`` is made: it trusts neither a
length nor a shape, and never unpickles. Standard library only, since interpreters import it too.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

MAX_FRAME_BYTES = 16 * 2**20
MAX_NESTING = 64
MAX_VALUES = 250_000
"""Most values in one frame: three bytes of JSON can become a hundred bytes of Python's."""
_LENGTH = struct.Struct("<I")
_ENCODER = json.JSONEncoder(separators=(",", ":"))
_SCAN: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
# An unfinished string counts to the end, else each of its quotes would be tried as a start.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
# A number of so many digits, or such an exponent, may be larger than a float can be.
_MAY_OVERFLOW = re.compile(rb"[eE]\+?0*[0-9]{3}|[0-9]{300}")
_NO_BRACKETS = re.compile(rb"[^\[\]{}]+")


class ProtocolViolation(Exception):
    """The other side does not speak the protocol."""


def encode(message: dict[str, Any]) -> bytes:
    """Return the frame of a message; ASCII only, so that lone surrogates survive."""
    body = _ENCODER.encode(message).encode()
    return _LENGTH.pack(len(body)) + body


def write(fd: int, frame: bytes) -> None:
    """Write a frame to a pipe whole, however often that takes a part of it."""
    written = os.write(fd, frame)
    while written < len(frame):
        written += os.write(fd, memoryview(frame)[written:])


def measure(body: bytes) -> tuple[int, int]:
    """Return how many values a text in JSON has, or a few more, and how deep it is nested; past the most, only that."""
    outside = _STRING.sub(b"", body)
    values = outside.count(b",") + outside.count(b"[") + outside.count(b"{")
    return values, 0 if values > MAX_VALUES else _depth(_NO_BRACKETS.sub(b"", outside))


class Decoder:
    """Turn bytes, in whatever pieces they arrive, into messages.

    Holds at most one unfinished frame, so never more than ``MAX_FRAME_BYTES`` and one read. ``trusting`` skips the
    checks, for the untrusted side, which need not fear the host.
    """

    def __init__(self, *, trusting: bool = False) -> None:
        self._parse = _parse_trusted if trusting else _parse
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield each message that ``data`` completes, with its size in bytes.

        Raises:
            ProtocolViolation: a frame is too long, is not JSON, or is no object.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise ProtocolViolation(f"a frame of {length:,} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield self._parse(body), end


def _parse_trusted(body: bytes) -> dict[str, Any]:
    """Parse what ``encode`` wrote, in fewer steps than ``json.loads``: each one copies memory in a fork."""
    message: dict[str, Any] = _SCAN(body.decode(), 0)[0]
    return message


def _parse(body: bytes) -> dict[str, Any]:
    # Judged before it is parsed, since the sender chooses what parsing costs.
    if body.count(b'"') - body.count(b'\\"') > 4 * MAX_VALUES:
        raise ProtocolViolation("a frame of too many values")
    values, nesting = measure(body)
    if values > MAX_VALUES:
        raise ProtocolViolation("a frame of too many values")
    if nesting > MAX_NESTING:
        raise ProtocolViolation("a frame nested too deeply")
    parse_float = _finite if _MAY_OVERFLOW.search(body) else None
    try:
        message = json.loads(body, parse_constant=_refuse, parse_float=parse_float)
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation(f"a frame that is not JSON ({type(error).__name__})") from None
    if not isinstance(message, dict):
        raise ProtocolViolation("a frame that is not an object")
    return message


def _depth(brackets: bytes) -> int:
    deepest = depth = 0
    for byte in brackets:
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError("infinite")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(constant)
