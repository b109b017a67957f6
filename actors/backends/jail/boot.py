"""First steps of the zygote: ``python -I -S boot.py CONFIG LISTENER``, both file descriptors.

Started by path, in an empty environment. Leaves its parent's session and, as root, becomes an unprivileged user that
can nevertheless reach the interpreter's files, wherever they are; then imports the rest without importing the
``actors`` package itself, which would bring in Ray and its threads.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
import types
from typing import Any


def main() -> None:
    config_fd, listener_fd = map(int, sys.argv[1:3])
    with os.fdopen(config_fd, "rb") as file:
        config = json.loads(file.read())
    if os.fork():
        os._exit(0)  # the zygote must be nobody's child: a Ray worker that ends takes its children along
    try:
        _become_zygote(config, listener_fd)
    except BaseException:  # noqa: BLE001 - whatever it was, whoever waits is told
        _refuse(listener_fd, traceback.format_exc(limit=-3)[-2000:])


def _become_zygote(config: dict[str, Any], listener_fd: int) -> None:
    os.setsid()
    os.chdir("/")
    os.umask(0o022)
    sys.path[:] = config["sys_path"]
    root = config["package"]
    for name in ("actors", "actors.backends", "actors.backends.jail"):
        module = types.ModuleType(name)
        module.__path__ = [os.path.join(root, *name.split(".")[1:])]
        sys.modules[name] = module
    from actors.backends.jail import privileges, zygote

    if os.geteuid() == 0:
        privileges.become_unprivileged(config["uid"], [*config["prefixes"], root, config["bwrap"]])
    zygote.serve(config, listener_fd)


def _refuse(listener_fd: int, reason: str) -> None:
    """Tell whoever is connecting why there will be no zygote."""
    listener = socket.socket(fileno=listener_fd)
    listener.settimeout(5.0)
    client, _ = listener.accept()
    client.send(json.dumps({"failed": reason}).encode())


if __name__ == "__main__":
    main()
