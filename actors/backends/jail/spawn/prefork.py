"""Preforking: a process is forked before there is a request for it, since nobody is to wait for the fork.

The jail server keeps a shim ready in this way, each zygote a fork server. The process that waits has the rights of its
parent, less the descriptors that it does not need.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any

from actors.backends.jail import messages, process_names
from actors.backends.jail.kernel import namespaces

PAUSE_S = 0.05
"""How long after a request the next process is forked: the one that has just got work is to have the CPU first."""

Work = Callable[[dict[str, Any], list[int]], None]
"""What a process does with its request and the descriptors that came along; it ends when this returns."""
Prepare = Callable[[socket.socket], Work]
"""What a process does as soon as it is forked. It is given the socket for its request, which it must keep open."""


class Prefork:
    """Keeps one process ready for the next request, which is its only one.

    The kernel must be reaping the children of the process that uses this.
    """

    def __init__(self, prepare: Prepare) -> None:
        self._prepare = prepare
        self._pid = 0
        self._channel: socket.socket | None = None

    @property
    def ready(self) -> bool:
        return self._channel is not None

    def fork(self) -> None:
        """Fork a process, which prepares itself and waits."""
        self._channel, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with requests:
            self._pid = os.fork()
            if self._pid == 0:
                self._channel.close()
                _wait_for_request(requests, self._prepare)

    def hand_over(self, request: dict[str, Any], fds: list[int]) -> None:
        """Give a request to the waiting process, or else to a new one; ``fds`` are closed here."""
        try:
            if not self._send(request, fds):  # no process waits, or it was killed
                self.fork()
                self._send(request, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _send(self, request: dict[str, Any], fds: list[int]) -> bool:
        channel, self._channel = self._channel, None
        if channel is None:
            return False
        with channel:
            try:
                messages.send(channel, request, fds)
            except OSError:
                return False
        return True

    def end(self) -> None:
        """Have the waiting process end, and wait until it has."""
        if self._channel is not None:
            self._channel.close()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)


def _wait_for_request(requests: socket.socket, prepare: Prepare) -> None:
    try:
        namespaces.die_with_parent()
        namespaces.name_process(process_names.PREFORKED)
        work = prepare(requests)
        request, fds = messages.receive(requests)
        if request is not None:
            requests.close()
            work(request, fds)
    finally:
        os._exit(0)
