"""Process 1 of a cell: a place in the jail where one interpreter after another lives, each in walls of its own.

It never runs a program. No process of a program can signal it, read its memory or outlive it. Before each interpreter
it kills whatever is left in its pid namespace and makes a new file system, network and IPC namespace. It ends when its
supervisor closes the control socket, or when the jail's keeper or template dies.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from typing import Any

from actors.backends.jail import births, bwrap, landlock, messages, namespaces

_INODES_PER_MIB = 64
_MIN_INODES = 4096
# A network of each run's own: on a shared loopback a program could meet a session's server, or the last one's ports.
_RENEWED = {"mnt": namespaces.CLONE_NEWNS, "ipc": namespaces.CLONE_NEWIPC, "net": namespaces.CLONE_NEWNET}
_FILES_WRITTEN = ("/dev", "/proc")  # existing ones only
_PAUSE_S = 0.0002


def run(control: socket.socket, template: socket.socket, prefixes: list[str], without: frozenset[str]) -> None:
    """Serve one cell to its end; returning ends it."""
    namespaces.name_process("jail-cell")
    namespaces.close_all_except({0, 1, 2, control.fileno(), template.fileno()})
    namespaces.mount("proc", "/proc", "proc", namespaces.MS_NOSUID | namespaces.MS_NODEV | namespaces.MS_NOEXEC)
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    messages.send(control, {"cell": True}, [proc])
    os.close(proc)
    _Cell(control, template, prefixes, without).run()


class _Cell:
    """Between the supervisor, the template and the interpreter."""

    def __init__(
        self, control: socket.socket, template: socket.socket, prefixes: list[str], without: frozenset[str]
    ) -> None:
        self._control, self._template, self._prefixes = control, template, prefixes
        self._renewed = {name: flag for name, flag in _RENEWED.items() if name != "net" or "network" not in without}
        self._bounded = "disk" not in without
        # Without Landlock the mounts alone must hold, and the self-test says whether they do.
        self._ruled = "landlock" not in without and landlock.supported_version() > 0
        self._base = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        self._status: socket.socket | None = None
        self._interpreter = self._life = 0
        self._wake_r, wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(wake_w, False)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        while True:
            watched: list[socket.socket | int] = [self._control, self._wake_r]
            if self._status is not None:
                watched.append(self._status)
            ready, _, _ = select.select(watched, [], [])
            if self._wake_r in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_r, 4096)
                _collect_orphans()
            if self._status in ready and not self._hear():
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
                self._life = message["life"]
                messages.send(self._control, {"cleared": True, "life": self._life})
                self._build(message["disk_mib"])
                self._order(fds)
            case "interrupt" if self._interpreter:
                os.kill(self._interpreter, signal.SIGINT)
            case "resize":
                if self._bounded:
                    mount_private(message["disk_mib"], [], remount=True)
                messages.send(self._control, {"resized": True})

    def _clear(self) -> None:
        """Kill whatever lives here; when this returns nothing does."""
        while _kill_all():
            # An interpreter is the template's child, which says when it has collected it; all others are this one's.
            while self._status is not None:
                if not self._hear(tell=False):
                    raise RuntimeError("the template has ended")
            if not _collect_orphans():
                time.sleep(_PAUSE_S)

    def _build(self, disk_mib: int) -> None:
        namespaces.join_namespace(self._base, namespaces.CLONE_NEWNS)  # away from the last run's places to write
        namespaces.unshare(sum(self._renewed.values()))
        mount_private(disk_mib if self._bounded else None, self._prefixes)
        if "net" in self._renewed:
            namespaces.raise_loopback()
        with contextlib.suppress(OSError), open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write("1")  # so that not even pids tell of earlier runs

    def _order(self, files: list[int]) -> None:
        """Have the template fork an interpreter into this place, with its files: protocol, output and errors."""
        spaces = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in ("pid", *self._renewed)]
        if self._status is not None:
            self._status.close()  # its last word came too late to matter
        self._status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        rules = [landlock.writing(bwrap.PRIVATE, _FILES_WRITTEN)] if self._ruled else []
        births.order(self._template, spaces, rules, [*files, theirs.fileno()])
        theirs.close()
        for fd in (*spaces, *rules, *files):
            os.close(fd)

    def _hear(self, tell: bool = True) -> bool:
        """Take the template's word of the interpreter, and pass it on; False when the template is gone."""
        assert self._status is not None
        word = births.hear(self._status)
        if word is None:
            return False
        if "born" in word:
            self._interpreter = word["born"]
        else:
            self._status.close()
            self._status, self._interpreter = None, 0
            if tell:
                self._clear()  # what it has started is over with it
        if tell:
            messages.send(self._control, {**word, "life": self._life})
        return True


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


def _kill_all() -> bool:
    """Kill everything else in this pid namespace; False when there is nothing, not even the unburied."""
    try:
        os.kill(-1, signal.SIGKILL)
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
