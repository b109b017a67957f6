"""Watches on directories: the kernel says what changes below one. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct

from actors.backends.jail.kernel.namespaces import check, libc

# Of linux/inotify.h.
_MODIFIED, _WRITTEN, _MOVED_FROM, _MOVED_TO, _CREATED, _DELETED = 0x2, 0x8, 0x40, 0x80, 0x100, 0x200
_OVERFLOW, _FORGOTTEN, _IS_DIRECTORY, _ONLY_DIRECTORIES = 0x4000, 0x8000, 0x40000000, 0x01000000
_ATTRIBUTES = 0x4
_WANTED = _MODIFIED | _WRITTEN | _MOVED_FROM | _MOVED_TO | _CREATED | _DELETED | _ATTRIBUTES | _ONLY_DIRECTORIES
_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_HEAD = struct.Struct("iIII")
_READ_BYTES = 2**16
_KINDS = {
    _CREATED: "created",
    _MOVED_TO: "created",
    _MODIFIED: "modified",
    _WRITTEN: "modified",
    _ATTRIBUTES: "modified",
    _DELETED: "removed",
    _MOVED_FROM: "removed",
}

Change = tuple[str, str]
"""A change: what happened, and to which path. ``overflow`` has an empty path: changes came too fast, some are lost."""


class Watch:
    """Watches one directory, with all below it if ``recursive``; ``fd`` is readable when something changed."""

    def __init__(self, root: str, recursive: bool) -> None:
        self.fd = check(libc.inotify_init1(_NONBLOCK_CLOEXEC), "inotify_init1")
        self._recursive = recursive
        self._paths: dict[int, str] = {}
        try:
            self._add(root)
        except OSError:
            os.close(self.fd)
            raise

    def close(self) -> None:
        os.close(self.fd)

    def changes(self) -> list[Change]:
        """Return what has changed since the last call, each change once."""
        found: dict[Change, None] = {}
        with contextlib.suppress(BlockingIOError):
            while True:
                data = os.read(self.fd, _READ_BYTES)
                at = 0
                while at < len(data):
                    watch, mask, _, length = _HEAD.unpack_from(data, at)
                    at += _HEAD.size
                    name = os.fsdecode(data[at : at + length].rstrip(b"\0"))
                    at += length
                    found |= dict.fromkeys(self._read(watch, mask, name))
        return list(found)

    def _read(self, watch: int, mask: int, name: str) -> list[Change]:
        if mask & _OVERFLOW:
            return [("overflow", "")]
        if mask & _FORGOTTEN:
            self._paths.pop(watch, None)
            return []
        if watch not in self._paths or not name:
            return []
        path = os.path.join(self._paths[watch], name)
        kind = next((kind for bit, kind in _KINDS.items() if mask & bit), None)
        if kind is None:
            return []
        changes = [(kind, path)]
        if self._recursive and kind == "created" and mask & _IS_DIRECTORY:
            with contextlib.suppress(OSError):  # it is gone already
                # What was put into it before it was watched would be missed.
                changes += [("created", inside) for inside in self._add(path)]
        return changes

    def _add(self, directory: str) -> list[str]:
        """Watch a directory; return the paths of what is below it already, if those are watched too."""
        path = os.fsencode(directory)
        watch = check(libc.inotify_add_watch(self.fd, path, ctypes.c_uint32(_WANTED)), directory)
        self._paths[watch] = directory
        found: list[str] = []
        if self._recursive:
            with os.scandir(directory) as entries:
                for entry in entries:
                    found.append(entry.path)
                    if entry.is_dir(follow_symlinks=False):
                        found += self._add(entry.path)
        return found
