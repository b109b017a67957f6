"""The host's side of the jail server: it finds or starts one, and has jails made."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

from actors.backends.jail import messages
from actors.backends.jail.host.image import fingerprint
from actors.errors import IsolationUnavailable, SandboxStartFailed

START_TIMEOUT_S = 60.0
_ATTEMPTS = 5
_BACKLOG = 256
_CREDENTIALS = struct.Struct("3i")


async def receive(channel: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """Wait for one message with its descriptors on a socket that does not block; None when the other side is gone."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(BlockingIOError):
            return messages.receive(channel)
        readable = asyncio.Event()
        loop.add_reader(channel, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(channel)


class JailServerClient:
    """A connection to this machine's jail server for one image; while it is open the server stays.

    The address is an abstract socket: it vanishes with the server, so there is nothing to lock, sweep or leave behind.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self.build_tag: str = config["build_tag"]
        self._address = f"\0e2b-jail-{os.geteuid()}-{fingerprint(config)}"
        self._connection: socket.socket | None = None
        self._connecting = asyncio.Lock()
        self.pid = 0
        self.started = False
        """Whether this object started the server rather than finding it."""

    async def connect(self) -> socket.socket:
        """Return the connection; start the server if there is none.

        Raises:
            IsolationUnavailable: it does not start.
        """
        async with self._connecting:
            if self._connection is not None and _is_open(self._connection):
                return self._connection
            self.close()
            reason = "it ended at once"
            for _ in range(_ATTEMPTS):
                connection = self._open() or self._start()
                try:
                    async with asyncio.timeout(START_TIMEOUT_S):
                        hello, _ = await receive(connection)
                except TimeoutError:
                    connection.close()
                    raise IsolationUnavailable(
                        "The jail server does not answer", "See whether the machine is overloaded"
                    ) from None
                if hello is not None and "pid" in hello:
                    self._connection, self.pid = connection, hello["pid"]
                    return connection
                connection.close()
                reason = hello["failed"] if hello else reason
                if hello:
                    break
            raise IsolationUnavailable(
                f"The jail server does not start: {reason}", "Check the packages named in jail.preload"
            )

    async def make_jail(self, kinds: list[str]) -> socket.socket:
        """Ask for a jail with fork servers of these kinds; return the socket of its shim, which does not block.

        Raises:
            SandboxStartFailed, IsolationUnavailable: there is none.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            for _ in range(_ATTEMPTS):
                try:
                    messages.send(await self.connect(), {"op": "jail", "kinds": kinds}, [theirs.fileno()])
                except OSError:  # it has ended between the look at it and the message
                    self.close()
                except IsolationUnavailable:
                    ours.close()
                    raise
                else:
                    return ours
        ours.close()
        raise SandboxStartFailed("the jail server keeps ending")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(self._address)
        except ConnectionRefusedError:
            connection.close()
            return None
        _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != os.geteuid():
            connection.close()
            raise IsolationUnavailable(
                f"User {uid} of this machine holds the jail server's address", "End that process"
            )
        connection.setblocking(False)
        return connection

    def _start(self) -> socket.socket:
        """Bind the address, which only one process can, and leave the listening socket to a new server."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            try:
                listener.bind(self._address)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                listener.listen(_BACKLOG)
                self._spawn(listener)
                self.started = True
        return self._open() or _closed()

    def _spawn(self, listener: socket.socket) -> None:
        config_r, config_w = os.pipe()
        boot = Path(__file__).parents[1] / "spawn" / "boot.py"
        os.write(config_w, json.dumps(self._config).encode())  # some kilobytes: a pipe holds 64
        os.close(config_w)
        environment = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}
        environment["LANG"] = "C.UTF-8"  # as programs have it: Python looks at it only when it starts
        argv = [self._config["python"], "-I", "-S", str(boot), str(config_r), str(listener.fileno())]
        quiet = subprocess.DEVNULL
        # Returns when the first process has forked the jail server, some 15 ms.
        try:
            subprocess.run(
                argv,
                env=environment,
                pass_fds=(config_r, listener.fileno()),
                stdin=quiet,
                stdout=quiet,
                stderr=quiet,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise IsolationUnavailable(f"Python does not start: {error}", "Check this interpreter") from error
        finally:
            os.close(config_r)


def _is_open(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _closed() -> socket.socket:
    """Return a closed connection, for another process is between binding the address and listening."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    ours.setblocking(False)
    return ours
