"""The init of a container: process 1 of its pid namespace, which keeps the walls between one program and the next.

It is forked from the shim and keeps the shim's capabilities within the jail, but never runs a program, and no process
of a program can signal it, read its memory or outlive it. Before each interpreter it kills whatever is left in its pid
namespace and makes new mount, network and IPC namespaces. In a session's container further processes join the first:
other interpreters, and a guest agent. It ends when the host closes the control socket, or when the jail's shim or fork
server dies.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
import traceback
from dataclasses import dataclass
from typing import Any

from actors.backends.jail import fork_protocol, messages, process_names
from actors.backends.jail.inside import fork
from actors.backends.jail.kernel import bwrap, landlock, namespaces, network, process_tree
from actors.backends.jail.spawn import copies
from actors.backends.jail.spawn.mounts import mount_private, mount_proc, resize_private

# A network for each run: on a shared loopback a program could meet a session's server, or the last program's ports.
_RENEWED = {"mnt": namespaces.CLONE_NEWNS, "ipc": namespaces.CLONE_NEWIPC, "net": namespaces.CLONE_NEWNET}
_FILES_WRITTEN = ("/dev", "/proc")  # existing ones only
_NESTED = (
    namespaces.CLONE_NEWUSER
    | namespaces.CLONE_NEWPID
    | namespaces.CLONE_NEWNS
    | namespaces.CLONE_NEWIPC
    | namespaces.CLONE_NEWNET
)
_PAUSE_S = 0.0002


def serve(control: socket.socket, fork_server: socket.socket, prefixes: list[str], without: frozenset[str]) -> None:
    """Be the init of a new container until it is to end, which it does when this process does."""
    namespaces.name_process(process_names.INIT)
    namespaces.close_all_except({0, 1, 2, control.fileno(), fork_server.fileno()})
    mount_proc()
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    messages.send(control, {"made": True}, [proc])
    os.close(proc)
    _Init(control, fork_server, prefixes, without).serve()


@dataclass(slots=True)
class _Process:
    """A process in the container, by the number that the host gave it."""

    number: int
    pid: int = 0
    """Its pid in the container; 0 until it has started."""


class _Init:
    """Obeys the host, has the fork server fork processes, and passes on what becomes of them."""

    def __init__(
        self,
        control: socket.socket,
        fork_server: socket.socket,
        prefixes: list[str],
        without: frozenset[str],
        *,
        shared: bool = False,
    ) -> None:
        self._control, self._fork_server, self._prefixes, self._without = control, fork_server, prefixes, without
        self._renewed = {name: flag for name, flag in _RENEWED.items() if name != "net" or "network" not in without}
        self._bounded = "disk" not in without
        # Without Landlock the mounts alone must hold, and the self-test says whether they do.
        self._ruled = "landlock" not in without and landlock.supported_version() > 0
        self._base = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        self._processes: dict[socket.socket | int, _Process] = {}
        """Each process by the socket of its fork server's events; one that forked itself by its pidfd."""
        self._shared = shared
        self._wake_r, wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(wake_w, False)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Obey the host until it closes the control socket, or the fork server ends."""
        while True:
            watched: list[socket.socket | int] = [self._control, self._wake_r, *self._processes]
            ready, _, _ = select.select(watched, [], [])
            if self._wake_r in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_r, 4096)
                _collect_orphans()
            # The event of one process may have others forgotten.
            for source in [source for source in self._processes if source in ready]:
                if source in self._processes and not self._take_event(source):
                    return
            if self._control in ready:
                request, fds = messages.receive(self._control)
                if request is None:
                    return
                self._obey(request, fds)

    def _obey(self, request: dict[str, Any], fds: list[int]) -> None:
        match request["op"]:
            case "renew":
                self._clear()
                messages.send(self._control, {"cleared": True, "number": request["number"]})
                self._build(request["disk_mib"])
                self._start(request["role"], request["number"], fds)
            case "share":
                self._shared = True
            case "start":
                self._start(request["role"], request["number"], fds)
            case "interrupt" if pid := self._pid(request["number"]):
                process_tree.interrupt_family(pid)
            case "kill" if pid := self._pid(request["number"]):
                process_tree.kill_family(pid)
            case "nest":
                self._nest(socket.socket(fileno=fds[0]), request["disk_mib"])
            case "adopt":
                self._adopt(request["number"])
            case "kill_outer":
                process_tree.kill_outer()
            case "freeze":
                process_tree.stop_outer()
            case "thaw":
                process_tree.continue_outer()
            case "resize":
                if self._bounded:
                    resize_private(request["disk_mib"])
                messages.send(self._control, {"resized": True})

    def _pid(self, number: int) -> int:
        return next((process.pid for process in self._processes.values() if process.number == number), 0)

    def _clear(self) -> None:
        """Kill every other process in the container; when this returns none is left, nor a zombie."""
        while _signal_all(signal.SIGKILL):
            # The fork server reaps its children and says so; all others are this process's to reap.
            while self._processes:
                if not self._take_event(next(iter(self._processes)), pass_on=False):
                    raise RuntimeError("the fork server has ended")
            if not _collect_orphans():
                time.sleep(_PAUSE_S)
        for source in self._processes:
            _close(source)  # what it still has to say comes too late to matter
        self._processes.clear()

    def _build(self, disk_mib: int) -> None:
        """Make the namespaces and places to write of the next interpreter."""
        namespaces.join_namespace(self._base, namespaces.CLONE_NEWNS)  # away from the last run's places to write
        namespaces.unshare(sum(self._renewed.values()))
        mount_private(disk_mib if self._bounded else None, self._prefixes)
        if "net" in self._renewed:
            namespaces.raise_loopback()
            network.bound_buffers()
        with contextlib.suppress(OSError), open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write("1")  # so that not even pids tell of earlier runs

    def _start(self, role: int, number: int, files: list[int]) -> None:
        """Have the fork server fork a process into this container, with its files: protocol, output and errors."""
        spaces = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in ("pid", *self._renewed)]
        events, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._processes[events] = _Process(number)
        # A guest agent's commands may signal what programs have started.
        scoped = role != fork_protocol.GUEST_AGENT
        ruled = self._ruled and role != fork_protocol.FORKABLE
        rules = [landlock.writing(bwrap.PRIVATE, _FILES_WRITTEN, scoped=scoped)] if ruled else []
        fork_protocol.send_request(self._fork_server, role, spaces, rules, [*files, theirs.fileno()])
        theirs.close()
        for fd in (*spaces, *rules, *files):
            os.close(fd)

    def _take_event(self, source: socket.socket | int, pass_on: bool = True) -> bool:
        """Take the next event of a process, and pass it on to the host; False when the fork server is gone."""
        process = self._processes[source]
        if isinstance(source, int):
            select.select([source], [], [])
            event: dict[str, Any] | None = {"gone": True}
        else:
            event = fork_protocol.receive_event(source)
        if event is None:
            return False
        if "started" in event:
            process.pid = event["started"]
        else:
            del self._processes[source]
            _close(source)
            if pass_on and not self._shared:
                self._clear()  # what it has started ends with it
        if pass_on:
            messages.send(self._control, {**event, "number": process.number})
        return True

    def _nest(self, control: socket.socket, disk_mib: int) -> None:
        """Make a container within this one, with a copy of its files, for a fork of its interpreter."""
        ids = os.getuid(), os.getgid()
        pid, pidfd = namespaces.fork_into(_NESTED)
        if pid == 0:
            status = 1
            try:
                namespaces.die_with_parent()
                self._become_nested(control, ids, disk_mib)
                status = 0
            except BaseException:  # noqa: BLE001 - whatever it was, the host is told
                messages.send(control, {"failed": traceback.format_exc(limit=-3)[-2000:]})
            finally:
                os._exit(status)
        control.close()
        messages.send(self._control, {"nested": True}, [pidfd])
        os.close(pidfd)

    def _become_nested(self, control: socket.socket, ids: tuple[int, int], disk_mib: int) -> None:
        signal.set_wakeup_fd(-1)
        namespaces.close_all_except({0, 1, 2, control.fileno(), self._fork_server.fileno()})
        namespaces.set_dumpable(True)  # to describe itself
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{ids[0]} {ids[0]} 1"),
            ("gid_map", f"{ids[1]} {ids[1]} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        namespaces.set_dumpable(False)
        mount_proc()
        sources = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in bwrap.PRIVATE]
        mount_private(disk_mib if self._bounded else None, self._prefixes)
        for source, path in zip(sources, bwrap.PRIVATE, strict=True):
            copies.copy_tree(source, path)
            os.close(source)
        namespaces.raise_loopback()
        network.bound_buffers()
        given = [os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)]
        given += [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in fork.SPACES]
        messages.send(control, {"made": True}, given)
        for fd in given:
            os.close(fd)
        _Init(control, self._fork_server, self._prefixes, self._without, shared=True).serve()

    def _adopt(self, number: int) -> None:
        """Take in the interpreter that has forked itself into this container, if it is locked as any other would be."""
        found = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
        reason = fork.unfit(found) if len(found) == 1 else f"{len(found)} processes where one was to be"
        if reason is not None:
            messages.send(self._control, {"failed": reason, "number": number})
            return
        pid = int(found[0])
        self._processes[os.pidfd_open(pid)] = _Process(number, pid)
        messages.send(self._control, {"started": pid, "number": number})


def _close(source: socket.socket | int) -> None:
    if isinstance(source, int):
        os.close(source)
    else:
        source.close()


def _signal_all(number: signal.Signals) -> bool:
    """Send every other process in this pid namespace a signal; False when there is none, not even a zombie."""
    try:
        os.kill(-1, number)
    except ProcessLookupError:
        return False
    return True


def _collect_orphans() -> bool:
    """Reap every child that has ended; True if there was one."""
    found = False
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            found = True
    return found
