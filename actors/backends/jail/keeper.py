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
from typing import Any

from actors.backends.jail import bwrap, init, messages, namespaces, orphans

_OWN = namespaces.CLONE_NEWPID | namespaces.CLONE_NEWNS
_BUILD_S = 10.0


def run(config: dict[str, Any], client: socket.socket, moulds: dict[str, socket.socket], kinds: list[str]) -> None:
    """Build the jail with templates of some ``kinds`` in it, then answer its client until that is gone."""
    namespaces.name_process("jail-keeper")
    namespaces.set_dumpable(False)
    channels = (client, *moulds.values())
    namespaces.close_all_except({0, 1, 2, *(channel.fileno() for channel in channels)})
    templates = {kind: _order(moulds[kind]) for kind in kinds}
    building = _start_building(config)
    try:
        pids = [_hear(channel)["pid"] for channel in templates.values()]
        messages.send(client, {"pid": os.getpid(), "templates": pids})
    finally:
        inmate = _finish_building(*building)  # even if the client has gone: bwrap, left half-way, would wait for good
    for channel in templates.values():
        messages.send(channel, {"join": inmate})
    namespaces.join_namespaces(inmate, namespaces.JAIL)
    os.chdir("/")
    for channel in templates.values():
        _hear(channel)
    messages.send(client, {"built": _build_tag()})
    while True:
        message, fds = messages.receive(client)
        if message is None:
            return
        match message["op"]:
            case "template":
                channel = templates[message["kind"]] = _order(moulds[message["kind"]])
                pid = _hear(channel)["pid"]
                messages.send(channel, {"join": inmate})
                _hear(channel)
                messages.send(client, {"template": pid})
            case "cell":
                _make_cell(client, socket.socket(fileno=fds[0]), templates[message["kind"]], config)
            case "check":
                messages.send(client, {"tag": _build_tag()})


def _order(mould: socket.socket) -> socket.socket:
    """Have a mould fork a template, and return the socket to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        messages.send(mould, {}, [theirs.fileno()])
    return ours


def _hear(template: socket.socket) -> dict[str, Any]:
    message, _ = messages.receive(template)
    if message is None or "failed" in message:
        raise RuntimeError(f"a template has ended: {(message or {}).get('failed')}")
    return message


def _build_tag() -> str:
    with open(bwrap.BUILD_TAG_FILE) as file:
        return file.read()


def _start_building(config: dict[str, Any]) -> tuple[int, int, int]:
    """Start bwrap and return what to read from: its description, its inmate's output and its errors.

    The inmate's input stays open, and so the walls standing, for as long as this process lives.
    """
    words, files = bwrap.command(config["bwrap"], config["prefixes"], config["build_tag"], os.getuid(), os.getgid())
    fds = {path: _readable(data) for path, data in files.items()}
    info_r, info_w = os.pipe()
    in_r, in_w = os.pipe()
    out_r, out_w = os.pipe()
    error_r, error_w = os.pipe()
    argv = bwrap.finish([*words, "--info-fd", str(info_w)], fds, "read_only" not in config["without"])
    for fd in (*fds.values(), info_w):
        os.set_inheritable(fd, True)
    placed = [(os.POSIX_SPAWN_DUP2, in_r, 0), (os.POSIX_SPAWN_DUP2, out_w, 1), (os.POSIX_SPAWN_DUP2, error_w, 2)]
    os.write(in_w, b".")  # while this end is open: a bwrap that fails at once would break the pipe
    named = [orphans.name_of_walls(os.getpid()), *argv[1:]]
    os.posix_spawn(argv[0], named, {}, file_actions=placed, setsigdef=[signal.SIGCHLD, signal.SIGINT])
    for fd in (*fds.values(), info_w, in_r, out_w, error_w):
        os.close(fd)
    return info_r, out_r, error_r


def _finish_building(info_r: int, out_r: int, error_r: int) -> int:
    """Return the pid of bwrap's inmate once every wall stands.

    Raises:
        RuntimeError: bwrap failed; holds its own words.
    """
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
