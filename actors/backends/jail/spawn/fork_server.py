"""A fork server: the warmed-up process of a jail whose forks are the interpreters and guest agents in its containers.

It is forked from a zygote and never runs a program itself. It is in the jail's user, mount, IPC, UTS and cgroup
namespaces, where it keeps the capabilities that it takes to enter containers; but it can gain no privileges, and all of
the system-call filter but the refusal of ``setns`` holds for it already. It stays outside the pid namespaces of
containers, so that no program can see it, let alone the next program's interpreter. What it forks is its child and yet
in a container's pid namespace; so it is the fork server that learns how a process ended, and tells the container's
init.
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
from actors.backends.jail.kernel import bwrap, identities, namespaces
from actors.backends.jail.spawn import prototype


class ForkServer:
    """What a zygote prepares and its forks serve: an interpreter that is ready, and the locks for its forks."""

    def __init__(self, interpreter: Interpreter, without: frozenset[str]) -> None:
        self._interpreter, self._lockdown = interpreter, Lockdown(without)
        self._poll = select.poll()
        self._children: dict[int, tuple[int, socket.socket]] = {}

    def serve(self, spaces: list[int], channel: socket.socket) -> None:
        """Enter a jail's namespaces, then fork processes into its containers until its shim is gone."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignoring it would lose how a child ended
        messages.send(channel, {"pid": os.getpid()})
        ids = os.getuid(), os.getgid()
        prototype.enter(spaces)
        identities.assume(*ids)
        for space in spaces:
            os.close(space)
        os.chdir("/")
        self._lockdown.begin()
        messages.send(channel, {"joined": True})
        self._poll.register(channel, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._children:
                    self._reap(fd)
                    continue
                request = fork_protocol.receive_request(channel)
                if request is None:
                    return
                self._fork(*request)

    def _fork(self, role: int, spaces: list[int], rules: list[int], files: list[int]) -> None:
        """Fork a process into a container, whose init has sent its namespaces and the process's files."""
        events = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, files.pop())
        try:
            namespaces.join_namespace(spaces[0], namespaces.CLONE_NEWPID)  # of children; this process stays
            pid = os.fork()
            if pid == 0:
                self._become_process(role, spaces, rules, files, events)
        except OSError as failure:
            with events, contextlib.suppress(OSError):  # suppressed: the container has ended already
                fork_protocol.send_failed(events, failure.errno or 0)
            return
        finally:
            for fd in (*spaces, *rules, *files):
                os.close(fd)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid, events
        self._poll.register(pidfd, select.POLLIN)

    def _reap(self, pidfd: int) -> None:
        """Collect a process that has ended, and tell the container's init."""
        self._poll.unregister(pidfd)
        pid, events = self._children.pop(pidfd)
        os.close(pidfd)
        _, status, used = os.wait4(pid, 0)
        with events, contextlib.suppress(OSError):  # suppressed: the container has ended already
            fork_protocol.send_ended(
                events, os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
            )

    def _become_process(
        self, role: int, spaces: list[int], rules: list[int], files: list[int], events: socket.socket
    ) -> None:
        try:
            namespaces.die_with_parent()
            os.setpgid(0, 0)  # else a program's signals to its process group would be for the fork server too
            namespaces.name_process("python")
            protocol, answers, out, error = files
            os.dup2(out, 1)
            os.dup2(error, 2)
            for space in spaces[1:]:
                namespaces.join_namespace(space, 0)
            fork_protocol.send_started(events, os.getpid())
            os.chdir(bwrap.HOME)
            self._lockdown.apply(rules, forkable=role == fork_protocol.FORKABLE)
            os.dup2(protocol, fork_protocol.CHANNEL, inheritable=False)
            os.dup2(answers, fork_protocol.ANSWERS, inheritable=False)
            namespaces.close_all_except({0, 1, 2, fork_protocol.ANSWERS, fork_protocol.CHANNEL})
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fork_protocol.CHANNEL)
            if role == fork_protocol.GUEST_AGENT:
                guest_agent.serve(channel, fork_protocol.ANSWERS)
            else:
                self._interpreter.serve(channel, fork_protocol.ANSWERS)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a forked process has nobody above it to tell
            with contextlib.suppress(OSError):
                os.write(2, traceback.format_exc(limit=-3).encode())
        finally:
            os.abort()  # no exit status, which would be taken for the program's
