"""The process that every other one of every jail descends from; it never runs anyone's program.

One per machine, user and image, shared by all clients. Each connection asks for jails, handing over the socket on
which the new jail's keeper will answer. The zygote forks the keeper; templates of interpreters are forked for it from
the moulds, processes that are warmed up. It ends when the last connection has been closed for ``LINGER_S``, or a mould
is lost; jails watch their own clients.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from actors.backends.jail import messages
from actors.backends.jail.kernel import bwrap, namespaces
from actors.backends.jail.spawn import prototype, shim, zygote
from actors.backends.jail.spawn.prefork import PAUSE_S, Ahead

LINGER_S = 1.0
START_S = 30.0  # how long the first client may take to connect
_CREDENTIALS = struct.Struct("3i")


def serve(config: dict[str, Any], listener_fd: int) -> None:
    """Have the moulds warm up, then answer until nobody is connected any more."""
    listener = socket.socket(fileno=listener_fd)
    namespaces.name_process("jail-zygote")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps what is forked
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is for the client
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # Ray's workers block some, and programs are interrupted by one
    namespaces.adopt_orphans()  # a killed template leaves interpreters, and no jail is gone before they are collected
    moulds = zygote.start(config, listener)
    walls = bwrap.walls(
        config["bwrap"],
        config["prefixes"],
        config["build_tag"],
        os.getuid(),
        os.getgid(),
        read_only="read_only" not in config["without"],
    )
    hello = _hello(moulds)
    enter = _way_in(walls)
    gc.freeze()
    jails = Ahead(functools.partial(shim.prepare, config, enter, moulds))
    try:
        _serve(listener, config["client_uid"], hello, moulds, jails)
    finally:
        jails.end()


def _serve(
    listener: socket.socket, client_uid: int, hello: dict[str, Any], moulds: dict[str, socket.socket], jails: Ahead
) -> None:
    clients: list[socket.socket] = []
    alone_until = time.monotonic() + START_S
    while clients or time.monotonic() < alone_until:
        pause_s = LINGER_S / 4 if not clients else PAUSE_S if moulds and not jails.ready else None
        ready, _, _ = select.select([listener, *clients, *moulds.values()], [], [], pause_s)
        if not ready and moulds and clients and not jails.ready:
            jails.fork()
        for channel in ready:
            if channel is listener:
                client = _accept(listener, client_uid, hello)
                if client is not None:
                    clients.append(client)
                continue
            message, fds = messages.receive(channel)
            if message is None and channel not in clients:
                return  # a mould is lost; what is left follows, and clients start another zygote
            if message is None:
                clients.remove(channel)
                channel.close()
                alone_until = time.monotonic() + LINGER_S
            elif message is not None and fds and moulds:
                jails.hand_over(message, fds)


def _way_in(walls: bwrap.Walls) -> Callable[[], list[int]]:
    """Return what takes a process into a new jail: a copy of one that stands, or else one that is built for it."""
    ids = os.getuid(), os.getgid()
    with contextlib.suppress(RuntimeError, OSError):  # then every client is told anew, and the cause may go away
        spaces = prototype.build(walls)
        if prototype.can_copy(spaces, *ids):
            return functools.partial(prototype.copy, spaces, *ids)
    return functools.partial(_build_and_enter, walls)


def _build_and_enter(walls: bwrap.Walls) -> list[int]:
    spaces = prototype.build(walls)
    prototype.enter(spaces)
    return spaces


def _hello(moulds: dict[str, socket.socket]) -> dict[str, Any]:
    """Wait for the moulds; return what to greet clients with."""
    for channel in moulds.values():
        report, _ = messages.receive(channel)
        if report is None or "failed" in report:
            moulds.clear()
            return report or {"failed": "a preloaded module ended the process"}
    return {"pid": os.getpid()}


def _accept(listener: socket.socket, allowed_uid: int, hello: dict[str, Any]) -> socket.socket | None:
    """Take a connection, unless another user of the machine made it: the address is open to all."""
    client, _ = listener.accept()
    _, uid, _ = _CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if uid not in (0, allowed_uid):
        client.close()
        return None
    try:
        messages.send(client, hello)
    except OSError:  # gone already
        client.close()
        return None
    return client
