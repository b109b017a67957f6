"""Files of a fake session: contents by name. A directory is there as long as something is in it."""

from __future__ import annotations

import posixpath
from pathlib import PurePosixPath

from actors.errors import ActionFailed, NotFound
from actors.schemas import action as do

CONTEXT = do.ContextInfo(context=do.DEFAULT_CONTEXT, language="python", cwd=".", alive=True)
"""The one interpreter of a fake session."""
_HOME = "/home/user"
Files = dict[str, bytes]
"""Their names are relative to the workspace."""


def perform(files: Files, action: do.Performed) -> do.Answer:
    """Carry out one action.

    Raises:
        ActionFailed: it cannot be done, or is none on files.
    """
    match action:
        case do.ReadFile(path=path, offset=offset, size=size):
            data = files[_existing(files, path)]
            return do.FileChunk(data=data[offset : offset + size], size=len(data))
        case do.WriteFile(path=path, data=data, offset=offset):
            kept = files.get(_name(path), b"")[:offset]
            files[_name(path)] = kept.ljust(offset, b"\0") + data
            return _entry(files, _name(path))
        case do.StatFile(path=path):
            return _entry(files, _existing(files, path))
        case do.ListDirectory(path=path, depth=depth):
            return _list(files, _name(path), depth)
        case do.RemoveFile(path=path):
            del files[_existing(files, path)]
        case do.RenameFile(path=path, to=to):
            files[_name(to)] = files.pop(_existing(files, path))
            return _entry(files, _name(to))
        case do.ListContexts():
            return [CONTEXT]
        case do.PauseSession() | do.ResumeSession() | do.Interrupt():
            pass  # nothing runs between its programs, nor can be interrupted
        case _:
            raise ActionFailed("unsupported", f"the fake backend cannot {action.kind}; use a real one")
    return None


def fitting(files: Files, patterns: tuple[str, ...]) -> tuple[Files, dict[str, str]]:
    """Return the files that fit a pattern, and why there is none for the other patterns."""
    found = {name: data for name, data in files.items() if any(map(PurePosixPath(name).match, patterns))}
    missing = [pattern for pattern in patterns if not any(PurePosixPath(name).match(pattern) for name in found)]
    return found, dict.fromkeys(missing, "no such file")


def _name(path: str) -> str:
    return posixpath.relpath(posixpath.join(_HOME, path), _HOME)


def _existing(files: Files, path: str) -> str:
    if _name(path) not in files:
        raise _missing(path)
    return _name(path)


def _missing(path: str) -> NotFound:
    return NotFound("not_found", f"{posixpath.normpath(posixpath.join(_HOME, path))}: No such file or directory")


def _list(files: Files, directory: str, depth: int) -> list[do.FileEntry]:
    inside = [PurePosixPath(name) for name in files if PurePosixPath(name).is_relative_to(directory)]
    if not inside and directory != ".":
        raise _missing(directory)
    above = len(PurePosixPath(directory).parts)
    names = {"/".join(path.parts[:end]) for path in inside for end in range(above + 1, len(path.parts) + 1)[:depth]}
    return [_entry(files, name) for name in sorted(names)]


def _entry(files: Files, name: str) -> do.FileEntry:
    is_file = name in files
    return do.FileEntry(
        name=posixpath.basename(name),
        path=posixpath.normpath(posixpath.join(_HOME, name)),
        type="file" if is_file else "directory",
        size=len(files.get(name, b"")),
        mode=0o644 if is_file else 0o755,
        modified_at=0.0,
    )
