"""Inside a jail: the template that forks interpreters, and how each confines itself before it runs anything.

A template never runs a program. Each interpreter is the first process of a pid namespace of its own, with its own
mounts, so it cannot see the template, another run, or anything that a run before it left.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import sys
from typing import Any

from . import frames, seccomp, syscalls
from .policy import WORKSPACE

STDIN, STDOUT, STDERR, CONTROL = 0, 1, 2, 3
_NOFILE = 1024
_MIB = 2**20


def enter(keeper_pid: int) -> None:
    """Move this process into the namespaces of a jail, all but the pid namespace for what it forks next."""
    fd = os.pidfd_open(keeper_pid)
    everything = (
        syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC
        | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWCGROUP | syscalls.CLONE_NEWPID
    )  # fmt: skip
    syscalls.setns(fd, everything)
    os.close(fd)


def serve(channel: socket.socket, filter_code: bytes) -> None:
    """Fork an interpreter for every request on the channel, until its other end closes."""
    own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    own = os.pidfd_open(os.getpid())
    frames.send_with_fds(channel, {"ok": True}, [own])
    os.close(own)
    while True:
        request, fds = frames.receive_with_fds(channel)
        if request is None:
            return
        # A process that is forked now is the first of a new namespace; the next request needs another one.
        syscalls.unshare(syscalls.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            _become_interpreter(request["limits"], fds, filter_code)
        syscalls.setns(own_pid_namespace, syscalls.CLONE_NEWPID)
        for fd in fds:
            os.close(fd)
        handle = os.pidfd_open(pid)
        frames.send_with_fds(channel, {"ok": True}, [handle])
        os.close(handle)


def _become_interpreter(limits: dict[str, Any], fds: list[int], filter_code: bytes) -> None:
    """Never returns."""
    try:
        fds = [os.dup(fd) for fd in fds] if min(fds) > CONTROL else fds
        for target, fd in zip((STDIN, STDOUT, STDERR, CONTROL), fds, strict=True):
            os.dup2(fd, target, inheritable=target != CONTROL)
        os.closerange(CONTROL + 1, 4096)
        _confine(limits, filter_code)
        from . import interpreter  # imported already, in the zygote

        interpreter.main(CONTROL)
    except BaseException as error:  # noqa: BLE001  # said to the supervisor: this process has no other voice
        frames.write(CONTROL, {"kind": "failed", "error": f"{type(error).__name__}: {error}"})
    finally:
        os._exit(0)


def _confine(limits: dict[str, Any], filter_code: bytes) -> None:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    # The template is not: here, in a pid namespace of its own, nobody but itself could look.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC)
    harmless = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount("proc", "/proc", "proc", harmless | syscalls.MS_NOEXEC)
    size = f"size={limits['disk_mib']}m,nr_inodes=65536,mode=0700"
    for path in (WORKSPACE, "/tmp", "/dev/shm"):  # noqa: S108
        syscalls.mount("tmpfs", path, "tmpfs", harmless, size)
    os.chdir(WORKSPACE)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _set_limits(limits)
    syscalls.drop_all_capabilities()
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(filter_code)
    _reseed()


def _set_limits(limits: dict[str, Any]) -> None:
    def limit(what: int, value: int) -> None:
        resource.setrlimit(what, (value, value))

    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_NOFILE, _NOFILE)
    limit(resource.RLIMIT_NPROC, limits["processes"])
    limit(resource.RLIMIT_CPU, max(1, int(limits["cpu_s"]) + 1))
    limit(resource.RLIMIT_MEMLOCK, 0)
    limit(resource.RLIMIT_MSGQUEUE, 0)
    if not limits["cgroup"]:
        # Beyond what it was forked with.
        pages = [int(field) * resource.getpagesize() for field in open("/proc/self/statm").read().split()]
        limit(resource.RLIMIT_AS, limits["memory_mib"] * _MIB + pages[0])
        limit(resource.RLIMIT_DATA, limits["memory_mib"] * _MIB + pages[5])


def _reseed() -> None:
    """Forks share their parent's random state; every run starts from its own."""
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
