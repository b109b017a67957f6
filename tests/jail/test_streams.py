"""The standard streams of programs are real: numbers, names and objects lead to the same pipes."""

from __future__ import annotations

from typing import Any

import pytest

from actors.schemas import Outcome
from actors.schemas.action import OpenContext
from tests.backends import OpenSession, Run

pytestmark = pytest.mark.asyncio(loop_scope="module")
FAST_OUTPUT = """
import os, sys
from io import BytesIO, IOBase
class Fast(IOBase):
    def __init__(self, file):
        self.fd, self.buffer, self.writing = file.fileno(), BytesIO(), "w" in file.mode
    def flush(self):
        if self.writing:
            os.write(self.fd, self.buffer.getvalue())
            self.buffer = BytesIO()
    def write(self, text):
        return self.buffer.write(text.encode())
sys.stdout = Fast(sys.stdout)
print(int(sys.stdin.readline()) * 2)
sys.stdout.flush()
"""
PYTHON = {
    "open(0)": ("print(sum(map(int, open(0).read().split())))", "1 2\n", "3\n"),
    "open(0), line by line": ("for line in open(0): print(line.strip())", "1\n2\n", "1\n2\n"),
    "io.open(0)": ("import io\nprint(io.open(0).read())", "abc", "abc\n"),
    "os.fdopen(0)": ("import os\nwith os.fdopen(0) as file: print(file.read())", "abc", "abc\n"),
    "os.read": ("import os\nprint(os.read(0, 99))", "abc", "b'abc'\n"),
    "open(1)": ("with open(1, 'w', closefd=False) as file: file.write('x\\n')", "", "x\n"),
    "open(1), closed": ("with open(1, 'w') as file: file.write('x\\n')", "", "x\n"),
    "os.write": ("import os\nprint('a')\nos.write(1, b'b\\n')\nprint('c')", "", "a\nb\nc\n"),
    "stdout reconfigured": ("import sys\nsys.stdout.reconfigure(encoding='utf-8')\nprint('é')", "", "é\n"),
    "stdout wrapped": (
        "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')\nprint('é')",
        "",
        "é\n",
    ),
    "stdout detached": (
        "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding='latin-1')\nprint('e')",
        "",
        "e\n",
    ),
    "stdin wrapped": (
        "import io, sys\nsys.stdin = io.TextIOWrapper(sys.stdin.buffer, encoding='utf-8')\nprint(input())",
        "é\n",
        "é\n",
    ),
    "stdin reconfigured": (
        "import sys\nsys.stdin.reconfigure(encoding='latin-1')\nprint(sys.stdin.read() == 'Ã©')",
        "é",
        "True\n",
    ),
    "codecs": ("import codecs, sys\nprint(codecs.getreader('utf-8')(sys.stdin.buffer).read())", "é", "é\n"),
    "fast output": (FAST_OUTPUT, "4\n", "8\n"),
    "seekable": ("import sys\nprint(*(s.seekable() for s in (sys.stdin, sys.stdout, sys.stderr)))", "", "False " * 3),
    "modes": ("import sys\nprint(sys.stdin.mode, sys.stdout.mode, sys.stderr.mode)", "", "r w w\n"),
    "names": ("import sys\nprint(sys.stdin.name, sys.stdout.name)", "", "<stdin> <stdout>\n"),
    "numbers": ("import sys\nprint(sys.stdin.fileno(), sys.stdout.fileno(), open('a', 'w').fileno())", "", "0 1 3\n"),
    "ends of lines": ("import sys\nprint(repr(sys.stdin.read()))", "a\r\nb\r", "'a\\r\\nb\\r'\n"),
    "/dev/stdin": ("print(open('/dev/stdin').read())", "abc", "abc\n"),
    "/dev/fd/0": ("print(open('/dev/fd/0').read())", "abc", "abc\n"),
    "/proc/self/fd/0": ("print(open('/proc/self/fd/0').read())", "abc", "abc\n"),
    "/dev/stdout": ("open('/dev/stdout', 'w').write('x\\n');", "", "x\n"),
    "/proc/self/fd/1": ("open('/proc/self/fd/1', 'a').write('x\\n');", "", "x\n"),
    "a child": (
        "import subprocess\nsubprocess.run('cat /dev/stdin; echo x > /dev/stdout', shell=True);",
        "abc\n",
        "abc\nx\n",
    ),
    "without any": ("print(repr(open(0).read()))", None, "''\n"),
}


@pytest.mark.parametrize(("code", "stdin", "printed"), PYTHON.values(), ids=PYTHON)
async def test_a_python_program(run: Run, code: str, stdin: str | None, printed: str) -> None:
    report = await run(code, stdin=None if stdin is None else stdin.encode())
    assert (report.outcome, report.error) == (Outcome.OK, None), report.message
    assert (report.stdout.strip(), report.stderr) == (printed.strip(), "")


@pytest.mark.parametrize("path", ["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"])
async def test_standard_error_by_its_names(run: Run, path: str) -> None:
    assert (await run(f"open({path!r}, 'w').write('x');")).stderr == "x"
    assert (await run(f"echo x > {path}", language="bash")).stderr == "x\n"
    assert (await run(f"require('fs').writeFileSync({path!r}, 'x')", language="javascript")).stderr == "x"


async def test_standard_input_and_output_by_their_names_in_other_languages(run: Run) -> None:
    bash = await run("cat /dev/stdin; echo out > /dev/stdout; cat < /dev/fd/0", language="bash", stdin=b"in\n")
    assert (bash.outcome, bash.stdout, bash.stderr) == (Outcome.OK, "in\nout\n", "")
    code = "const fs = require('fs'); fs.writeFileSync('/dev/stdout', fs.readFileSync('/dev/stdin'))"
    javascript = await run(code, language="javascript", stdin=b"in\n")
    assert (javascript.outcome, javascript.stdout, javascript.stderr) == (Outcome.OK, "in\n", "")


async def test_a_large_input_is_read_whole_by_its_name(run: Run) -> None:
    assert (await run("wc -c < /dev/stdin", language="bash", stdin=b"x" * 2_000_000)).stdout.strip() == "2000000"


STEPS: dict[str, list[tuple[str, str | None, str]]] = {
    "closed objects": [
        ("import sys\nsys.stdout.close()\nsys.stdin.close()", None, ""),
        ("print(input())", "a\n", "a\n"),
    ],
    "closed numbers": [("import os\nfor fd in range(3): os.close(fd)", "a", ""), ("print(input())", "b\n", "b\n")],
    "exit()": [("exit()", None, ""), ("print(input())", "a\n", "a\n")],
    "open(0)": [("print(open(0).read())", "a", "a\n"), ("print(open(0).read())", "b", "b\n")],
    "input left": [("print(input())", "a\nb\n", "a\n"), ("print(input())", "c\n", "c\n")],
    "no more input": [("print(input())", "a\nb\n", "a\n"), ("import sys\nprint(repr(sys.stdin.read()))", None, "''\n")],
    "wrapped": [
        ("import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach(), 'utf-8')\nprint('a')", None, "a\n"),
        ("print('b')", None, "b\n"),
        ("sys.stdout = sys.__stdout__", None, ""),
        ("print('c')", None, "c\n"),
    ],
    "kept": [
        ("import io, sys\nsys.stdout = kept = io.StringIO()", None, ""),
        ("print('a')", None, ""),
        ("sys.stdout = sys.__stdout__\nprint(kept.getvalue())", None, "a\n\n"),
    ],
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
async def test_the_streams_of_a_session_are_there_for_each_program(
    session: OpenSession, steps: list[tuple[str, str | None, str]]
) -> None:
    for code, stdin, printed in steps:
        report = await session.run(code, stdin=None if stdin is None else stdin.encode())
        assert (report.outcome, report.stdout) == (Outcome.OK, printed), report.error


@pytest.mark.parametrize(
    ("code", "fields", "stdout", "said"),
    [
        ("echo e >&2; nosuchcmd", {}, "", ["e\n", "nosuchcmd: command not found"]),
        ("if; then", {}, "", ["line 1: syntax error near unexpected token"]),
        ("echo 'unterminated", {}, "", ["unexpected EOF"]),
        ("echo $((1/0))", {}, "", ["division by 0"]),
        ("ls /nowhere", {}, "", ["No such file"]),
        ("echo x > /dev/stderr; cat /dev/stdin", {"stdin": b"in"}, "in", ["x\n"]),
        ("read line; cat", {"stdin": b"1\n2\n"}, "2\n", [""]),
    ],
)
async def test_a_bash_session_says_what_a_shell_says(
    session: OpenSession, code: str, fields: dict[str, Any], stdout: str, said: list[str]
) -> None:
    await session.do(OpenContext(context="shell", language="bash"))
    report = await session.run(code, context="shell", language="bash", **fields)
    assert report.stdout == stdout
    assert all(part in report.stderr for part in said), report.stderr
    again = await session.run("echo again", context="shell", language="bash")
    assert (again.outcome, again.stdout, again.stderr) == (Outcome.OK, "again\n", "")
