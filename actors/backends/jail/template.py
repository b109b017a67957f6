"""The warmed-up process in each jail whose forks are its interpreters.

Forked from a mould, never runs a program itself, and stays outside the pid namespaces of the cells, so that no program
can see it, let alone the next program's interpreter. An interpreter is its child, and yet a member of its cell's pid
namespace; so it is this process that learns how an interpreter ended, and tells the cell's process 1.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import traceback

from actors.backends.jail import interpreter, lockdown, messages, namespaces


def run(channel: socket.socket, without: frozenset[str]) -> None:
    """Step into the jail when its keeper has built it, then fork interpreters until the keeper is gone."""
    namespaces.name_process("jail-template")
    namespaces.set_dumpable(False)
    namespaces.close_all_except({0, 1, 2, channel.fileno()})
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignoring it would lose how a child ended
    messages.send(channel, {"pid": os.getpid()})
    message, _ = messages.receive(channel)
    if message is None:
        return
    namespaces.join_namespaces(message["join"], namespaces.JAIL)
    lockdown.prepare()
    os.chdir("/")
    messages.send(channel, {"joined": True})
    children: dict[int, tuple[int, socket.socket]] = {}
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd in children:
                poll.unregister(fd)
                _report(fd, *children.pop(fd))
                continue
            message, fds = messages.receive(channel)
            if message is None:
                return
            pidfd, child = _fork(fds, without)
            if child is not None:
                children[pidfd] = child
                poll.register(pidfd, select.POLLIN)


def _fork(fds: list[int], without: frozenset[str]) -> tuple[int, tuple[int, socket.socket] | None]:
    """Fork an interpreter into a cell, whose process 1 has sent its namespaces and the interpreter's files."""
    *spaces, protocol, out, error, report = fds
    status = socket.socket(fileno=report)
    try:
        namespaces.join_namespace(spaces[0], namespaces.CLONE_NEWPID)  # of children; this process stays where it is
        pid = os.fork()
        if pid == 0:
            _become_interpreter(spaces[1:], protocol, out, error, status, without)
    except OSError as failure:
        with status, contextlib.suppress(OSError):  # else the cell has ended already
            messages.send(status, {"failed": str(failure)})
        return -1, None
    finally:
        for fd in fds[:-1]:
            os.close(fd)
    return os.pidfd_open(pid), (pid, status)


def _report(pidfd: int, pid: int, status: socket.socket) -> None:
    """Collect an interpreter that has ended and tell its cell; one that is over wants to know nothing."""
    os.close(pidfd)
    _, ended, used = os.wait4(pid, 0)
    with status, contextlib.suppress(OSError):
        messages.send(
            status,
            {
                "ended": os.waitstatus_to_exitcode(ended),
                "cpu_s": used.ru_utime + used.ru_stime,
                "peak_mib": used.ru_maxrss / 1024,
            },
        )


def _become_interpreter(
    spaces: list[int], protocol: int, out: int, error: int, status_channel: socket.socket, without: frozenset[str]
) -> None:
    status = 70
    try:
        namespaces.die_with_parent()
        namespaces.name_process("python")
        for space in spaces:
            namespaces.join_namespace(space, 0)
        messages.send(status_channel, {"born": os.getpid()})
        status_channel.detach()  # closed with everything else
        null = os.open("/dev/null", os.O_RDONLY)
        for fd, place in ((null, 0), (out, 1), (error, 2)):
            os.dup2(fd, place, inheritable=True)
        namespaces.close_all_except({0, 1, 2, protocol})
        os.chdir(os.environ["HOME"])
        lockdown.apply(without)
        interpreter.run(socket.socket(fileno=protocol))
        status = 0
    except BaseException:  # noqa: BLE001 - a forked process has nobody above it to tell
        os.write(2, traceback.format_exc(limit=-3).encode())
    finally:
        os._exit(status)
