"""The entry point of the jail server: ``python -I -S boot.py CONFIG LISTENER DIRECTORY``, three file descriptors.

It is started by path, in an empty environment and with the rights of the host. It leaves the host's session and, as
root, becomes an unprivileged user that can nevertheless reach the interpreter's files, wherever they are. Then it
imports the rest without importing the ``actors`` package itself, which would bring in Ray and its threads.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    config_fd, listener_fd, directory_fd = map(int, sys.argv[1:4])
    _find_jail()
    from actors.backends.jail.kernel import executable

    executable.seal()
    server = os.fork()
    if server:
        # Both must be nobody's children: a Ray worker that ends takes its children along.
        _leave_janitor(server, directory_fd)
        os._exit(0)
    try:
        os.close(directory_fd)
        _become_jail_server(config_fd, listener_fd)
    except BaseException:  # noqa: BLE001 - whatever it was, whoever waits is told
        import traceback

        _refuse(listener_fd, traceback.format_exc(limit=-3)[-2000:])


def _leave_janitor(server: int, directory_fd: int) -> None:
    from actors.backends.jail.spawn import janitor

    ended = os.pidfd_open(server)
    if os.fork() == 0:
        try:
            janitor.wait_and_sweep(ended, directory_fd)
        finally:
            os._exit(0)


def _become_jail_server(config_fd: int, listener_fd: int) -> None:
    os.setsid()
    os.chdir("/")
    os.umask(0o022)
    from actors.backends.jail.kernel import heap

    with heap.laid_out():
        import json

        with os.fdopen(config_fd, "rb") as file:
            config: dict[str, Any] = json.loads(file.read())
        sys.path[:] = config["sys_path"]
        from actors.backends.jail.kernel import identities, oom, privileges, process_limits
        from actors.backends.jail.spawn import jail_server

    oom.be_killed_after_programs()
    process_limits.raise_for_service()
    identity_range = None
    if os.geteuid() == 0:
        if "identity" not in config["without"]:
            identity_range = identities.reserve(config["uid"])
        privileges.become_unprivileged(config["uid"], [*config["prefixes"], config["package"], config["bwrap"]])
    jail_server.serve(config, listener_fd, identity_range)


def _find_jail() -> None:
    """Make the jail's modules importable, without the code of the packages that they are in."""
    path = os.path.dirname(os.path.dirname(__file__))
    for name in ("actors.backends.jail", "actors.backends", "actors"):
        module = type(sys)(name)
        module.__path__ = [path]
        sys.modules[name] = module
        path = os.path.dirname(path)


def _refuse(listener_fd: int, reason: str) -> None:
    """Tell the host that is connecting why there will be no jail server."""
    import json
    import socket

    listener = socket.socket(fileno=listener_fd)
    listener.settimeout(5.0)
    client, _ = listener.accept()
    client.send(json.dumps({"failed": reason}).encode())


if __name__ == "__main__":
    main()
