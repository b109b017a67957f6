"""The warmed-up processes that the templates of jails are forked from, one for each kind of interpreter.

A fork costs by the size of what is forked, so programs that need no packages have a mould of their own. Neither is
forked from the other: what the second then wrote over the first's heap, each of its forks would copy.
"""

from __future__ import annotations

import functools
import gc
import os
import select
import socket
import threading
import traceback
from typing import TYPE_CHECKING, Any

from actors.backends.jail import messages
from actors.backends.jail.kernel import heap, mappings, namespaces
from actors.backends.jail.kinds import LEAN, LOADED
from actors.backends.jail.spawn.prefork import PAUSE_S, Ahead, Work

if TYPE_CHECKING:
    from actors.backends.jail.spawn.fork_server import Template


def start(config: dict[str, Any], listener: socket.socket) -> dict[str, socket.socket]:
    """Fork the moulds, which end with the zygote; return the socket of each, which reports first when it is warm.

    Each message on such a socket brings a template the channel to its keeper and the namespaces of its jail.
    """
    moulds: dict[str, socket.socket] = {}
    for kind in (LEAN, LOADED) if config["preload"] else (LEAN,):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            if os.fork() == 0:
                for inherited in (listener, ours, *moulds.values()):
                    inherited.close()
                _become_mould(config, kind, theirs)
        moulds[kind] = ours
    return moulds


def _become_mould(config: dict[str, Any], kind: str, orders: socket.socket) -> None:
    try:
        namespaces.die_with_parent()
        namespaces.name_process(f"jail-{kind}")
        template = _warm_up(config, kind)
        messages.send(orders, {"warm": kind})
        _serve(orders, template)
    except BaseException:  # noqa: BLE001 - whatever it was, every client is told
        messages.send(orders, {"failed": traceback.format_exc(limit=-3)[-2000:]})
    finally:
        os._exit(0)


def _warm_up(config: dict[str, Any], kind: str) -> Template:
    with heap.laid_out():
        # Only now: the zygote is to stay light.
        from actors.backends.jail.spawn import warm_up
        from actors.backends.jail.spawn.fork_server import Template

        interpreter = warm_up.interpreter(config, tuple(config["preload"]) if kind == LOADED else ())
        warm_up.finish()
        gc.collect()
        mappings.merge()
        gc.freeze()  # collections in forks would otherwise write to, and so copy, every page
    if threading.active_count() != 1 or len(os.listdir("/proc/self/task")) != 1:
        # Forks would copy their locks in whatever state they are.
        raise RuntimeError("the zygote has threads; a preloaded module started one")
    mappings.share_data()
    heap.settle(interpreter.rehearse)
    return Template(interpreter, frozenset(config["without"]))


def _serve(orders: socket.socket, template: Template) -> None:
    ahead = Ahead(functools.partial(_prepare, template))
    while True:
        if not ahead.ready and not select.select([orders], [], [], PAUSE_S)[0]:
            ahead.fork()
        message, fds = messages.receive(orders)
        if message is None:
            return
        ahead.hand_over(message, fds)


def _prepare(template: Template, orders: socket.socket) -> Work:
    namespaces.set_dumpable(False)
    namespaces.close_all_except({0, 1, 2, orders.fileno()})
    return functools.partial(_become_template, template)


def _become_template(template: Template, _: dict[str, Any], fds: list[int]) -> None:
    namespaces.name_process("jail-template")
    channel = socket.socket(fileno=fds[0])
    try:
        template.run(fds[1:], channel)
    except BaseException:  # noqa: BLE001 - whatever it was, its keeper is told
        messages.send(channel, {"failed": traceback.format_exc(limit=-3)[-2000:]})
