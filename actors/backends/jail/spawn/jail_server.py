"""The jail server: the process that all processes of all jails of an image descend from.

There is one per machine, user and image, shared by all clients, which are the hosts of that user. It runs outside any
jail as the host's user, or as nobody where that is root, and never runs a program. Each connection asks for jails,
handing over the socket on which the new jail's shim will answer. The jail server forks the shim, the zygotes its fork
servers. It ends when the last connection has been closed for ``LINGER_S``, or a zygote is lost; jails watch their own
clients.
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

from actors.backends.jail import messages, process_names
from actors.backends.jail.kernel import bwrap, namespaces
from actors.backends.jail.spawn import prototype, shim, zygote
from actors.backends.jail.spawn.prefork import PAUSE_S, Prefork

LINGER_S = 1.0
"""How long it stays without a client."""
START_S = 30.0
"""How long the first client may take to connect."""
_CREDENTIALS = struct.Struct("3i")


def serve(config: dict[str, Any], listener_fd: int, identity_range: int | None) -> None:
    """Start the zygotes, then make jails until no client is connected any more.

    ``identity_range`` is the user namespace in which there is an id for each jail, where root has made one.
    """
    listener = socket.socket(fileno=listener_fd)
    namespaces.name_process(process_names.SERVER)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps what is forked
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is for the client
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # Ray's workers block some, and programs are interrupted by one
    namespaces.adopt_orphans()  # of a killed fork server: a jail is gone only when its interpreters are collected
    zygotes = zygote.start(config, listener)
    hello = _hello(zygotes)
    enter, own_inodes = _way_in(config, identity_range)
    hello["own_inodes"] = own_inodes
    gc.freeze()
    shims = Prefork(functools.partial(shim.prepare, config, enter, zygotes))
    try:
        _serve(listener, config["client_uid"], hello, zygotes, shims)
    finally:
        shims.end()


def _serve(
    listener: socket.socket, client_uid: int, hello: dict[str, Any], zygotes: dict[str, socket.socket], shims: Prefork
) -> None:
    clients: list[socket.socket] = []
    alone_until = time.monotonic() + START_S
    while clients or time.monotonic() < alone_until:
        pause_s = LINGER_S / 4 if not clients else PAUSE_S if zygotes and not shims.ready else None
        ready, _, _ = select.select([listener, *clients, *zygotes.values()], [], [], pause_s)
        if not ready and zygotes and clients and not shims.ready:
            shims.fork()
        for channel in ready:
            if channel is listener:
                client = _accept(listener, client_uid, hello)
                if client is not None:
                    clients.append(client)
                continue
            request, fds = messages.receive(channel)
            if request is None and channel not in clients:
                return  # a zygote is lost: what is left ends with this process, and clients start another jail server
            if request is None:
                clients.remove(channel)
                channel.close()
                alone_until = time.monotonic() + LINGER_S
            elif fds and zygotes:
                shims.hand_over(request, fds)


def _way_in(config: dict[str, Any], identity_range: int | None) -> tuple[Callable[[], list[int]], bool]:
    """Return what takes a shim into a new jail, and whether that has inodes of its own.

    It is a copy of the prototype or, where that is refused, one built for it.
    """
    ids = os.getuid(), os.getgid()
    # An overlay cannot be written to, so it would be a wall beside the one that is to be left out.
    overlaid = (True, False) if "read_only" not in config["without"] else (False,)
    for user_namespace in dict.fromkeys((identity_range, None)):
        own_id = user_namespace is not None
        with contextlib.suppress(RuntimeError, OSError):  # each shim then tries by itself, for the cause may go away
            spaces = prototype.build(_walls(config, shared=own_id), user_namespace)
            for own_inodes in overlaid:
                if prototype.can_copy(spaces, *ids, own_id=own_id, own_inodes=own_inodes):
                    way_in = functools.partial(prototype.copy, spaces, *ids, own_id=own_id, own_inodes=own_inodes)
                    return way_in, own_inodes
    return functools.partial(_build_and_enter, _walls(config, shared=False)), False


def _walls(config: dict[str, Any], *, shared: bool) -> bwrap.Walls:
    return bwrap.walls(
        config["bwrap"],
        config["prefixes"],
        config["links"],
        config["hidden"],
        config["build_tag"],
        os.getuid(),
        os.getgid(),
        read_only="read_only" not in config["without"],
        shared=shared,
    )


def _build_and_enter(walls: bwrap.Walls) -> list[int]:
    spaces = prototype.build(walls)
    prototype.enter(spaces)
    return spaces


def _hello(zygotes: dict[str, socket.socket]) -> dict[str, Any]:
    """Wait for the zygotes; return what clients are greeted with, which says why if there will be no jails."""
    for channel in zygotes.values():
        report, _ = messages.receive(channel)
        if report is None or "failed" in report:
            zygotes.clear()
            return report or {"failed": "a preloaded module ended the process"}
    return {"pid": os.getpid()}


def _accept(listener: socket.socket, allowed_uid: int, hello: dict[str, Any]) -> socket.socket | None:
    """Take a connection, unless another user of the machine made it, whom the address's directory keeps out too."""
    client, _ = listener.accept()
    _, uid, _ = _CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if uid not in (0, allowed_uid):
        client.close()
        return None
    try:
        messages.send(client, hello)
    except OSError:  # it has gone already
        client.close()
        return None
    return client
