"""The head of one jail: builds its walls, steps inside, and forks runs there.

Forked from the zygote, lives as long as its client's socket, and never runs a program itself. It stays outside the
pid namespaces of its runs, so that no program can see it, let alone the next program's interpreter.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import traceback
from typing import Any

from actors.backends.jail import bwrap, init, messages, namespaces

_JOINED = (
    namespaces.CLONE_NEWUSER
    | namespaces.CLONE_NEWNS
    | namespaces.CLONE_NEWIPC
    | namespaces.CLONE_NEWUTS
    | namespaces.CLONE_NEWCGROUP
)
# A network of its own: on a shared loopback a program could meet a session's server, or the last program's dying one.
_OWN = namespaces.CLONE_NEWPID | namespaces.CLONE_NEWNS | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWNET
_BUILD_S = 10.0


def environment(config: dict[str, Any]) -> dict[str, str]:
    """What every program finds in its environment, before its own variables."""
    return {
        "HOME": bwrap.HOME,
        "USER": bwrap.USER,
        "PATH": f"{os.path.dirname(config['python'])}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",  # noqa: S108 - the jail's own
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MPLCONFIGDIR": "/tmp/matplotlib",  # noqa: S108
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "BUILD_TAG": config["build_tag"],
    }


def run(config: dict[str, Any], channel: socket.socket) -> None:
    """Build the jail, then answer its client until that is gone."""
    namespaces.set_dumpable(False)
    namespaces.close_all_except({0, 1, 2, channel.fileno()})
    messages.send(channel, {"pid": os.getpid()})
    namespaces.join_namespaces(_build(config), _JOINED)
    os.chdir("/")
    if messages.receive(channel)[0] is None:  # meanwhile the client has put this process into its control group
        return
    with open(bwrap.BUILD_TAG_FILE) as file:
        messages.send(channel, {"built": file.read()})
    while True:
        select.select([channel], [], [])
        message, _ = messages.receive(channel)
        if message is None:
            return
        if message["op"] == "fork":
            _fork_run(channel, message, config["prefixes"])
        else:
            with open(bwrap.BUILD_TAG_FILE) as file:
                messages.send(channel, {"tag": file.read()})


def _build(config: dict[str, Any]) -> int:
    """Start bwrap and return the pid of its inmate once every wall stands.

    The inmate's input stays open, and so the walls standing, for as long as this process lives.

    Raises:
        RuntimeError: bwrap failed; holds its own words.
    """
    words, files = bwrap.command(config["bwrap"], config["prefixes"], config["build_tag"], os.getuid(), os.getgid())
    fds = {path: _readable(data) for path, data in files.items()}
    info_r, info_w = os.pipe()
    in_r, in_w = os.pipe()
    out_r, out_w = os.pipe()
    error_r, error_w = os.pipe()
    argv = bwrap.finish([*words, "--info-fd", str(info_w)], fds)
    for fd in (*fds.values(), info_w):
        os.set_inheritable(fd, True)
    placed = [(os.POSIX_SPAWN_DUP2, in_r, 0), (os.POSIX_SPAWN_DUP2, out_w, 1), (os.POSIX_SPAWN_DUP2, error_w, 2)]
    os.write(in_w, b".")  # while this end is open: a bwrap that fails at once would break the pipe
    os.posix_spawn(argv[0], argv, {}, file_actions=placed, setsigdef=[signal.SIGCHLD, signal.SIGINT])
    for fd in (*fds.values(), info_w, in_r, out_w, error_w):
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


def _fork_run(channel: socket.socket, message: dict[str, Any], prefixes: list[str]) -> None:
    """Fork a run's first process, and send the client its ends: control, protocol, output, errors and a pidfd."""
    control, init_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    protocol, shell_protocol = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    out_r, out_w = os.pipe()
    error_r, error_w = os.pipe()
    pid, pidfd = namespaces.fork_into(_OWN)
    if pid == 0:
        status = 1
        try:
            namespaces.die_with_parent()
            init.run(init_control.detach(), shell_protocol.detach(), out_w, error_w, message["disk_mib"], prefixes)
            status = 0
        except BaseException:  # noqa: BLE001 - a forked process has nobody above it to tell
            os.write(error_w, traceback.format_exc(limit=-3).encode())
        finally:
            os._exit(status)
    fds = [control.fileno(), protocol.fileno(), out_r, error_r, pidfd]
    messages.send(channel, {"forked": pid}, fds)
    for fd in (out_r, out_w, error_r, error_w, pidfd):
        os.close(fd)
    for end in (control, init_control, protocol, shell_protocol):
        end.close()
