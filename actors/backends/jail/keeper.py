"""The head of one jail: builds its walls, steps inside, and makes cells there.

A light process, lives as long as its client's socket and never runs a program. It stays outside the pid namespaces of
its cells, as its jail's templates do, from which the interpreters are forked.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import traceback
from collections.abc import Callable
from typing import Any

from actors.backends.jail import bwrap, init, messages, namespaces, orphans

NAME = "jail-keeper"
_OWN = namespaces.CLONE_NEWPID | namespaces.CLONE_NEWNS
_BUILD_S = 10.0


def prepare(
    config: dict[str, Any], walls: bwrap.Walls, moulds: dict[str, socket.socket], orders: socket.socket
) -> Callable[[dict[str, Any], list[int]], None]:
    """Build a jail's walls and step inside; return what serves the client that an order brings.

    Whatever goes wrong, that client is told.
    """
    namespaces.set_dumpable(False)
    namespaces.close_all_except({0, 1, 2, orders.fileno(), *(channel.fileno() for channel in moulds.values())})
    try:
        keeper = _Keeper(config, walls, moulds)
    except BaseException:  # noqa: BLE001 - see above
        reason = traceback.format_exc(limit=-3)[-2000:]
        return lambda _, fds: messages.send(socket.socket(fileno=fds[0]), {"failed": reason})
    return keeper.work


class _Keeper:
    def __init__(self, config: dict[str, Any], walls: bwrap.Walls, moulds: dict[str, socket.socket]) -> None:
        self._config, self._moulds = config, moulds
        self._templates: dict[str, socket.socket] = {}
        self._inmate = _build(walls)
        namespaces.join_namespaces(self._inmate, namespaces.JAIL)
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
            messages.send(self._moulds[kind], {"join": self._inmate}, [theirs.fileno()])
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


def _build(walls: bwrap.Walls) -> int:
    """Have bwrap build the walls, which stand for as long as this process lives; return the pid of its inmate.

    Raises:
        RuntimeError: bwrap failed; holds its own words.
    """
    in_r, in_w = os.pipe()
    out_r, out_w = os.pipe()
    error_r, error_w = os.pipe()
    info_r, info_w = os.pipe()
    # Each has a higher number than its place, so none is overwritten before it is put there.
    given = [in_r, out_w, error_w, info_w, *map(_readable, walls.files)]
    os.write(in_w, b".")  # while this end is open: a bwrap that fails at once would break the pipe
    os.posix_spawn(
        walls.program,
        [orphans.name_of_walls(os.getpid()), *walls.arguments],
        {},
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, place) for place, fd in enumerate(given)],
        setsigdef=[signal.SIGCHLD, signal.SIGINT],
    )
    for fd in given:
        os.close(fd)
    ready, _, _ = select.select([out_r], [], [], _BUILD_S)
    if not ready or os.read(out_r, 1) != b".":
        raise RuntimeError(f"bwrap: {os.read(error_r, 2000).decode(errors='replace') if ready else 'does not answer'}")
    info = b""
    while not info.rstrip().endswith(b"}"):
        info += os.read(info_r, 1000)
    for fd in (info_r, out_r, error_r):
        os.close(fd)
    return int(info.partition(b'"child-pid":')[2].split(b",")[0].split(b"}")[0])


def _readable(data: bytes) -> int:
    """Return a descriptor that reads as ``data``, which must fit a pipe's buffer."""
    read_fd, write_fd = os.pipe()
    os.write(write_fd, data)
    os.close(write_fd)
    return read_fd


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
