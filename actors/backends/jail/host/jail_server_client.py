"""The host's side of the jail server: it finds or starts one, and has jails made."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from actors import directories
from actors.backends.jail import address, messages
from actors.backends.jail.host.image import fingerprint
from actors.errors import IsolationUnavailable, SandboxStartFailed

START_TIMEOUT_S = 60.0
RETRY_S = 0.02
_ATTEMPTS = 5


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
    """A connection to this machine's jail server for one image; while it is open the server stays."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self.build_tag: str = config["build_tag"]
        self._address = f"jail-{fingerprint(config)}{address.SUFFIX}"
        self._connection: socket.socket | None = None
        self._connecting = asyncio.Lock()
        self.pid = 0
        self.own_inodes = True
        """Whether jails see the machine's files through inodes of their own, once it is known."""
        self.started = False
        """Whether this object started the server rather than finding it."""

    @property
    def path(self) -> Path:
        """Where the server listens, while it runs."""
        return directories.runtime() / self._address

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
                connection = await self._reach()
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
                    self.own_inodes = hello["own_inodes"]
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

    async def _reach(self) -> socket.socket:
        """Return a connection to a server, started here if there is none, that may not yet answer.

        Raises:
            IsolationUnavailable: its address cannot be had, or it does not start.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                with directories.opened(directories.secure(directories.runtime())) as directory:
                    found = address.connect(directory, self._address)
                    return found or self._start(directory)
            except (BlockingIOError, FileNotFoundError):
                # Another is just starting one, many do at once, or the directory was just removed.
                await asyncio.sleep(RETRY_S)
            except OSError as error:
                raise IsolationUnavailable(
                    f"The jail server's address cannot be had: {error.filename or self._address}: {error.strerror}",
                    "Set XDG_RUNTIME_DIR to a directory of yours",
                ) from None
        raise IsolationUnavailable("The jail server's address cannot be had", "See whether the machine is overloaded")

    def _start(self, directory: int) -> socket.socket:
        """Listen at the address, which only one process can, and leave the listening socket to a new server."""
        try:
            with address.listen(directory, self._address) as listener:
                self._spawn(listener, directory)
        except IsolationUnavailable:
            with contextlib.suppress(BlockingIOError):  # then another removes it
                address.sweep(directory)
            raise
        self.started = True
        return address.connect(directory, self._address) or _closed()

    def _spawn(self, listener: socket.socket, directory: int) -> None:
        config_r, config_w = os.pipe()
        boot = Path(__file__).parents[1] / "spawn" / "boot.py"
        os.write(config_w, json.dumps(self._config).encode())  # some kilobytes: a pipe holds 64
        os.close(config_w)
        environment = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}
        environment["LANG"] = "C.UTF-8"  # as programs have it: Python looks at it only when it starts
        passed = config_r, listener.fileno(), directory
        argv = [self._config["python"], "-I", "-S", str(boot), *map(str, passed)]
        quiet = subprocess.DEVNULL
        # Returns when the first process has forked the jail server, some 15 ms.
        try:
            subprocess.run(
                argv,
                env=environment,
                pass_fds=passed,
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
    """Return a closed connection, as one to a server that ended at once."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    ours.setblocking(False)
    return ours
