"""A process forked before there is work for it, since a fork takes milliseconds for which nobody is to wait."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any

from actors.backends.jail import messages
from actors.backends.jail.kernel import namespaces

NAME = "jail-ahead"
"""What such a process is called until it has its order."""
PAUSE_S = 0.05
"""After work was handed over, before the next process is forked: that work is to have the processor first."""

Work = Callable[[dict[str, Any], list[int]], None]
"""What a process does with its order and the descriptors that come along."""
Prepare = Callable[[socket.socket], Work]
"""What a process does at once; is given the socket on which the order will come, to keep it open."""


class Ahead:
    """Keeps one process ready; each order is for a new one. The kernel must be reaping its parent's children."""

    def __init__(self, prepare: Prepare) -> None:
        self._prepare = prepare
        self._pid = 0
        self._channel: socket.socket | None = None

    @property
    def ready(self) -> bool:
        return self._channel is not None

    def fork(self) -> None:
        """Have a process prepare itself."""
        self._channel, orders = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with orders:
            self._pid = os.fork()
            if self._pid == 0:
                self._channel.close()
                _wait_for_order(orders, self._prepare)

    def hand_over(self, order: dict[str, Any], fds: list[int]) -> None:
        """Give the waiting process, or else a new one, its order; ``fds`` are closed here."""
        try:
            if not self._send(order, fds):  # there is none, or it was killed
                self.fork()
                self._send(order, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _send(self, order: dict[str, Any], fds: list[int]) -> bool:
        channel, self._channel = self._channel, None
        if channel is None:
            return False
        with channel:
            try:
                messages.send(channel, order, fds)
            except OSError:
                return False
        return True

    def end(self) -> None:
        """Have the waiting process end, and wait until it has."""
        if self._channel is not None:
            self._channel.close()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)


def _wait_for_order(orders: socket.socket, prepare: Prepare) -> None:
    try:
        namespaces.die_with_parent()
        namespaces.name_process(NAME)
        work = prepare(orders)
        order, fds = messages.receive(orders)
        if order is not None:
            orders.close()
            work(order, fds)
    finally:
        os._exit(0)
