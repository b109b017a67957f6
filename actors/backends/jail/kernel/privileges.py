"""The jail server's step from root to an unprivileged user that can still reach the interpreter's files.

bwrap must not be started by root: the kernel does not enforce RLIMIT_NPROC on uid 0, and root's bwrap covers parts of
/proc, after which no container could mount its own.
"""

from __future__ import annotations

import os
import tempfile

from actors.backends.jail.kernel.namespaces import (
    CLONE_NEWNS,
    MS_BIND,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    mount,
    unmount,
    unshare,
)


def become_unprivileged(uid: int, needed: list[str]) -> None:
    """Become ``uid`` in a private view of the file system where every path in ``needed`` can be reached.

    An interpreter often lives under /root, closed to others. In this process's own mount namespace such a directory
    is covered by an empty one that holds nothing but the needed paths, read-only; the machine's own is not touched.
    """
    unshare(CLONE_NEWNS)
    mount("", "/", "", MS_REC | MS_PRIVATE)
    hidden: dict[str, list[str]] = {}
    for path in needed:
        wall = _first_closed_ancestor(os.path.realpath(path), uid)
        if wall is not None:
            hidden.setdefault(wall, []).append(os.path.realpath(path))
    for wall, paths in hidden.items():
        _uncover(wall, sorted(set(paths), key=len))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _first_closed_ancestor(path: str, uid: int) -> str | None:
    current = "/"
    for part in path.split("/")[1:]:
        current = os.path.join(current, part)
        if not os.path.isdir(current):
            return None
        status = os.stat(current)
        bit = 0o100 if status.st_uid == uid else 0o001
        if not status.st_mode & bit:
            return current
    return None


def _uncover(wall: str, paths: list[str]) -> None:
    aside = tempfile.mkdtemp(prefix="e2b-jail-")
    mount("tmpfs", aside, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
    for index, path in enumerate(paths):
        keep = f"{aside}/{index}"
        _make_target(path, keep)
        mount(path, keep, "", MS_BIND | MS_REC)
    mount("tmpfs", wall, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m")
    for index, path in enumerate(paths):
        if not os.path.exists(path):  # else a needed path above brought it along
            _make_target(f"{aside}/{index}", path)
            mount(f"{aside}/{index}", path, "", MS_BIND | MS_REC)
            mount("", path, "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID)
    # Detached here alone; outside this namespace the directory is empty.
    unmount(aside)
    os.rmdir(aside)


def _make_target(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))
