"""The warmed-up processes that the templates of jails are forked from, one for each kind of interpreter.

A fork costs by the size of what is forked, so programs that need no packages have a mould of their own. The second is
forked from the first, half-way, and shares what both hold.
"""

from __future__ import annotations

import functools
import gc
import os
import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any

from actors.backends.jail import arenas, messages, namespaces
from actors.backends.jail.kinds import LEAN, LOADED


def start(config: dict[str, Any], listener: socket.socket) -> dict[str, socket.socket]:
    """Fork the moulds, which end with the zygote; return the socket of each, which reports first when it is warm.

    Each message on such a socket brings the channel of a new template.
    """
    ours, theirs = {}, {}
    for kind in (LEAN, LOADED) if config["preload"] else (LEAN,):
        ours[kind], theirs[kind] = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        try:
            namespaces.die_with_parent()
            listener.close()
            for end in ours.values():
                end.close()
            _warm_up(config, theirs)
        finally:
            os._exit(1)
    for end in theirs.values():
        end.close()
    return ours


def _warm_up(config: dict[str, Any], orders: dict[str, socket.socket]) -> None:
    """Become the lean mould, and on the way fork the loaded one."""
    kind = LEAN
    try:
        with arenas.contiguous():
            # Only now: the zygote is to stay light.
            from actors.backends.jail import template, warm_up

            warm_up.lean(config)
            if LOADED in orders and os.fork() == 0:
                kind = LOADED
                namespaces.die_with_parent()
                warm_up.loaded(config)
            warm_up.forget_service()
        run = functools.partial(template.run, without=frozenset(config["without"]))
        gc.collect()
        gc.freeze()  # collections in forks would otherwise write to, and so copy, every page
    except BaseException:  # noqa: BLE001 - whatever it was, every client is told
        messages.send(orders[kind], {"failed": traceback.format_exc(limit=-3)[-2000:]})
        return
    channel = orders.pop(kind)
    for other in orders.values():
        other.close()
    namespaces.name_process(f"jail-{kind}")
    messages.send(channel, {"warm": kind})
    _serve(channel, run)


def _serve(orders: socket.socket, run: Callable[[socket.socket], None]) -> None:
    while True:
        message, fds = messages.receive(orders)
        if message is None:
            return
        with socket.socket(fileno=fds[0]) as channel:
            # A thread's locks would be copied in whatever state they are.
            if threading.active_count() != 1 or len(os.listdir("/proc/self/task")) != 1:
                messages.send(channel, {"failed": "the zygote has threads; a preloaded module started one"})
            elif os.fork() == 0:
                _become_template(channel, run)


def _become_template(channel: socket.socket, run: Callable[[socket.socket], None]) -> None:
    status = 1
    try:
        namespaces.die_with_parent()
        run(channel)
        status = 0
    except BaseException:  # noqa: BLE001 - whatever it was, its keeper is told
        messages.send(channel, {"failed": traceback.format_exc(limit=-3)[-2000:]})
    finally:
        os._exit(status)
