"""What the command line reads and writes; a mistake in it is a line that names the file or option, and exit code 2."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from actors.cli import render
from actors.cli.failures import USAGE, fail
from actors.errors import InvalidRequest
from actors.schemas import ExecutionResult
from actors.schemas.request import checked_batch

STDIN = "-"
_LANGUAGES = {".sh": "bash", ".js": "javascript", ".mjs": "javascript", ".cjs": "javascript", ".ts": "typescript"}


@dataclass(frozen=True, slots=True)
class Line:
    """A program of a batch and where it stood, since blank lines are skipped and ids are the caller's own."""

    number: int
    program: str | dict[str, Any]
    id: Any = None

    @property
    def origin(self) -> dict[str, Any]:
        """What the result's line starts with."""
        return {"line": self.number} | ({} if self.id is None else {"id": self.id})


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"{path}: {error.strerror}", USAGE)


def read_text(name: str) -> str:
    """The text of a file, or of standard input for ``-``."""
    data = sys.stdin.buffer.read() if name == STDIN else read(Path(name))
    try:
        # The mark that Windows puts in front is no part of a program.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fail(f"{name}: is not UTF-8 text (byte {error.start:,})", USAGE)


def variable(item: str) -> tuple[str, str]:
    name, separator, value = item.partition("=")
    if not separator:
        fail(f"--env takes NAME=VALUE, not {item!r}", USAGE)
    return name, value


def uploaded(item: str) -> tuple[str, bytes]:
    """The name and content of ``LOCAL[:NAME]``; a file whose own name has a colon is taken whole."""
    place, _, name = item.rpartition(":") if ":" in item and not Path(item).exists() else (item, "", "")
    return name or Path(place).name, read(Path(place))


def parsed(name: str) -> list[Line]:
    """The programs of a batch; a line that is none is named, before anything runs."""
    lines = []
    # Not splitlines(), which also splits at characters that JSON strings may hold.
    for number, text in enumerate(read_text(name).split("\n"), 1):
        if not text.strip():
            continue
        try:
            entry = json.loads(text)
        except ValueError as error:
            fail(f"{name}:{number}: not JSON ({error})", USAGE)
        if isinstance(entry, str):
            lines.append(Line(number, entry))
        elif isinstance(entry, dict) and isinstance(entry.get("code"), str):
            lines.append(Line(number, {key: value for key, value in entry.items() if key != "id"}, entry.get("id")))
        else:
            fail(f'{name}:{number}: must be a string, or an object with a string "code"', USAGE)
    if not lines:
        fail(f"{name}: holds no program", USAGE)
    return lines


def check(name: str, lines: list[Line], options: dict[str, Any], as_json: bool) -> None:
    """Name the first line whose options are wrong."""
    for line in lines:
        try:
            checked_batch([line.program], options)
        except InvalidRequest as error:
            place = error.field.removeprefix("programs.0.")
            fail(f"{name}:{line.number}: {place}: {error.rule}", USAGE, error.code, as_json)


@contextmanager
def sink(path: Path | None) -> Iterator[TextIO]:
    """Where results are written; each line is flushed, so that an interrupt loses none."""
    if path is None:
        yield sys.stdout
        return
    try:
        file = path.open("w", buffering=1, encoding="utf-8")
    except OSError as error:
        fail(f"{path}: {error.strerror}", USAGE)
    with file:
        yield file


def language(name: str | None) -> str:
    """The language of a program, by the name of its file."""
    return _LANGUAGES.get(Path(name or "").suffix, "python")


def save_files(result: ExecutionResult, directory: Path) -> list[Path]:
    """Write the files that a program brought back, below ``directory``; returns where they are.

    Their names come from the sandbox, so none may lead elsewhere.
    """
    root, saved = directory.resolve(), []
    for name, data in result.files.items():
        path = directory / name
        if not path.resolve().is_relative_to(root):
            fail(f"{name}: would be written outside of {directory}", USAGE)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            fail(f"{path}: {error.strerror}", USAGE)
        saved.append(path)
    return saved


def save(result: ExecutionResult, directory: Path, stem: str) -> list[Path]:
    """Write the pictures of a result; returns where they are."""
    try:
        return render.save_images(result.results, directory, stem)
    except OSError as error:
        fail(f"{error.filename or directory}: {error.strerror}", USAGE)
