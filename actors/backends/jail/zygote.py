"""The process that every interpreter is forked from: warmed up, and never running anyone's program.

One per machine, user and image, shared by all clients. Each connection asks for jails, handing over the socket on
which the new jail's template will answer; the zygote forks it and goes on. It ends when the last connection has been
closed for ``LINGER_S``; its templates watch their own clients.
"""

from __future__ import annotations

import gc
import os
import platform
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
from typing import Any

from actors.backends.jail import hugepages, messages, namespaces, seccomp, shell, template

LINGER_S = 1.0
START_S = 30.0  # how long the first client may take to connect
_CREDENTIALS = struct.Struct("3i")


def serve(config: dict[str, Any], listener_fd: int) -> None:
    """Warm up, then answer until nobody is connected any more."""
    listener = socket.socket(fileno=listener_fd)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps templates
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C is for the client
    failure = _warm_up(config)
    hello: dict[str, Any] = {"failed": failure} if failure else {"pid": os.getpid()}
    clients: list[socket.socket] = []
    alone_until = time.monotonic() + START_S
    while clients or time.monotonic() < alone_until:
        ready, _, _ = select.select([listener, *clients], [], [], None if clients else LINGER_S / 4)
        for channel in ready:
            if channel is listener:
                client = _accept(listener, config["client_uid"], hello)
                if client is not None:
                    clients.append(client)
                continue
            message, fds = messages.receive(channel)
            if message is None:
                clients.remove(channel)
                channel.close()
                alone_until = time.monotonic() + LINGER_S
            elif fds and not failure:
                _fork_template(config, socket.socket(fileno=fds[0]))


def _accept(listener: socket.socket, allowed_uid: int, hello: dict[str, Any]) -> socket.socket | None:
    """Take a connection, unless another user of the machine made it: the address is open to all."""
    client, _ = listener.accept()
    _, uid, _ = _CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if uid not in (0, allowed_uid):
        client.close()
        return None
    try:
        messages.send(client, hello)
    except OSError:  # gone already
        client.close()
        return None
    return client


def _fork_template(config: dict[str, Any], channel: socket.socket) -> None:
    # A thread's locks would be copied in whatever state they are.
    if threading.active_count() != 1 or len(os.listdir("/proc/self/task")) != 1:
        messages.send(channel, {"failed": "the zygote has threads; a preloaded module started one"})
    elif os.fork() == 0:
        status = 1
        try:
            namespaces.die_with_parent()
            template.run(config, channel)
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it was, the client is told
            messages.send(channel, {"failed": traceback.format_exc(limit=-3)[-2000:]})
        finally:
            os._exit(status)
    channel.close()


def _warm_up(config: dict[str, Any]) -> str | None:
    """Import and touch what programs need, so that forks share it; return what went wrong, if anything."""
    try:
        sys.argv[:] = [""]
        sys.executable = config["python"]
        os.environ.update(template.environment(config))
        with tempfile.TemporaryDirectory(prefix="e2b-jail-") as scratch:
            moved = dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR", "IPYTHONDIR", "XDG_CACHE_HOME"), scratch)
            os.environ.update(moved)
            shell.warm_up(tuple(config["preload"]))
            for name in moved:
                del os.environ[name]
        tempfile.tempdir = None
        seccomp.assemble(platform.machine())
        os.environ.update(template.environment(config))
        gc.collect()
        gc.freeze()  # collections in forks would otherwise write to, and so copy, every page
        hugepages.collapse()
    except BaseException:  # noqa: BLE001 - whatever it was, every client is told
        return traceback.format_exc(limit=-3)[-2000:]
    return None
