"""The fork of a session's interpreter into a nested container: the same memory, in namespaces of its own.

Runs in the forkable interpreter itself, which has no capabilities, and ends in its fork. The user namespace of the
nested container belongs to the same user, so the fork has every capability there; it enters, and gives them up. Whether
it did is for the container's init to see, with ``unfit``: by now the interpreter runs whatever its programs made of it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import traceback
import warnings

from actors.backends.jail import fork_protocol
from actors.backends.jail.inside import inheritance, shared_memory
from actors.backends.jail.kernel import bwrap, namespaces, process_tree

_NONE = "0" * 16
_LOCKED = {"CapInh": _NONE, "CapPrm": _NONE, "CapEff": _NONE, "CapAmb": _NONE, "NoNewPrivs": "1", "TracerPid": "0"}
SPACES = ("user", "pid", "mnt", "ipc", "net")
"""The namespaces of a nested container, in the order in which they are entered."""


def fork(given: list[int]) -> socket.socket | None:
    """Fork into a container by its namespaces and files; return the channel in the fork, None in this process."""
    spaces, files = given[: len(SPACES)], given[len(SPACES) :]
    try:
        state = random.getstate()  # Python reseeds in every fork, and a fork is to go on alike
        directory = os.getcwd()
        inherited = inheritance.held({0, 1, 2, fork_protocol.CHANNEL, fork_protocol.ANSWERS, *given})
        outputs = {os.fstat(fd).st_ino: fd for fd in (1, 2)}
        with warnings.catch_warnings(action="ignore"):  # of threads, which are not forked
            pid = os.fork()
        if pid != 0:
            os.waitpid(pid, 0)
            return None
        _enter(spaces, files)
        random.setstate(state)
        with contextlib.suppress(OSError):
            os.chdir(directory)
        inheritance.cut(inherited, outputs)
        shared_memory.unshare()
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fork_protocol.CHANNEL)
    finally:
        for fd in given:
            with contextlib.suppress(OSError):
                os.close(fd)


def _enter(spaces: list[int], files: list[int]) -> None:
    """Enter the container, where only a further child can be, since pid namespaces are entered by forking.

    Returns in that child, when it is locked.
    """
    user, pids, *others = spaces
    protocol, answers, out, error = files
    try:
        os.dup2(out, 1)
        os.dup2(error, 2)
        namespaces.join_namespace(user, 0)
        namespaces.join_namespace(pids, 0)
        if os.fork():
            os._exit(0)
        os.setpgid(0, 0)
        for space in others:
            namespaces.join_namespace(space, 0)
        os.chdir(bwrap.HOME)
        namespaces.bound_capabilities()
        namespaces.drop_capabilities()
        namespaces.set_dumpable(True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.dup2(protocol, fork_protocol.CHANNEL, inheritable=False)
        os.dup2(answers, fork_protocol.ANSWERS, inheritable=False)
    except BaseException:  # noqa: BLE001 - a forked process has nobody above it to tell
        os.write(2, traceback.format_exc(limit=-3).encode())
        os._exit(70)


def unfit(found: list[str]) -> str | None:
    """Say what is wrong with the process that came into this init's container; None is nothing."""
    [pid] = found
    for field, wanted in _LOCKED.items():
        if process_tree.status(pid, field) != [wanted]:
            return f"a fork that has {field} {' '.join(process_tree.status(pid, field))}"
    if process_tree.status(pid, "NSpgid") != [pid]:
        return "a fork in the process group of what it forked from"
    for space in SPACES:
        try:
            same = os.readlink(f"/proc/{pid}/ns/{space}") == os.readlink(f"/proc/self/ns/{space}")
        except OSError:
            return "a fork that hides where it is"
        if not same:
            return f"a fork in another {space} namespace"
    return None
