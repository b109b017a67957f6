"""The wire between a supervisor and an interpreter: four bytes of length, then JSON.

Everything that arrives from an interpreter was written by untrusted code, for which ``Decoder`` is made: it trusts
neither a length nor a shape, and never unpickles. Standard library only, since the interpreter imports it too.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

MAX_FRAME_BYTES = 16 * 2**20
MAX_NESTING = 64
_LENGTH = struct.Struct("<I")


class ProtocolViolation(Exception):
    """The other side does not speak the protocol."""


def encode(message: dict[str, Any]) -> bytes:
    """Return the frame of a message; ASCII only, so that lone surrogates survive."""
    body = json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode()
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Turn bytes, in whatever pieces they arrive, into messages.

    Holds at most one unfinished frame, so never more than ``MAX_FRAME_BYTES`` and one read.
    """

    def __init__(self) -> None:
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
            yield _parse(body), end


def _parse(body: bytes) -> dict[str, Any]:
    if max(body.count(b"["), body.count(b"{")) > MAX_NESTING and _depth(body) > MAX_NESTING:
        raise ProtocolViolation("a frame nested too deeply")
    try:
        message = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation(f"a frame that is not JSON ({type(error).__name__})") from None
    if not isinstance(message, dict):
        raise ProtocolViolation("a frame that is not an object")
    return message


def _depth(body: bytes) -> int:
    """Upper bound of the nesting; brackets inside strings count too, which only errs to the safe side."""
    deepest = depth = 0
    for byte in body:
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _refuse(constant: str) -> None:
    raise ValueError(constant)
