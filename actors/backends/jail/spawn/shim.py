"""The shim: the process at the head of one jail, which makes its walls, enters them and makes containers there.

It is a light fork of the jail server, lives as long as the socket of its client, the host, and never runs a program. It
is in the jail's user, mount, IPC, UTS and cgroup namespaces with all capabilities over them, and none outside. It stays
out of the pid namespaces of containers, as the fork servers do.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

from actors.backends.jail import messages, process_names
from actors.backends.jail.kernel import bwrap, counters, namespaces
from actors.backends.jail.spawn import init

_OWN = namespaces.CLONE_NEWPID | namespaces.CLONE_NEWNS


def prepare(
    config: dict[str, Any], enter: Callable[[], list[int]], zygotes: dict[str, socket.socket], requests: socket.socket
) -> Callable[[dict[str, Any], list[int]], None]:
    """Enter a new jail by ``enter``, which returns its namespaces; return what serves the client of a request.

    Whatever goes wrong, that client is told.
    """
    namespaces.set_dumpable(False)
    try:
        spaces = enter()
        counters.limit()
        kept = (requests, *zygotes.values())
        namespaces.close_all_except({0, 1, 2, *spaces, *(channel.fileno() for channel in kept)})
        shim = _Shim(config, spaces, zygotes)
    except BaseException:  # noqa: BLE001 - whatever it was, the client is told
        reason = traceback.format_exc(limit=-3)[-2000:]
        return lambda _, fds: messages.send(socket.socket(fileno=fds[0]), {"failed": reason})
    return shim.serve


class _Shim:
    def __init__(self, config: dict[str, Any], spaces: list[int], zygotes: dict[str, socket.socket]) -> None:
        self._config, self._spaces, self._zygotes = config, spaces, zygotes
        self._fork_servers: dict[str, socket.socket] = {}
        os.chdir("/")

    def serve(self, request: dict[str, Any], fds: list[int]) -> None:
        """Serve one client until it is gone."""
        namespaces.name_process(process_names.SHIM)
        client = socket.socket(fileno=fds[0])
        try:
            self._serve(client, request["kinds"])
        except BaseException:  # noqa: BLE001 - whatever it was, the client is told
            messages.send(client, {"failed": traceback.format_exc(limit=-3)[-2000:]})

    def _serve(self, client: socket.socket, kinds: list[str]) -> None:
        pids = [self._start_fork_server(kind) for kind in kinds]
        messages.send(client, {"pid": os.getpid(), "fork_servers": pids})
        for kind in kinds:
            _receive(self._fork_servers[kind])
        messages.send(client, {"built": _build_tag()})
        while True:
            request, fds = messages.receive(client)
            if request is None:
                return
            match request["op"]:
                case "fork_server":
                    pid = self._start_fork_server(request["kind"])
                    _receive(self._fork_servers[request["kind"]])
                    messages.send(client, {"fork_server": pid})
                case "container":
                    fork_server = self._fork_servers[request["kind"]]
                    _make_container(client, socket.socket(fileno=fds[0]), fork_server, self._config)
                case "check":
                    messages.send(client, {"tag": _build_tag()})

    def _start_fork_server(self, kind: str) -> int:
        """Have a fork server enter the jail, which says next when it has; return its pid."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            messages.send(self._zygotes[kind], {}, [theirs.fileno(), *self._spaces])
        self._fork_servers[kind] = ours
        return int(_receive(ours)["pid"])


def _receive(fork_server: socket.socket) -> dict[str, Any]:
    """Return the next message of a fork server.

    Raises:
        RuntimeError: it has ended; says why.
    """
    message, _ = messages.receive(fork_server)
    if message is None or "failed" in message:
        raise RuntimeError(f"a fork server has ended: {(message or {}).get('failed')}")
    return message


def _build_tag() -> str:
    with open(bwrap.BUILD_TAG_FILE) as file:
        return file.read()


def _make_container(
    client: socket.socket, control: socket.socket, fork_server: socket.socket, config: dict[str, Any]
) -> None:
    """Fork a container's init, which is controlled from the other end of ``control``; send the client its pidfd."""
    pid, pidfd = namespaces.fork_into(_OWN)
    if pid == 0:
        status = 1
        try:
            namespaces.die_with_parent()
            init.serve(control, fork_server, config["prefixes"], frozenset(config["without"]))
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it was, the client is told
            messages.send(control, {"failed": traceback.format_exc(limit=-3)[-2000:]})
        finally:
            os._exit(status)
    control.close()
    messages.send(client, {"forked": pid}, [pidfd])
    os.close(pidfd)
