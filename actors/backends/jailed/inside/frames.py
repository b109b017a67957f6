"""Frames between a backend and what it started: four bytes of length, then JSON."""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

MAX_FRAME = 16 * 2**20
_LENGTH = struct.Struct("<I")


class ProtocolViolation(Exception):
    """The other side sent what no honest side sends."""


def pack(message: dict[str, Any]) -> bytes:
    data = json.dumps(message, separators=(",", ":")).encode()
    return _LENGTH.pack(len(data)) + data


def read(channel: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """Read one frame, and the descriptors that came with it, from a blocking stream; None at its end."""
    head, fds, _flags, _address = socket.recv_fds(channel, _LENGTH.size, 1)
    if len(head) < _LENGTH.size:
        return None, list(fds)
    body = _read_exactly(channel.fileno(), _LENGTH.unpack(head)[0])
    return (None if body is None else json.loads(body)), list(fds)


def write(fd: int, message: dict[str, Any]) -> None:
    data = memoryview(pack(message))
    while data:
        data = data[os.write(fd, data) :]


def _read_exactly(fd: int, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = os.read(fd, min(size - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


class Decoder:
    """Take in bytes as they come and give out whole frames; every byte may be hostile."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Raises ProtocolViolation."""
        self._buffer += data
        messages = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > self._limit:
                raise ProtocolViolation(f"a frame of {length:,} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            try:
                message = json.loads(self._buffer[_LENGTH.size : end])
            except (ValueError, RecursionError) as error:
                raise ProtocolViolation(f"a frame that is not JSON: {type(error).__name__}") from None
            if not isinstance(message, dict):
                raise ProtocolViolation("a frame that is not an object")
            messages.append(message)
            del self._buffer[:end]
        return messages


def send_with_fds(channel: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
    """One SEQPACKET message with descriptors."""
    socket.send_fds(channel, [json.dumps(message).encode()], fds)


def receive_with_fds(channel: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """One SEQPACKET message; None at the end."""
    data, fds, _flags, _address = socket.recv_fds(channel, 65536, 8)
    return (json.loads(data) if data else None), list(fds)
