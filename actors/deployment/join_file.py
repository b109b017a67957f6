"""How drivers of this account find the long-lived deployment of the machine: by a file in the account's own directory.

Whoever could write that file would choose where programs and their data are sent, so it is believed only where no other
account could have put it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from actors import directories
from actors.errors import NoDeployment

SLACK_S = 2.0
"""The clock may move on between two looks at it; no process id is given anew that soon."""
MAX_CHARACTERS = 2**14
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Neither a link nor a pipe that nobody writes to leads or holds up whoever opens it."""


@dataclass(frozen=True, slots=True)
class LocalDeployment:
    """A long-lived deployment of this machine: the process that owns it, and what is needed to join its Ray."""

    pid: int
    started_s: float
    """When the process started, in seconds since the machine did: one that came later may have been given its id."""
    address: str
    token_path: str

    @property
    def lives(self) -> bool:
        found = started_s(self.pid)
        return found is not None and abs(found - self.started_s) < SLACK_S


def started_s(pid: int) -> float | None:
    """When a process started, in seconds since the machine did; None when there is none of this id."""
    try:
        created_at = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None
    # psutil tells it by the clock, which may be set meanwhile; this difference stays.
    return round(created_at - psutil.boot_time(), 2)


def path(namespace: str) -> Path:
    return directory() / _name(namespace)


def directory() -> Path:
    """Where this account's deployments are listed.

    Raises:
        NoDeployment: there is no place where other accounts could not list theirs.
    """
    try:
        return directories.runtime()
    except OSError as error:
        raise NoDeployment(f"{error.filename}: {error.strerror}") from None


def read(namespace: str) -> LocalDeployment | None:
    """The deployment that is running, if there is one.

    Raises:
        NoDeployment: the file is not this account's own or not of this version, so what it says cannot be trusted.
    """
    file = path(namespace)
    try:
        with (
            directories.opened(file.parent) as held,
            open(os.open(file.name, os.O_RDONLY | _SAFELY, dir_fd=held)) as opened,
        ):
            status, text = os.fstat(opened.fileno()), opened.read(MAX_CHARACTERS)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(error, file) from None
    except UnicodeDecodeError:
        text = ""
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise NoDeployment(f"{file} is not this account's alone; remove it or set XDG_RUNTIME_DIR")
    try:
        found = LocalDeployment(**json.loads(text))
    except (ValueError, TypeError):
        raise NoDeployment(f"{file} was written by another version, which must end what it started") from None
    return found if found.lives else None


def write(namespace: str, deployment: LocalDeployment) -> None:
    """Let others find the deployment.

    Raises:
        NoDeployment: there is no directory that is this account's alone.
    """
    made = make_directory()
    new = f"{namespace}.new"
    try:
        with directories.opened(made) as held:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new, dir_fd=held)  # of one that was killed meanwhile
            access = os.O_CREAT | os.O_EXCL | os.O_WRONLY | _SAFELY
            with open(os.open(new, access, 0o600, dir_fd=held), "w") as file:
                json.dump(asdict(deployment), file)
            os.rename(new, _name(namespace), src_dir_fd=held, dst_dir_fd=held)
    except OSError as error:
        raise _unusable(error, made) from None


def remove(namespace: str) -> None:
    """Remove the file, and the directory if nothing else is in it."""
    path(namespace).unlink(missing_ok=True)
    remove_directory()


def make_directory() -> Path:
    """Make the directory that lists this account's deployments, if it is missing.

    Raises:
        NoDeployment: it cannot be made, or others could put files of theirs into it.
        FileNotFoundError: another has just removed it again.
    """
    made = directory()
    try:
        return directories.secure(made)
    except FileNotFoundError as error:
        if error.filename == str(made):
            raise
        raise _unusable(error, made) from None
    except OSError as error:
        raise _unusable(error, made) from None


def remove_directory() -> None:
    """Remove the directory if it is empty; the one that it lies in is other programs' too, and stays."""
    with contextlib.suppress(OSError):
        directory().rmdir()


def _name(namespace: str) -> str:
    return f"{namespace}.json"


def _unusable(error: OSError, file: Path) -> NoDeployment:
    return NoDeployment(f"{error.filename or file}: {error.strerror}; remove it or set XDG_RUNTIME_DIR")
