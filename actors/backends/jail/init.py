"""Process 1 of a run: sets its walls, forks the interpreter, watches it and, by ending, ends everything with it.

It never runs the program. No process of the program can signal it, read its memory or outlive it. It ends when its
supervisor closes the control socket, when the interpreter ends, or when the jail's template dies.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import traceback
from typing import Any

from actors.backends.jail import accounts, bwrap, interpreter, lockdown, messages, namespaces

TICK_S = 0.25
"""How often limits that no cgroup watches are looked at."""
_INODES_PER_MIB = 64
_MIN_INODES = 4096


def run(control_fd: int, protocol_fd: int, out_fd: int, error_fd: int, disk_mib: int, prefixes: list[str]) -> None:
    """Serve one run to its end; returning ends it."""
    namespaces.close_all_except({control_fd, protocol_fd, out_fd, error_fd})
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0, inheritable=True)
    os.dup2(out_fd, 1, inheritable=True)
    os.dup2(error_fd, 2, inheritable=True)
    mount_private(disk_mib, prefixes)
    namespaces.raise_loopback()
    os.chdir(bwrap.HOME)
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_r, False)
    os.set_blocking(wake_w, False)
    pid = os.fork()
    if pid == 0:
        _become_interpreter(protocol_fd)
    for fd in (protocol_fd, out_fd, error_fd):
        os.close(fd)
    os.dup2(null, 1)
    os.dup2(null, 2)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    _Watch(socket.socket(fileno=control_fd), pid, wake_r).run()


def mount_private(disk_mib: int, prefixes: list[str], remount: bool = False) -> None:
    """Give this run its own /proc and empty places to write, each of ``disk_mib``; or change their size."""
    flags = namespaces.MS_NOSUID | namespaces.MS_NODEV
    if remount:
        flags |= namespaces.MS_REMOUNT
    else:
        namespaces.mount("proc", "/proc", "proc", flags | namespaces.MS_NOEXEC)
    inodes = max(_MIN_INODES, disk_mib * _INODES_PER_MIB)
    for path in bwrap.PRIVATE:
        # A Python that is installed below a private place must not vanish with it.
        below = [prefix for prefix in prefixes if prefix.startswith(path + "/")]
        covered = [(prefix, os.open(prefix, os.O_PATH)) for prefix in below]
        namespaces.mount("tmpfs", path, "tmpfs", flags, f"mode=0700,size={disk_mib}m,nr_inodes={inodes}")
        for prefix, fd in covered:
            os.makedirs(prefix)
            namespaces.mount(f"/proc/self/fd/{fd}", prefix, "", namespaces.MS_BIND)
            os.close(fd)


def _become_interpreter(protocol_fd: int) -> None:
    status = 70
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        namespaces.close_all_except({0, 1, 2, protocol_fd})
        namespaces.die_with_parent()
        lockdown.apply()
        interpreter.run(socket.socket(fileno=protocol_fd))
        status = 0
    except BaseException:  # noqa: BLE001 - a forked process has nobody above it to tell
        os.write(2, traceback.format_exc(limit=-3).encode())
    finally:
        os._exit(status)


class _Watch:
    """Between the supervisor and the interpreter."""

    def __init__(self, control: socket.socket, pid: int, wake_r: int) -> None:
        self._control, self._pid, self._wake_r = control, pid, wake_r
        self._limits: dict[str, Any] | None = None
        self._used_before_s = 0.0
        self._base_mib = 0.0

    def run(self) -> None:
        while True:
            timeout = TICK_S if self._limits else None
            ready, _, _ = select.select([self._control.fileno(), self._wake_r], [], [], timeout)
            if self._wake_r in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_r, 4096)
                if not self._reap():
                    return
            if self._control.fileno() in ready:
                message, _ = messages.receive(self._control)
                if message is None:
                    return
                self._obey(message)
            elif self._limits and not ready:
                self._tick(self._limits)

    def _obey(self, message: dict[str, Any]) -> None:
        match message["op"]:
            case "interrupt":
                os.kill(self._pid, signal.SIGINT)
            case "begin":
                if message["disk_mib"] is not None:
                    mount_private(message["disk_mib"], [], remount=True)
                self._limits = message
                self._used_before_s = accounts.cpu_s()
                self._base_mib = accounts.restart_peak(self._pid)
                messages.send(self._control, {"begun": True})
            case "end":
                self._limits = None
                messages.send(self._control, self._usage())

    def _usage(self) -> dict[str, Any]:
        peak_mib = max(0.0, accounts.peak_mib(self._pid) - self._base_mib)
        return {"cpu_s": accounts.cpu_s() - self._used_before_s, "peak_mib": peak_mib}

    def _tick(self, limits: dict[str, Any]) -> None:
        if accounts.cpu_s() - self._used_before_s > limits["cpu_s"]:
            self._limits = None
            messages.send(self._control, {"exceeded": "cpu"})
        elif (
            limits["watch_memory"] and accounts.memory_mib(limits["memory_mib"]) > limits["memory_mib"] + self._base_mib
        ):
            self._limits = None
            messages.send(self._control, {"exceeded": "memory"})

    def _reap(self) -> bool:
        """Collect the dead; tell the supervisor, and return False, when the interpreter is among them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return True
            if pid == self._pid:
                messages.send(self._control, {"exit": os.waitstatus_to_exitcode(status), **self._usage()})
                return False
