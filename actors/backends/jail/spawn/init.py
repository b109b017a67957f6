"""Process 1 of a cell: a place in the jail where one interpreter after another lives, each in walls of its own.

It never runs a program. No process of a program can signal it, read its memory or outlive it. Before each interpreter
it kills whatever is left in its pid namespace and makes a new file system, network and IPC namespace. In a session's
cell further inmates join the first: other interpreters, and an attendant. It ends when its supervisor closes the
control socket, or when the jail's keeper or template dies.
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

from actors.backends.jail import fork_protocol, messages
from actors.backends.jail.inside import fork
from actors.backends.jail.kernel import bwrap, landlock, namespaces, process_tree
from actors.backends.jail.spawn import copies

_INODES_PER_MIB = 64
_MIN_INODES = 4096
# A network of each run's own: on a shared loopback a program could meet a session's server, or the last one's ports.
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


def run(control: socket.socket, template: socket.socket, prefixes: list[str], without: frozenset[str]) -> None:
    """Serve one cell to its end; returning ends it."""
    namespaces.name_process("jail-cell")
    namespaces.close_all_except({0, 1, 2, control.fileno(), template.fileno()})
    _mount_proc()
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    messages.send(control, {"cell": True}, [proc])
    os.close(proc)
    _Cell(control, template, prefixes, without).run()


def _mount_proc() -> None:
    namespaces.mount("proc", "/proc", "proc", namespaces.MS_NOSUID | namespaces.MS_NODEV | namespaces.MS_NOEXEC)


@dataclass(slots=True)
class _Inmate:
    """A process in the cell. Its template tells of it on a socket; of one that forked itself there is only a pidfd."""

    life: int
    pid: int = 0


class _Cell:
    """Between the supervisor, the template and the inmates."""

    def __init__(
        self, control: socket.socket, template: socket.socket, prefixes: list[str], without: frozenset[str]
    ) -> None:
        self._control, self._template, self._prefixes, self._without = control, template, prefixes, without
        self._renewed = {name: flag for name, flag in _RENEWED.items() if name != "net" or "network" not in without}
        self._bounded = "disk" not in without
        # Without Landlock the mounts alone must hold, and the self-test says whether they do.
        self._ruled = "landlock" not in without and landlock.supported_version() > 0
        self._base = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        self._inmates: dict[socket.socket | int, _Inmate] = {}
        self._shared = False
        self._wake_r, wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(wake_w, False)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        while True:
            watched: list[socket.socket | int] = [self._control, self._wake_r, *self._inmates]
            ready, _, _ = select.select(watched, [], [])
            if self._wake_r in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_r, 4096)
                _collect_orphans()
            # One may be forgotten while another is heard.
            for status in [status for status in self._inmates if status in ready]:
                if status in self._inmates and not self._hear(status):
                    return
            if self._control in ready:
                message, fds = messages.receive(self._control)
                if message is None:
                    return
                self._obey(message, fds)

    def _obey(self, message: dict[str, Any], fds: list[int]) -> None:
        match message["op"]:
            case "birth":
                self._clear()
                messages.send(self._control, {"cleared": True, "life": message["life"]})
                self._build(message["disk_mib"])
                self._order(message["role"], message["life"], fds)
            case "share":
                self._shared = True
            case "join":
                self._order(message["role"], message["life"], fds)
            case "interrupt" if pid := self._pid(message["life"]):
                os.kill(pid, signal.SIGINT)
            case "end" if pid := self._pid(message["life"]):
                process_tree.kill_family(pid)
            case "nest":
                self._nest(socket.socket(fileno=fds[0]), message["disk_mib"])
            case "adopt":
                self._adopt(message["life"])
            case "leave":
                process_tree.kill_outer()
            case "freeze":
                process_tree.stop_outer()
            case "thaw":
                process_tree.continue_outer()
            case "resize":
                if self._bounded:
                    mount_private(message["disk_mib"], [], remount=True)
                messages.send(self._control, {"resized": True})

    def _pid(self, life: int) -> int:
        return next((inmate.pid for inmate in self._inmates.values() if inmate.life == life), 0)

    def _clear(self) -> None:
        """Kill whatever lives here; when this returns nothing does."""
        while _signal_all(signal.SIGKILL):
            # An inmate is the template's child, which says when it has collected it; all others are this one's.
            while self._inmates:
                if not self._hear(next(iter(self._inmates)), tell=False):
                    raise RuntimeError("the template has ended")
            if not _collect_orphans():
                time.sleep(_PAUSE_S)
        for status in self._inmates:
            _close(status)  # its last word comes too late to matter
        self._inmates.clear()

    def _build(self, disk_mib: int) -> None:
        namespaces.join_namespace(self._base, namespaces.CLONE_NEWNS)  # away from the last run's places to write
        namespaces.unshare(sum(self._renewed.values()))
        mount_private(disk_mib if self._bounded else None, self._prefixes)
        if "net" in self._renewed:
            namespaces.raise_loopback()
        with contextlib.suppress(OSError), open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write("1")  # so that not even pids tell of earlier runs

    def _order(self, role: int, life: int, files: list[int]) -> None:
        """Have the template fork an inmate into this place, with its files: protocol, output and errors."""
        spaces = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in ("pid", *self._renewed)]
        status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._inmates[status] = _Inmate(life)
        # An attendant's commands may signal what programs have started.
        scoped = role != fork_protocol.ATTENDANT
        ruled = self._ruled and role != fork_protocol.FORKABLE
        rules = [landlock.writing(bwrap.PRIVATE, _FILES_WRITTEN, scoped=scoped)] if ruled else []
        fork_protocol.order(self._template, role, spaces, rules, [*files, theirs.fileno()])
        theirs.close()
        for fd in (*spaces, *rules, *files):
            os.close(fd)

    def _hear(self, status: socket.socket | int, tell: bool = True) -> bool:
        """Take the template's word of an inmate, and pass it on; False when the template is gone."""
        inmate = self._inmates[status]
        if isinstance(status, int):
            select.select([status], [], [])
            word: dict[str, Any] | None = {"gone": True}
        else:
            word = fork_protocol.hear(status)
        if word is None:
            return False
        if "born" in word:
            inmate.pid = word["born"]
        else:
            del self._inmates[status]
            _close(status)
            if tell and not self._shared:
                self._clear()  # what it has started is over with it
        if tell:
            messages.send(self._control, {**word, "life": inmate.life})
        return True

    def _nest(self, control: socket.socket, disk_mib: int) -> None:
        """Make a cell within this one, with a copy of its files, for a fork of its interpreter."""
        ids = os.getuid(), os.getgid()
        pid, pidfd = namespaces.fork_into(_NESTED)
        if pid == 0:
            status = 1
            try:
                namespaces.die_with_parent()
                self._become_nested(control, ids, disk_mib)
                status = 0
            except BaseException:  # noqa: BLE001 - whatever it was, the supervisor is told
                messages.send(control, {"failed": traceback.format_exc(limit=-3)[-2000:]})
            finally:
                os._exit(status)
        control.close()
        messages.send(self._control, {"nested": True}, [pidfd])
        os.close(pidfd)

    def _become_nested(self, control: socket.socket, ids: tuple[int, int], disk_mib: int) -> None:
        signal.set_wakeup_fd(-1)
        namespaces.close_all_except({0, 1, 2, control.fileno(), self._template.fileno()})
        namespaces.set_dumpable(True)  # to describe itself
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{ids[0]} {ids[0]} 1"),
            ("gid_map", f"{ids[1]} {ids[1]} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        namespaces.set_dumpable(False)
        _mount_proc()
        sources = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in bwrap.PRIVATE]
        mount_private(disk_mib if self._bounded else None, self._prefixes)
        for source, path in zip(sources, bwrap.PRIVATE, strict=True):
            copies.copy_tree(source, path)
            os.close(source)
        namespaces.raise_loopback()
        given = [os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)]
        given += [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in fork.SPACES]
        messages.send(control, {"cell": True}, given)
        for fd in given:
            os.close(fd)
        cell = _Cell(control, self._template, self._prefixes, self._without)
        cell._shared = True
        cell.run()

    def _adopt(self, life: int) -> None:
        """Take in the interpreter that has forked itself into here, if it is locked as any other would be."""
        found = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
        reason = fork.unfit(found) if len(found) == 1 else f"{len(found)} processes where one was to be"
        if reason is not None:
            messages.send(self._control, {"failed": reason, "life": life})
            return
        pid = int(found[0])
        self._inmates[os.pidfd_open(pid)] = _Inmate(life, pid)
        messages.send(self._control, {"born": pid, "life": life})


def _close(status: socket.socket | int) -> None:
    if isinstance(status, int):
        os.close(status)
    else:
        status.close()


def mount_private(disk_mib: int | None, prefixes: list[str], remount: bool = False) -> None:
    """Mount empty places to write, each of ``disk_mib``; or change their size. None is without bounds."""
    flags = namespaces.MS_NOSUID | namespaces.MS_NODEV
    if remount:
        flags |= namespaces.MS_REMOUNT
    options = "mode=0700"
    if disk_mib is not None:
        options += f",size={disk_mib}m,nr_inodes={max(_MIN_INODES, disk_mib * _INODES_PER_MIB)}"
    for path in bwrap.PRIVATE:
        # A Python that is installed below a private place must not vanish with it.
        below = [prefix for prefix in prefixes if prefix.startswith(path + "/")]
        covered = [(prefix, os.open(prefix, os.O_PATH)) for prefix in below]
        namespaces.mount("tmpfs", path, "tmpfs", flags, options)
        for prefix, fd in covered:
            os.makedirs(prefix)
            namespaces.mount(f"/proc/self/fd/{fd}", prefix, "", namespaces.MS_BIND)
            os.close(fd)


def _signal_all(number: signal.Signals) -> bool:
    """Send everything else in this pid namespace a signal; False when there is nothing, not even the unburied."""
    try:
        os.kill(-1, number)
    except ProcessLookupError:
        return False
    return True


def _collect_orphans() -> bool:
    """Bury every dead child; True if there was one."""
    found = False
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            found = True
    return found
