"""Files of a fake session: names and contents, nothing else. Directories are there as soon as something is in them."""

from __future__ import annotations

import posixpath
from pathlib import PurePosixPath

from actors.errors import ActionFailed, NotFound
from actors.schemas import action as do

CONTEXT = do.ContextInfo(context=do.DEFAULT_CONTEXT, language="python", cwd=".", alive=True)
"""The one interpreter of a fake session."""
_HOME = "/home/user"


def perform(files: dict[str, bytes], action: do.Performed) -> do.Answer:
    """Carry out one action on files that are kept by their names below the workspace.

    Raises:
        ActionFailed: it cannot be done, or is no action on files.
    """
    match action:
        case do.ReadFile():
            data = files[_existing(files, action.path)]
            return do.FileChunk(data=data[action.offset : action.offset + action.size], size=len(data))
        case do.WriteFile():
            name = _name(action.path)
            kept = files.get(name, b"") if action.offset else b""
            files[name] = kept[: action.offset].ljust(action.offset, b"\0") + action.data
            return _entry(files, name)
        case do.StatFile():
            name = _name(action.path)
            return _entry(files, name if _is_directory(files, name) else _existing(files, name))
        case do.ListDirectory():
            return _list(files, _name(action.path), action.depth)
        case do.RemoveFile():
            name = _name(action.path)
            inside = [known for known in files if known.startswith(f"{name}/")]
            for known in inside or [_existing(files, name)]:
                del files[known]
        case do.RenameFile():
            files[_name(action.to)] = files.pop(_existing(files, action.path))
            return _entry(files, _name(action.to))
        case do.PauseSession() | do.ResumeSession() | do.Interrupt():
            return None  # nothing runs between its programs, nor can be interrupted
        case do.ListContexts():
            return [CONTEXT]
        case _:
            raise ActionFailed("unsupported", f"the fake backend cannot {action.kind}; use a real one")
    return None


def fitting(files: dict[str, bytes], patterns: tuple[str, ...]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files that fit, and which patterns nothing fits."""
    found = {name: files[name] for pattern in patterns for name in files if PurePosixPath(name).match(pattern)}
    missing = [pattern for pattern in patterns if not any(PurePosixPath(name).match(pattern) for name in found)]
    return found, dict.fromkeys(missing, "no such file")


def _name(path: str) -> str:
    return posixpath.relpath(posixpath.normpath(posixpath.join(_HOME, path)), _HOME)


def _existing(files: dict[str, bytes], path: str) -> str:
    name = _name(path)
    if name not in files:
        raise NotFound("not_found", f"{posixpath.join(_HOME, name)}: No such file or directory")
    return name


def _is_directory(files: dict[str, bytes], name: str) -> bool:
    return name == "." or any(known.startswith(f"{name}/") for known in files)


def _list(files: dict[str, bytes], directory: str, depth: int) -> list[do.FileEntry]:
    if not _is_directory(files, directory):
        raise NotFound("not_found", f"{posixpath.join(_HOME, directory)}: No such file or directory")
    names: set[str] = set()
    for known in files:
        below = known if directory == "." else posixpath.relpath(known, directory)
        if not below.startswith(".."):
            parts = below.split("/")
            names |= {
                posixpath.normpath(posixpath.join(directory, *parts[:n])) for n in range(1, len(parts) + 1)[:depth]
            }
    return [_entry(files, name) for name in sorted(names)]


def _entry(files: dict[str, bytes], name: str) -> do.FileEntry:
    is_file = name in files
    return do.FileEntry(
        name=posixpath.basename(name),
        path=posixpath.normpath(posixpath.join(_HOME, name)),
        type="file" if is_file else "directory",
        size=len(files[name]) if is_file else 0,
        mode=0o644 if is_file else 0o755,
        modified_at=0.0,
    )
