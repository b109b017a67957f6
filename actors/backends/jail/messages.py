"""Messages between the host and the jail's trusted processes: JSON with file descriptors, over SEQPACKET sockets."""

from __future__ import annotations

import json
import socket
from typing import Any

MAX_DATAGRAM = 64 * 2**10
MAX_FDS = 8


def send(channel: socket.socket, message: dict[str, Any], fds: list[int] | None = None) -> None:
    """Send one message, with copies of ``fds``."""
    data = json.dumps(message).encode()
    if fds:
        socket.send_fds(channel, [data], fds)
    else:
        channel.send(data)


def receive(channel: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """Return the next message with its descriptors; None when the other side is gone.

    Raises:
        BlockingIOError: the socket does not block and nothing is there.
    """
    try:
        data, fds, _, _ = socket.recv_fds(channel, MAX_DATAGRAM, MAX_FDS)
    except ConnectionResetError:  # it ended with our last message unread; what it had said can still be read
        data, fds, _, _ = socket.recv_fds(channel, MAX_DATAGRAM, MAX_FDS)
    return (json.loads(data) if data else None), list(fds)
