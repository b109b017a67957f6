"""The actions on files, carried out inside: so a name leads no further than the walls let a program go itself.

Runs in interpreters and guest agents, with the rights of the session's programs. Standard library only. Every action is
a dict as in ``actors.schemas.action``, and so is every answer; what cannot be done is an ``OSError``.
"""

from __future__ import annotations

import base64
import errno
import glob
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from typing import Any

from actors.backends.jail.kernel import bwrap

MAX_ENTRIES = 10_000
"""Most entries of one listing."""


def perform(action: dict[str, Any]) -> Any:
    """Carry out one action on files.

    Raises:
        OSError: it cannot be done.
    """
    return _ACTIONS[action["kind"]](action)


def answer(number: int, action: dict[str, Any], act: Callable[[dict[str, Any]], Any] = perform) -> dict[str, Any]:
    """Carry out an action and return the message that says what came of it."""
    try:
        return {"id": number, "answer": act(action)}
    except OSError as error:
        return {"id": number, "failed": _failure(error, action)}
    except MemoryError:
        return {"id": number, "failed": _failure(OSError(errno.ENOMEM, "the session's memory is used up"), action)}
    except RecursionError:
        return {"id": number, "failed": _failure(OSError(errno.E2BIG, "directories are nested too deeply"), action)}
    except (ValueError, OverflowError) as error:  # a name or number that the system has no form for
        return {"id": number, "failed": _failure(OSError(errno.EINVAL, str(error)), action)}


def resolve(path: str) -> str:
    """Return the absolute form of a path, which may be relative to the workspace."""
    return os.path.normpath(os.path.join(bwrap.HOME, os.path.expanduser(path)))


def describe(path: str) -> dict[str, Any]:
    """Return what is known of a file, directory or link, without following it."""
    found = os.lstat(path)
    link = os.readlink(path) if stat.S_ISLNK(found.st_mode) else None
    return {
        "name": shown(os.path.basename(path)),
        "path": shown(path),
        "type": _type(found.st_mode),
        "size": found.st_size,
        "mode": stat.S_IMODE(found.st_mode),
        "modified_at": found.st_mtime,
        "target": None if link is None else shown(link),
    }


def _read(action: dict[str, Any]) -> dict[str, Any]:
    fd = _open_regular(resolve(action["path"]), os.O_RDONLY)
    with os.fdopen(fd, "rb") as file:
        file.seek(action["offset"])
        data = file.read(action["size"])
        return {"data": base64.b64encode(data).decode(), "size": os.fstat(fd).st_size}


def _write(action: dict[str, Any]) -> dict[str, Any]:
    path, offset = resolve(action["path"]), action["offset"]
    flags = os.O_WRONLY | os.O_NOFOLLOW
    if offset == 0:
        _make_above(path)
        flags |= os.O_CREAT | os.O_TRUNC
    fd = _open_regular(path, flags)
    with os.fdopen(fd, "wb") as file:
        file.seek(offset)
        file.write(base64.b64decode(action["data"]))
        if action.get("mode") is not None:
            os.fchmod(fd, action["mode"])
    return describe(path)


def _list(action: dict[str, Any]) -> list[dict[str, Any]]:
    root = resolve(action["path"])
    entries: list[dict[str, Any]] = []
    for path in _walk(root, action["depth"]):
        if len(entries) == MAX_ENTRIES:
            raise OSError(errno.E2BIG, f"more than {MAX_ENTRIES:,} entries; list its parts one by one", root)
        try:
            entries.append(describe(path))
        except FileNotFoundError:  # removed while it was listed
            continue
    return entries


def _walk(directory: str, depth: int) -> Iterator[str]:
    with os.scandir(directory) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        yield entry.path
        if depth > 1 and entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, depth - 1)


def _stat(action: dict[str, Any]) -> dict[str, Any]:
    return describe(resolve(action["path"]))


def _make_directory(action: dict[str, Any]) -> dict[str, Any]:
    path = resolve(action["path"])
    os.makedirs(path, exist_ok=True)
    return describe(path)


def _remove(action: dict[str, Any]) -> None:
    path = resolve(action["path"])
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _rename(action: dict[str, Any]) -> dict[str, Any]:
    path, to = resolve(action["path"]), resolve(action["to"])
    _make_above(to)
    try:
        os.rename(path, to)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(path, to)  # between the workspace and /tmp
    return describe(to)


def _find(action: dict[str, Any]) -> dict[str, list[str]]:
    """Return the files of the workspace that fit each pattern; a name without wildcards fits itself."""
    found: dict[str, list[str]] = {}
    for pattern in action["patterns"]:
        names = sorted(glob.glob(pattern, root_dir=bwrap.HOME, recursive=True, include_hidden="/." in f"/{pattern}"))
        found[pattern] = [shown(name) for name in names if os.path.isfile(resolve(name))][:MAX_ENTRIES]
        if glob.escape(pattern) != pattern and os.path.isfile(resolve(pattern)):
            found[pattern] = [pattern]
    return found


_ACTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "read_file": _read,
    "write_file": _write,
    "list_directory": _list,
    "stat_file": _stat,
    "make_directory": _make_directory,
    "remove_file": _remove,
    "rename_file": _rename,
    "find_files": _find,
}


def _make_above(path: str) -> None:
    above = os.path.dirname(path)
    try:
        os.makedirs(above, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "a file is in the way", error.filename) from None


def _open_regular(path: str, flags: int) -> int:
    """Open a file that is one: a pipe, or a device, could keep its reader waiting for good, or never end."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, 0o644)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, f"is a {_type(mode)}, not a file", path)
    return fd


def _type(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "link" if stat.S_ISLNK(mode) else "other"


def shown(name: str) -> str:
    """Return a name as text that UTF-8 can encode, whatever bytes it consists of."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _failure(error: OSError, action: dict[str, Any]) -> dict[str, str]:
    text, name = error.strerror or str(error), error.filename or action.get("path")
    if name is not None:
        text = f"{shown(name if isinstance(name, str) else os.fsdecode(name))}: {text}"
    return {"errno": errno.errorcode.get(error.errno or 0, "EIO"), "message": text}
