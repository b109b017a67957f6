"""The warmed-up process in each jail whose forks are its inmates: interpreters, and the attendants of sessions.

Forked from a mould, never runs a program itself, and stays outside the pid namespaces of the cells, so that no program
can see it, let alone the next program's interpreter. An inmate is its child, and yet a member of its cell's pid
namespace; so it is this process that learns how an inmate ended, and tells the cell's process 1.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import traceback

from actors.backends.jail import fork_protocol, messages
from actors.backends.jail.inside import guest_agent
from actors.backends.jail.inside.interpreter import Interpreter
from actors.backends.jail.inside.lockdown import Lockdown
from actors.backends.jail.kernel import bwrap, namespaces
from actors.backends.jail.spawn import prototype

_PROTOCOL = 3


class Template:
    """An interpreter that is ready in its mould, and all that its forks need to know."""

    def __init__(self, interpreter: Interpreter, without: frozenset[str]) -> None:
        self._interpreter, self._lockdown = interpreter, Lockdown(without)
        self._poll = select.poll()
        self._children: dict[int, tuple[int, socket.socket]] = {}

    def run(self, spaces: list[int], channel: socket.socket) -> None:
        """Step into a jail's namespaces, then fork inmates there until its keeper is gone."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignoring it would lose how a child ended
        messages.send(channel, {"pid": os.getpid()})
        prototype.enter(spaces)
        for space in spaces:
            os.close(space)
        os.chdir("/")
        self._lockdown.begin()
        messages.send(channel, {"joined": True})
        self._poll.register(channel, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._children:
                    self._report(fd)
                    continue
                order = fork_protocol.take_order(channel)
                if order is None:
                    return
                self._fork(*order)

    def _fork(self, role: int, spaces: list[int], rules: list[int], files: list[int]) -> None:
        """Fork an inmate into a cell, whose process 1 has sent its namespaces and the inmate's files."""
        status = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, files.pop())
        try:
            namespaces.join_namespace(spaces[0], namespaces.CLONE_NEWPID)  # of children; this process stays
            pid = os.fork()
            if pid == 0:
                self._become_inmate(role, spaces, rules, files, status)
        except OSError as failure:
            with status, contextlib.suppress(OSError):  # else the cell has ended already
                fork_protocol.tell_failed(status, failure.errno or 0)
            return
        finally:
            for fd in (*spaces, *rules, *files):
                os.close(fd)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid, status
        self._poll.register(pidfd, select.POLLIN)

    def _report(self, pidfd: int) -> None:
        """Collect an inmate that has ended and tell its cell; one that is over wants to know nothing."""
        self._poll.unregister(pidfd)
        pid, status = self._children.pop(pidfd)
        os.close(pidfd)
        _, ended, used = os.wait4(pid, 0)
        with status, contextlib.suppress(OSError):
            fork_protocol.tell_ended(
                status, os.waitstatus_to_exitcode(ended), used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
            )

    def _become_inmate(
        self, role: int, spaces: list[int], rules: list[int], files: list[int], told: socket.socket
    ) -> None:
        status = 70
        try:
            namespaces.die_with_parent()
            namespaces.name_process("python")
            protocol, out, error = files
            os.dup2(out, 1)
            os.dup2(error, 2)
            for space in spaces[1:]:
                namespaces.join_namespace(space, 0)
            fork_protocol.tell_born(told, os.getpid())
            os.chdir(bwrap.HOME)
            self._lockdown.apply(rules, forkable=role == fork_protocol.FORKABLE)
            os.dup2(protocol, _PROTOCOL, inheritable=False)
            namespaces.close_from(_PROTOCOL + 1)
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, _PROTOCOL)
            if role == fork_protocol.ATTENDANT:
                guest_agent.serve(channel)
            else:
                self._interpreter.serve(channel)
            status = 0
        except BaseException:  # noqa: BLE001 - a forked process has nobody above it to tell
            os.write(2, traceback.format_exc(limit=-3).encode())
        finally:
            os._exit(status)
