"""Programs end as they do in plain CPython: small scripts, run as ``python program.py`` with pipes and in the jail.

The same is printed, the last line on standard error and the exit status are the same, and the same files are left. The
scripts are in ``differential/``: each begins with ``### `` and its name, then perhaps lines like ``#: stdin = "…"``.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from actors.backends.jail import JailBackend
from actors.schemas import ProgramReport
from tests.backends import program

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAME = "program.py"
AT_ONCE = 4
TIMEOUT_S = 30.0
KNOWN = {
    "streams: print and os.write": "a line is written when it ends, as on a terminal: a killed program loses none",
    "streams: input at the end": "a hint follows the error",
    "library: a missing module": "a hint follows the error",
    "library: displayhook": "values are displayed as results, not printed",
    "ends: an unfinished coroutine": "the interpreter lives on, and can still say where memory was allocated",
}
"""Scripts that end otherwise here, and why."""


@dataclass
class Script:
    name: str
    code: str
    stdin: str = ""
    files: dict[str, str] = field(default_factory=dict)
    redirected: bool = False
    """Whether standard input is a file, as ``python program.py < input`` has it."""

    @property
    def input(self) -> bytes:
        return self.stdin.encode(errors="surrogateescape")


@dataclass
class End:
    """How a script ended."""

    stdout: str
    last_words: str
    status: int | None
    files: dict[str, bytes]


def scripts() -> list[Script]:
    """Return every script of the suite."""
    found = []
    for path in sorted(Path(__file__).with_name("differential").glob("*.txt")):
        for section in re.split(r"^### ", path.read_text(), flags=re.MULTILINE)[1:]:
            name, _, code = section.partition("\n")
            options = dict(re.findall(r"^#: (\w+) = (.*)$", code, flags=re.MULTILINE))
            body = re.sub(r"^#: .*\n", "", code, flags=re.MULTILINE)
            values = {key: ast.literal_eval(value) for key, value in options.items()}
            found.append(Script(f"{path.stem}: {name}", body, **values))
    return found


SCRIPTS = {script.name: script for script in scripts()}


def in_cpython(script: Script) -> End:
    """Run a script as ``python program.py`` in a directory of its own."""
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as scratch:
        home = Path(place).resolve()
        # Where a server of processes that nobody waits for leaves its address; it goes with the directory.
        temporary = {"TMPDIR": scratch} if "forkserver" in script.code else {}
        for name, text in {**script.files, NAME: script.code}.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_text(text)
        line = f"exec {shlex.quote(sys.executable)} {NAME}{' < input' if script.redirected else ''}"
        # As at a terminal, though this here may run in the background, where interrupts are ignored.
        command = ["env", "--default-signal=INT", "sh", "-c", line]
        if script.redirected:
            (home / "input").write_bytes(script.input)
        ended = subprocess.run(
            command,
            cwd=home,
            input=script.input,
            capture_output=True,
            timeout=TIMEOUT_S,
            env={"PATH": os.defpath, "HOME": place, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", **temporary},
        )
        if script.redirected:
            (home / "input").unlink()
        files = {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    del files[NAME]
    words = ended.stderr.decode(errors="replace")
    return End(ended.stdout.decode(errors="replace"), last_line(words), ended.returncode, files)


def in_the_jail(report: ProgramReport) -> End:
    """Return what a report says, as a script's process would."""
    words = report.stderr
    if report.error is not None and report.error.name not in ("SystemExit", "ExitStatus"):
        words = report.error.traceback
    files = {name: data for name, data in report.files.items() if name != NAME}
    return End(report.stdout, last_line(words), report.exit_status, files)


def last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ends(backend: JailBackend) -> AsyncIterator[dict[str, tuple[End, ProgramReport]]]:
    """How each script ended in CPython and in the jail."""
    sandbox, turn = await backend.create(), asyncio.Semaphore(AT_ONCE)

    async def run(script: Script) -> tuple[End, ProgramReport]:
        async with turn:
            plain = await asyncio.to_thread(in_cpython, script)
            files = {name: text.encode() for name, text in script.files.items()}
            made = program(script.code, stdin=script.input, files=files, outputs=("**/*", "**/.*"), timeout_s=TIMEOUT_S)
            return plain, await sandbox.execute(made)

    found = await asyncio.gather(*map(run, SCRIPTS.values()))
    yield dict(zip(SCRIPTS, found, strict=True))
    await sandbox.close()


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_script_ends_as_in_cpython(ends: dict[str, tuple[End, ProgramReport]], name: str) -> None:
    plain, report = ends[name]
    if name in KNOWN:
        assert in_the_jail(report) != plain, "no longer different: take it out of KNOWN"
        pytest.skip(KNOWN[name])
    assert in_the_jail(report) == plain, report


async def test_there_are_many_scripts() -> None:
    assert len(SCRIPTS) >= 150
    assert set(KNOWN) <= set(SCRIPTS)
