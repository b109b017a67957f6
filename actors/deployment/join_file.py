"""How drivers of this account find the long-lived deployment of the machine: by a file in the account's own directory.

Whoever could write that file would choose where programs and their data are sent, so it is believed only where no other
account could have put it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs
import psutil

from actors.errors import NoDeployment

SLACK_S = 2.0
"""The clock may move on between two looks at it; no process id is given anew that soon."""


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
    return directory() / f"{namespace}.json"


def read(namespace: str) -> LocalDeployment | None:
    """The deployment that is running, if there is one.

    Raises:
        NoDeployment: the file is not this account's own or not of this version, so what it says cannot be trusted.
    """
    file = path(namespace)
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW)) as opened:
            owner, text = os.fstat(opened.fileno()).st_uid, opened.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise NoDeployment(f"{file}: {error.strerror}; remove it or set XDG_RUNTIME_DIR") from None
    if owner != os.getuid():
        raise NoDeployment(f"{file} belongs to another account; remove it or set XDG_RUNTIME_DIR")
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
    written = make_directory() / f"{namespace}.new"
    with open(os.open(written, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
        json.dump(asdict(deployment), file)
    written.replace(path(namespace))


def remove(namespace: str) -> None:
    """Remove the file, and the directory if nothing else is in it."""
    path(namespace).unlink(missing_ok=True)
    remove_directory()


def directory() -> Path:
    """Where this account's deployments are listed: in its runtime directory, which is the same in each of its shells.

    Raises:
        NoDeployment: the place for it belongs to another account.
    """
    with warnings.catch_warnings():
        # That XDG_RUNTIME_DIR is unset or unfit is no news to whoever set nothing; whatever is taken is checked here.
        warnings.simplefilter("ignore")
        try:
            return platformdirs.user_runtime_path("e2b-orchestrator", appauthor=False)
        except OSError as error:
            raise NoDeployment(str(error)) from None


def make_directory() -> Path:
    """Make the directory if it is missing.

    Raises:
        NoDeployment: it cannot be made, or others could put files of theirs into it.
        FileNotFoundError: another has just removed it again.
    """
    made = directory()
    for each in (made.parent, made):
        try:
            with contextlib.suppress(FileExistsError):
                each.mkdir(mode=0o700)
            status = each.lstat()
        except OSError as error:
            if each is made and isinstance(error, FileNotFoundError):
                raise
            raise NoDeployment(f"{each}: {error.strerror}; set XDG_RUNTIME_DIR to a directory of yours") from None
        # Beside what platformdirs looks at, which depends on its version and on where the directory comes from.
        if not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022 or status.st_uid != os.getuid():
            raise NoDeployment(f"{each} is not this account's alone; set XDG_RUNTIME_DIR to one that is")
    return made


def remove_directory() -> None:
    """Remove the directory if it is empty; the one that it lies in is other programs' too, and stays."""
    with contextlib.suppress(OSError):
        directory().rmdir()
