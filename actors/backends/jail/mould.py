"""The warmed-up processes that the templates of jails are forked from, one for each kind of interpreter.

A fork costs by the size of what is forked, so programs that need no packages have a mould of their own. The second is
forked from the first, half-way, and shares what both hold.
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

from actors.backends.jail import heap, messages, namespaces
from actors.backends.jail.ahead import PAUSE_S, Ahead, Work
from actors.backends.jail.kinds import LEAN, LOADED

if TYPE_CHECKING:
    from actors.backends.jail.template import Template


def start(config: dict[str, Any], listener: socket.socket) -> dict[str, socket.socket]:
    """Fork the moulds, which end with the zygote; return the socket of each, which reports first when it is warm.

    Each message on such a socket brings a template the channel to its keeper and the pid of a process in its jail.
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
        with heap.laid_out():
            # Only now: the zygote is to stay light.
            from actors.backends.jail import warm_up
            from actors.backends.jail.template import Template

            interpreter = warm_up.lean(config)
            _freeze()
        if LOADED in orders and os.fork() == 0:
            kind = LOADED
            namespaces.die_with_parent()
            with heap.laid_out():
                warm_up.load(interpreter, config)
                _freeze()
        heap.settle(interpreter.rehearse)
        warm_up.finish()
        _require_one_thread()
        template = Template(interpreter, frozenset(config["without"]))
    except BaseException:  # noqa: BLE001 - whatever it was, every client is told
        messages.send(orders[kind], {"failed": traceback.format_exc(limit=-3)[-2000:]})
        return
    channel = orders.pop(kind)
    for other in orders.values():
        other.close()
    namespaces.name_process(f"jail-{kind}")
    messages.send(channel, {"warm": kind})
    _serve(channel, template)


def _freeze() -> None:
    """Have later collections leave alone what is there: they would write to, and so copy, every page."""
    gc.collect()
    gc.freeze()


def _require_one_thread() -> None:
    """Refuse others: a fork would copy their locks in whatever state they are."""
    if threading.active_count() != 1 or len(os.listdir("/proc/self/task")) != 1:
        raise RuntimeError("the zygote has threads; a preloaded module started one")


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


def _become_template(template: Template, order: dict[str, Any], fds: list[int]) -> None:
    namespaces.name_process("jail-template")
    channel = socket.socket(fileno=fds[0])
    try:
        template.run(order["join"], channel)
    except BaseException:  # noqa: BLE001 - whatever it was, its keeper is told
        messages.send(channel, {"failed": traceback.format_exc(limit=-3)[-2000:]})
