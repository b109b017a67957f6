"""The head of one jail: makes its walls, steps inside, and makes cells there.

A light process, lives as long as its client's socket and never runs a program. It stays outside the pid namespaces of
its cells, as its jail's templates do, from which the interpreters are forked.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from typing import Any

from actors.backends.jail import messages
from actors.backends.jail.kernel import bwrap, namespaces
from actors.backends.jail.spawn import init

NAME = "jail-keeper"
_OWN = namespaces.CLONE_NEWPID | namespaces.CLONE_NEWNS


def prepare(
    config: dict[str, Any], enter: Callable[[], list[int]], moulds: dict[str, socket.socket], orders: socket.socket
) -> Callable[[dict[str, Any], list[int]], None]:
    """Step into a new jail; return what serves the client that an order brings.

    ``enter`` does the first, and returns the jail's namespaces. Whatever goes wrong, that client is told.
    """
    namespaces.set_dumpable(False)
    try:
        spaces = enter()
        kept = (orders, *moulds.values())
        namespaces.close_all_except({0, 1, 2, *spaces, *(channel.fileno() for channel in kept)})
        keeper = _Keeper(config, spaces, moulds)
    except BaseException:  # noqa: BLE001 - see above
        reason = traceback.format_exc(limit=-3)[-2000:]
        return lambda _, fds: messages.send(socket.socket(fileno=fds[0]), {"failed": reason})
    return keeper.work


class _Keeper:
    def __init__(self, config: dict[str, Any], spaces: list[int], moulds: dict[str, socket.socket]) -> None:
        self._config, self._spaces, self._moulds = config, spaces, moulds
        self._templates: dict[str, socket.socket] = {}
        os.chdir("/")

    def work(self, order: dict[str, Any], fds: list[int]) -> None:
        """Answer one client until it is gone."""
        namespaces.name_process(NAME)
        client = socket.socket(fileno=fds[0])
        try:
            self._serve(client, order["kinds"])
        except BaseException:  # noqa: BLE001 - whatever it was, the client is told
            messages.send(client, {"failed": traceback.format_exc(limit=-3)[-2000:]})

    def _serve(self, client: socket.socket, kinds: list[str]) -> None:
        pids = [self._order_template(kind) for kind in kinds]
        messages.send(client, {"pid": os.getpid(), "templates": pids})
        for kind in kinds:
            _hear(self._templates[kind])
        messages.send(client, {"built": _build_tag()})
        while True:
            message, fds = messages.receive(client)
            if message is None:
                return
            match message["op"]:
                case "template":
                    pid = self._order_template(message["kind"])
                    _hear(self._templates[message["kind"]])
                    messages.send(client, {"template": pid})
                case "cell":
                    template = self._templates[message["kind"]]
                    _make_cell(client, socket.socket(fileno=fds[0]), template, self._config)
                case "check":
                    messages.send(client, {"tag": _build_tag()})

    def _order_template(self, kind: str) -> int:
        """Have a template come in, which says when it has; return its pid."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            messages.send(self._moulds[kind], {}, [theirs.fileno(), *self._spaces])
        self._templates[kind] = ours
        return int(_hear(ours)["pid"])


def _hear(template: socket.socket) -> dict[str, Any]:
    message, _ = messages.receive(template)
    if message is None or "failed" in message:
        raise RuntimeError(f"a template has ended: {(message or {}).get('failed')}")
    return message


def _build_tag() -> str:
    with open(bwrap.BUILD_TAG_FILE) as file:
        return file.read()


def _make_cell(client: socket.socket, control: socket.socket, template: socket.socket, config: dict[str, Any]) -> None:
    """Fork a cell's first process, which answers at the other end of ``control``, and send the client its pidfd."""
    pid, pidfd = namespaces.fork_into(_OWN)
    if pid == 0:
        status = 1
        try:
            namespaces.die_with_parent()
            init.run(control, template, config["prefixes"], frozenset(config["without"]))
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it was, the client is told
            messages.send(control, {"failed": traceback.format_exc(limit=-3)[-2000:]})
        finally:
            os._exit(status)
    control.close()
    messages.send(client, {"forked": pid}, [pidfd])
    os.close(pidfd)
