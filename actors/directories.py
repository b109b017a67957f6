"""Where this account keeps its things, and whether another account could put others in their place.

A path is only as good as every directory on the way to it: who can replace one of them chooses what the path means, and
so whom this account believes, what it overwrites and what it runs. So all that a deployment keeps or trusts lies in
directories that were found to be this account's, one by one from the root of the file system.
"""

from __future__ import annotations

import contextlib
import os
import platform
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs

NAME = "e2b-orchestrator"
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  # looked at before anything is put there
_OPEN = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ExposedDirectory(PermissionError):
    """Another account could replace a directory, or what is in it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(None, reason, str(path))


def state() -> Path:
    """Where this account's lasting state belongs."""
    return platformdirs.user_state_path(NAME, appauthor=False)


def data() -> Path:
    """Where what it builds belongs."""
    return platformdirs.user_data_path(NAME, appauthor=False)


def runtime() -> Path:
    """Where it lists what runs on this machine: the same in each of its shells, and gone when nothing runs.

    It is nowhere that another account could be before it, as it could in the directory for temporary files, unless this
    account has no place of its own at all.
    """
    for base in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{os.geteuid()}"):
        if base and _is_own(Path(base)):
            return Path(base) / NAME
    lasting = state()
    there = next(place for place in (lasting, *lasting.parents) if os.path.exists(place))
    if os.access(there, os.W_OK) and _is_own(there):
        return lasting / f"run-{platform.node()}"  # a home directory may be shared by machines
    return temporary() / f"{NAME}-{os.geteuid()}"


def temporary(longest: int = 4096) -> Path:
    """A directory for temporary files where each account's are safe from others, with a path of at most ``longest``.

    Raises:
        ExposedDirectory: there is none.
    """
    usual = tempfile.gettempdir()
    for base in (usual, *TEMPORARY):
        if len(base) <= longest and os.access(base, os.W_OK) and _is_own(Path(base), shared=True):
            return Path(base)
    raise ExposedDirectory(Path(usual), "others may replace what is in it; set TMPDIR to a directory of yours")


def secure(path: Path) -> Path:
    """Make a directory unless it is there, for this account alone; return where it is, all links resolved.

    Raises:
        FileNotFoundError: this account has just removed it again.
        OSError: it cannot be made, or another account could replace it or what is in it.
    """
    resolved = _resolved(path)
    with contextlib.suppress(FileExistsError):  # whatever is there is looked at, and may be gone by then
        resolved.mkdir(parents=True, mode=0o700)
    with opened(resolved):
        return resolved


@contextlib.contextmanager
def opened(path: Path, *, shared: bool = False) -> Iterator[int]:
    """Hold a directory open: what is done by its descriptor is done in the directory that was looked at.

    One that is ``shared`` may be written to by others, if each keeps there what is its own.

    Raises:
        OSError: it is not there, is a link, or another account could replace it or what is in it.
    """
    descriptor = _descend(_resolved(path), shared)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_own(path: Path, *, shared: bool = False) -> bool:
    try:
        with opened(path, shared=shared):
            return True
    except OSError:
        return False


def _resolved(path: Path) -> Path:
    """Links on the way are of those who own the way; one in the directory's own place is not followed."""
    absolute = Path(os.path.abspath(path))
    return absolute.parent.resolve() / absolute.name


def _descend(path: Path, shared: bool) -> int:
    """Open a directory by way of each above it, looking at each once it is held."""
    descriptor = os.open("/", os.O_PATH | _OPEN)
    # In a container the machine's root may appear as somebody else.
    trusted = {0, os.geteuid(), os.fstat(descriptor).st_uid}
    try:
        for place in [*reversed(path.parents), path][1:]:
            access = os.O_RDONLY if place == path else os.O_PATH
            try:
                below = os.open(place.name, access | _OPEN, dir_fd=descriptor)
            except OSError as error:
                raise type(error)(error.errno, error.strerror, str(place)) from None
            os.close(descriptor)
            descriptor = below
            _look_at(place, os.fstat(descriptor), trusted, shared or place != path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _look_at(place: Path, status: os.stat_result, trusted: set[int], shared: bool) -> None:
    if status.st_uid not in trusted:
        raise ExposedDirectory(place, "belongs to another account")
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not shared:
        exposed = writable
    elif status.st_mode & stat.S_ISVTX:
        exposed = 0  # as in /tmp: nobody renames or removes what is another's
    else:
        # Many systems give each account a group of its own.
        exposed = writable & ~(stat.S_IWGRP if status.st_gid in (0, os.getegid()) else 0)
    if exposed:
        raise ExposedDirectory(place, "is not this account's alone: others may write to it")
