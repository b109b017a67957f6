"""Bounds on what the sockets of a network namespace may keep in memory. Standard library only."""

from __future__ import annotations

import contextlib
import os

_LOCAL_BYTES = 2**18
_SETTINGS = {
    "/proc/sys/net/ipv4/tcp_rmem": b"4096 131072 %d" % _LOCAL_BYTES,
    "/proc/sys/net/ipv4/tcp_wmem": b"4096 16384 %d" % _LOCAL_BYTES,
}
"""Least, first and most bytes of a connection's buffers, which else grow to 10 MiB: more than a loopback needs."""


def bound_buffers() -> None:
    """Set the bounds for this process's network namespace, over which it has every capability."""
    for path, text in _SETTINGS.items():
        with contextlib.suppress(OSError):  # where a machine has no IPv4, or shows its settings read-only
            fd = os.open(path, os.O_WRONLY)
            try:
                os.write(fd, text)
            finally:
                os.close(fd)
