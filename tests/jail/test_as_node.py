"""JavaScript and TypeScript programs end as they do in plain Node.js: with the same output, status and report.

Of TypeScript, Node.js is told to transform what it cannot strip.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from actors.backends.jail.host import languages
from actors.schemas import Outcome, ProgramReport
from tests.backends import Run

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOME = "/home/user"
NODE = languages.installed(sys.path, os.defpath)["javascript"]
ENDINGS = {"javascript": ".js", "typescript": ".ts"}
FLAGS = {"javascript": [], "typescript": ["--experimental-transform-types", "--disable-warning=ExperimentalWarning"]}


@dataclass(frozen=True)
class Script:
    """A program with what it is given; ``beside`` are the files beside it."""

    language: str
    code: str
    beside: dict[str, str] = field(default_factory=dict)
    stdin: str = ""


def scripts() -> Iterator[object]:
    """Read the programs, each below a line with its name and, as JSON, what it is given."""
    for language in ENDINGS:
        text = Path(__file__).with_name("node").joinpath(f"{language}.txt").read_text()
        for part in text.split("==== ")[1:]:
            head, _, code = part.partition("\n")
            name, _, given = head.partition(" {")
            yield pytest.param(Script(language, code, **json.loads(f"{{{given}" if given else "{}")), id=name)
    yield pytest.param(Script("javascript", "const a = 1;\r\nconsole.log(a);\r\nnull.x;\r\n"), id="line endings")
    yield pytest.param(Script("javascript", ""), id="empty")


async def run_plainly(directory: Path, script: Script) -> tuple[int, str, str]:
    """Run a program in Node.js itself; return its status and what it wrote."""
    program = directory / f"program{ENDINGS[script.language]}"
    for path, text in {**script.beside, program.name: script.code}.items():
        (directory / path).write_bytes(text.encode())
    process = await asyncio.create_subprocess_exec(
        *(NODE, *FLAGS[script.language], str(program)),
        cwd=directory,
        env={"HOME": HOME, "LANG": "C.UTF-8"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate(script.stdin.encode())
    assert process.returncode is not None
    return process.returncode, *(text.decode().replace(str(directory), HOME) for text in (out, err))


def comparable(report: str) -> str:
    """Leave out of what Node.js says of an error what differs between two runs, and its own frames and version."""
    text = re.sub(r"\n +at [^\n]*node:internal[^\n{]*( \{)?(?=\n|\Z)", r"\1", report)
    text = re.sub(r"\A\s*node:internal.*\n.*\n *\^+\n+", "", text)
    text = re.sub(r"\s*Node\.js v\S+\s*\Z", "", text).replace("file://", "")
    return re.sub(r"\(node:\d+\)", "(node:0)", text).strip()


def as_in_a_shell(report: ProgramReport) -> tuple[int, str, str]:
    """Return a report as a shell would have it: the exit status, and what was written."""
    match report.outcome, report.error:
        case Outcome.OK, None:
            return 0, report.stdout, report.stderr
        case Outcome.ERROR, error if error is not None and error.name == "ExitStatus":
            return int(error.value), report.stdout, report.stderr
        case Outcome.ERROR, error if error is not None:
            return 1, report.stdout, report.stderr + error.traceback
    raise AssertionError(report)


@pytest.mark.parametrize("script", list(scripts()))
async def test_a_program_ends_as_in_node(run: Run, tmp_path: Path, script: Script) -> None:
    status, out, err = await run_plainly(tmp_path, script)
    report = await run(
        script.code,
        language=script.language,
        files={path: text.encode() for path, text in script.beside.items()},
        stdin=script.stdin.encode() if script.stdin else None,
    )
    here = as_in_a_shell(report)
    assert (here[0], here[1], comparable(here[2])) == (status, out, comparable(err))
