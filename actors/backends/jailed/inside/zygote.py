"""The zygote: one process per node and image, outside the jails, from which every interpreter is forked.

It has imported what programs import, runs no program, has an empty environment and no privileges, and ends with its
last client. This package imports nothing of the rest, which would only make every fork dearer.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from . import frames, policy, seccomp, syscalls, template

LINGER_S = 1.0
"""It stays so long after its last client went: the next one often follows at once."""


def reach(paths: list[str]) -> None:
    """Make directories that an unprivileged user could not reach reachable, in a mount namespace of this process's own.

    A private directory on the way (a root's home) is covered by an empty one that holds only what is needed.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    covered: dict[str, list[str]] = {}
    for path in paths:
        for parent in [*reversed(Path(path).parents), Path(path)]:
            if parent.stat().st_mode & 0o001 == 0:
                covered.setdefault(str(parent), []).append(path)
                break
    for private, needed in covered.items():
        held = [(path, os.open(path, os.O_PATH | os.O_DIRECTORY)) for path in needed]
        syscalls.mount("tmpfs", private, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0755,size=1m")
        for path, fd in held:
            os.makedirs(path, exist_ok=True)
            syscalls.mount(f"/proc/self/fd/{fd}", path, None, syscalls.MS_BIND | syscalls.MS_REC)
            os.close(fd)


def drop_privileges(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


class Jail:
    """A bubblewrap, the keeper that holds its namespaces open, and the template that forks in them."""

    def __init__(self, options: dict[str, Any], filter_code: bytes, channel: socket.socket) -> None:
        self.bwrap_pid, self.template_pid = 0, 0
        info_read, info_write = os.pipe()
        keeper_read, keeper_write = os.pipe()
        echo_read, echo_write = os.pipe()
        texts = [_memory_file(text) for text in (options["build_tag"], policy.PASSWD, policy.GROUP)]
        arguments = policy.argv(options["bwrap"], options["prefixes"], info_write, *texts)
        self.bwrap_pid = os.fork()
        if self.bwrap_pid == 0:
            with contextlib.suppress(BaseException):
                os.dup2(keeper_read, 0)
                os.dup2(echo_write, 1)
                for fd in (info_write, *texts):
                    os.set_inheritable(fd, True)
                os.execve(arguments[0], arguments, {})
            os._exit(127)
        for fd in (info_write, keeper_read, echo_write, *texts):
            os.close(fd)
        try:
            keeper_pid = int(json.loads(_read_all(info_read))["child-pid"])
            os.write(keeper_write, b"x")
            if os.read(echo_read, 1) != b"x":
                raise OSError("the keeper did not start")
            self.template_pid = _fork_template(keeper_pid, channel, keeper_write, filter_code)
        except (OSError, ValueError, KeyError) as error:
            self.end()
            raise OSError(f"bubblewrap did not make a jail: {error}") from None
        finally:
            for fd in (info_read, echo_read, keeper_write):
                os.close(fd)

    def end(self) -> None:
        """Kill everything in it: its pid namespace ends with its first process, and that with bubblewrap."""
        if self.bwrap_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.bwrap_pid, signal.SIGKILL)
            os.waitpid(self.bwrap_pid, 0)
            self.bwrap_pid = 0


def _fork_template(keeper_pid: int, channel: socket.socket, keeper_write: int, filter_code: bytes) -> int:
    """Fork twice, since joining a pid namespace counts for children only; returns the template's pid."""
    pid_read, pid_write = os.pipe()
    middle = os.fork()
    if middle == 0:
        status = 1
        try:
            template.enter(keeper_pid)
            if os.fork() == 0:
                syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
                # What the template holds: its channel and the keeper's life.
                kept = sorted({channel.fileno(), keeper_write, 0, 1, 2, pid_write})
                for low, high in zip([-1, *kept], [*kept, 4096], strict=True):
                    if low + 1 < high:  # an empty range would mean all
                        os.closerange(low + 1, high)
                os.write(pid_write, b"r")
                os.close(pid_write)
                template.serve(channel, filter_code)
                os._exit(0)
            status = 0
        except OSError as error:
            print(f"template: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    os.close(pid_write)
    _, status = os.waitpid(middle, 0)
    ready = os.read(pid_read, 1)
    os.close(pid_read)
    if status or ready != b"r":
        raise OSError("the template could not enter the jail's namespaces")
    return middle


class Server:
    """Clients over one SEQPACKET socket each; a client's jails end with its connection."""

    def __init__(self, listener: socket.socket, options: dict[str, Any], filter_code: bytes) -> None:
        self._listener, self._options, self._filter_code = listener, options, filter_code
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._jails: dict[socket.socket, dict[str, Jail]] = {}

    def serve(self) -> None:
        idle_since = time.monotonic()
        while self._jails or time.monotonic() - idle_since < LINGER_S:
            for key, _ in self._selector.select(0.2):
                if key.fileobj is self._listener:
                    client, _ = self._listener.accept()
                    self._jails[client] = {}
                    self._selector.register(client, selectors.EVENT_READ)
                else:
                    self._handle(key.fileobj)  # type: ignore[arg-type]
            if self._jails:
                idle_since = time.monotonic()

    def _handle(self, client: socket.socket) -> None:
        try:
            request, fds = frames.receive_with_fds(client)
        except ConnectionError:
            request, fds = None, []
        if request is None:
            self._selector.unregister(client)
            for jail in self._jails.pop(client).values():
                jail.end()
            client.close()
            return
        answer: dict[str, Any]
        try:
            if request["op"] == "create":
                answer = self._create(client, request["jail"], fds)
            elif request["op"] == "end":
                if (jail := self._jails[client].pop(request["jail"], None)) is not None:
                    jail.end()
                answer = {"ok": True}
            else:
                answer = {"ok": True, "modules": self._options["imported"]}
        except OSError as error:
            answer = {"ok": False, "error": str(error), "errno": error.errno}
        finally:
            for fd in fds:
                os.close(fd)
        with contextlib.suppress(ConnectionError):
            frames.send_with_fds(client, answer, [])

    def _create(self, client: socket.socket, name: str, fds: list[int]) -> dict[str, Any]:
        channel = socket.socket(fileno=os.dup(fds[0]))
        try:
            jail = Jail(self._options, self._filter_code, channel)
        finally:
            channel.close()
        self._jails[client][name] = jail
        return {"ok": True, "bwrap_pid": jail.bwrap_pid}


def _memory_file(text: str) -> int:
    fd = os.memfd_create("policy")
    os.write(fd, text.encode())
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _read_all(fd: int) -> bytes:
    # Its JSON arrives in several writes.
    data = b""
    while part := os.read(fd, 4096):
        data += part
    return data


def main(options: dict[str, Any]) -> None:
    # Whoever started this may have blocked signals, and a program must hear its interrupt.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    listener = socket.socket(fileno=options["listener"])
    if options["uid"] is not None:
        reach(options["prefixes"])
        drop_privileges(options["uid"])
    imported = []
    for name in options["preload"]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
            imported.append(name)
    options["imported"] = imported
    from . import interpreter  # after the privileges are gone: IPython looks at the home directory

    interpreter.prepare()
    if len(os.listdir("/proc/self/task")) != 1:
        raise RuntimeError("the zygote has more than one thread, so it must not fork")
    Server(listener, options, seccomp.program()).serve()
