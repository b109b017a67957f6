"""A zygote: the warmed-up process that the fork servers of jails are forked from, one for each kind of interpreter.

It is forked from the jail server, has the same rights, is in no jail and runs no program. A fork costs by the size of
what is forked, so programs that need no packages have a zygote of their own. Neither zygote is forked from the other:
what the second wrote over the first's heap, each of its forks would copy.
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

from actors.backends.jail import messages, process_names
from actors.backends.jail.kernel import heap, mappings, namespaces
from actors.backends.jail.kinds import LEAN, LOADED
from actors.backends.jail.spawn.prefork import PAUSE_S, Prefork, Work

if TYPE_CHECKING:
    from actors.backends.jail.spawn.fork_server import ForkServer


def start(config: dict[str, Any], listener: socket.socket) -> dict[str, socket.socket]:
    """Fork the zygotes, which end with the jail server; return the socket of each, where it reports when it is warm.

    Each message on such a socket asks for a fork server, with the channel to its shim and the namespaces of its jail.
    """
    zygotes: dict[str, socket.socket] = {}
    for kind in (LEAN, LOADED) if config["preload"] else (LEAN,):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            if os.fork() == 0:
                for inherited in (listener, ours, *zygotes.values()):
                    inherited.close()
                _become_zygote(config, kind, theirs)
        zygotes[kind] = ours
    return zygotes


def _become_zygote(config: dict[str, Any], kind: str, requests: socket.socket) -> None:
    try:
        namespaces.die_with_parent()
        namespaces.name_process(process_names.zygote(kind))
        fork_server = _warm_up(config, kind)
        messages.send(requests, {"warm": kind})
        _serve(requests, fork_server)
    except BaseException:  # noqa: BLE001 - whatever it was, every client is told
        messages.send(requests, {"failed": traceback.format_exc(limit=-3)[-2000:]})
    finally:
        os._exit(0)


def _warm_up(config: dict[str, Any], kind: str) -> ForkServer:
    with heap.laid_out():
        # Imported only here, so that the jail server stays light.
        from actors.backends.jail.spawn import warm_up
        from actors.backends.jail.spawn.fork_server import ForkServer

        interpreter = warm_up.interpreter(config, tuple(config["preload"]) if kind == LOADED else ())
        warm_up.finish(config)
        gc.collect()
        mappings.merge()
        gc.freeze()  # collections in forks would otherwise write to, and so copy, every page
        interpreter.complete()
    if threading.active_count() != 1 or len(os.listdir("/proc/self/task")) != 1:
        # Forks would copy their locks in whatever state they are.
        raise RuntimeError("the zygote has threads; a preloaded module started one")
    mappings.share_data()
    heap.settle(interpreter.rehearse)
    fork_server = ForkServer(interpreter, frozenset(config["without"]))
    gc.collect()  # makes all of it old, so that no fork looks at it at a program's end
    return fork_server


def _serve(requests: socket.socket, fork_server: ForkServer) -> None:
    """Fork a fork server for each request until the jail server is gone."""
    prefork = Prefork(functools.partial(_prepare, fork_server))
    while True:
        if not prefork.ready and not select.select([requests], [], [], PAUSE_S)[0]:
            prefork.fork()
        request, fds = messages.receive(requests)
        if request is None:
            return
        prefork.hand_over(request, fds)


def _prepare(fork_server: ForkServer, requests: socket.socket) -> Work:
    namespaces.set_dumpable(False)
    namespaces.close_all_except({0, 1, 2, requests.fileno()})
    return functools.partial(_become_fork_server, fork_server)


def _become_fork_server(fork_server: ForkServer, _: dict[str, Any], fds: list[int]) -> None:
    namespaces.name_process(process_names.FORK_SERVER)
    channel = socket.socket(fileno=fds[0])
    try:
        fork_server.serve(fds[1:], channel)
    except BaseException:  # noqa: BLE001 - whatever it was, the shim is told
        messages.send(channel, {"failed": traceback.format_exc(limit=-3)[-2000:]})
