"""Actions as they go over the wire to a process, and the files that go in and come back with a single program."""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from actors.backends.glob_patterns import fits
from actors.errors import ActionFailed, SandboxLost
from actors.schemas import action as do
from actors.schemas.request import MAX_FILES, MAX_FILES_BYTES, FileName

Call = Callable[[dict[str, Any]], Awaitable[Any]]
"""Has a process carry out an action. Raises ``ActionFailed``, ``SandboxLost``."""

_ANSWERS: dict[str, TypeAdapter[Any]] = {
    "write_file": TypeAdapter(do.FileEntry),
    "list_directory": TypeAdapter(list[do.FileEntry]),
    "stat_file": TypeAdapter(do.FileEntry),
    "make_directory": TypeAdapter(do.FileEntry),
    "rename_file": TypeAdapter(do.FileEntry),
    "start_command": TypeAdapter(do.CommandInfo),
    "list_commands": TypeAdapter(list[do.CommandInfo]),
}
_FOUND = TypeAdapter(dict[str, list[str]])
_FILE_NAME = TypeAdapter(FileName)


def encoded(action: do.Action) -> dict[str, Any]:
    """Return an action as JSON takes it: bytes in base64."""
    fields = action.model_dump()
    if isinstance(fields.get("data"), bytes):
        fields["data"] = base64.b64encode(fields["data"]).decode()
    return fields


def decoded(kind: str, answer: Any) -> do.Answer:
    """Return the answer to an action of this kind, checked.

    Raises:
        SandboxLost: it makes no sense, so the process that gave it is not to be believed.
    """
    try:
        if kind == "read_file":
            data = base64.b64decode(answer["data"], validate=True)
            return do.FileChunk.model_validate({"data": data, "size": answer["size"]}, strict=True)
        checked: do.Answer = _ANSWERS[kind].validate_python(answer, strict=True) if kind in _ANSWERS else None
    except (ValueError, TypeError, KeyError):
        raise SandboxLost("the session's answer makes no sense") from None
    entries = checked if isinstance(checked, list) else [checked]
    if any(isinstance(entry, do.FileEntry) and not _is_of_one_file(entry) for entry in entries):
        raise SandboxLost("the session's answer names a file as none is named")
    return checked


def _is_of_one_file(entry: do.FileEntry) -> bool:
    path, name = entry.path, entry.name
    return path == posixpath.normpath(path) and posixpath.isabs(path) and name == posixpath.basename(path)


async def put(call: Call, files: dict[str, bytes]) -> None:
    """Put files into the workspace.

    Raises:
        ActionFailed: one cannot be written.
        SandboxLost: the process ended.
    """
    for name, data in files.items():
        for offset in range(0, len(data) or 1, do.CHUNK_BYTES):
            part = data[offset : offset + do.CHUNK_BYTES]
            await call(encoded(do.WriteFile(path=name, data=part, offset=offset)))


async def collect(call: Call, patterns: tuple[str, ...]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files of the workspace that match, and for each that cannot be had, why.

    Raises:
        SandboxLost: the process ended, or its answers make no sense.
    """
    files: dict[str, bytes] = {}
    missing: dict[str, str] = {}
    left = MAX_FILES_BYTES
    try:
        found = _checked(await call({"kind": "find_files", "patterns": list(patterns)}))
    except ActionFailed as error:
        return {}, dict.fromkeys(patterns, error.message)
    for pattern in patterns:
        names = found.get(pattern)
        if not names:
            missing[pattern] = "no such file"
            continue
        for name in names:
            if name in files or name in missing:
                continue
            if not _was_asked_for(name, pattern):
                missing[pattern] = "the program says that it fits files which it does not fit"
                continue
            if len(files) + len(missing) >= MAX_FILES:
                missing[pattern] = f"more than {MAX_FILES:,} files fit"
                break
            try:
                files[name] = await _read(call, name, left)
                left -= len(files[name])
            except ActionFailed as error:
                missing[name] = error.message
    return files, missing


async def _read(call: Call, name: str, most: int) -> bytes:
    data = bytearray()
    while True:
        try:
            action = do.ReadFile(path=name, offset=len(data), size=do.MAX_CHUNK_BYTES)
        except ValidationError:
            raise SandboxLost("an answer names a file as none can be named") from None
        chunk = decoded(action.kind, await call(encoded(action)))
        assert isinstance(chunk, do.FileChunk)
        data += chunk.data
        if len(data) > most or chunk.size > most:
            raise ActionFailed("too_large", f"with it the outputs are more than {MAX_FILES_BYTES:,} bytes")
        if len(chunk.data) < action.size:
            return bytes(data)


def _was_asked_for(name: str, pattern: str) -> bool:
    """Whether a name is one that can be given to a file below the workspace, and fits what was asked for."""
    try:
        return bool(_FILE_NAME.validate_python(name) == name) and fits(name, pattern)
    except ValidationError:
        return False


def _checked(found: Any) -> dict[str, list[str]]:
    try:
        return _FOUND.validate_python(found)
    except ValidationError:
        raise SandboxLost("the interpreter's answer makes no sense") from None
