"""JavaScript programs of single runs: what comes of them besides what plain Node.js prints."""

from __future__ import annotations

import pytest

from actors.schemas import Limits, Outcome
from tests.backends import Run

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import path from 'node:path';\npath.join('a','b')", "'a/b'"),
        ("import path from 'node:path';\npath.join('a','b'); // why", "'a/b'"),
        ("const a = 1; a", "1"),
        ("#!/usr/bin/env node\n'use strict';\n\n/* of these */ [1, 2]", "[ 1, 2 ]"),
        ("const a = 1 // no semicolon\n\n;[a, 2].map((x) => x + 1)", "[ 2, 3 ]"),
        ("const a = 1 // no semicolon\n\n`${a}`.length", None),  # which is a value's template, as anywhere else
        ("1, 2", "2"),
        ("'text'", "'text'"),
        ("'use strict';", "'use strict'"),
        ("({ a: { b: 1 } }).a", "{ b: 1 }"),
        ("let x; x = function () {}", "[Function: x]"),
        ("async function main() { await null; return 7 }\nmain()", "7"),
        ("await Promise.all([1, Promise.resolve(2)])", "[ 1, 2 ]"),
        ("if (true) 5", None),
        ("null", "null"),
        ("return 5", None),
        ("console.log(1)", None),
        ("class A {}\nexport default new A()", None),
    ],
)
async def test_the_last_value_is_a_result(run: Run, code: str, text: str | None) -> None:
    report = await run(code, language="javascript")
    assert report.text == text, report


async def test_a_last_value_that_cannot_be_shown_as_it_wants_is_shown_as_it_is(run: Run) -> None:
    inspected = "({ a: 1, [Symbol.for('nodejs.util.inspect.custom')]() { throw new Error('no') } })"
    report = await run(inspected, language="javascript")
    assert report.outcome is Outcome.OK
    assert "a: 1" in (report.text or "")


@pytest.mark.parametrize(
    "code",
    [
        "let o = {}; for (let i = 0; i < 5000; i++) o = { o }; o",
        "let a = []; for (let i = 0; i < 5000; i++) a = [a]; display(a); a",
        "const o = {}; o.o = o; o",
        "new Array(2e6).fill('text')",
        "'x'.repeat(5e7)",
        "Object.fromEntries(Array.from({ length: 4e5 }, (_, i) => [`key${i}`, i]))",
        "({ toJSON() { throw new Error('no') } })",
        "({ n: 5n })",
        "new Proxy({}, { get() { throw new Error('no') } })",
        "display({ 'text/plain': 'x'.repeat(5e7) })",
    ],
)
async def test_nothing_that_is_displayed_ends_a_program(run: Run, code: str) -> None:
    report = await run(f"{code};\n", language="javascript")
    assert (report.outcome, report.error) == (Outcome.OK, None), report.message
    assert len(report.results[-1].text or "") < 2**21


async def test_a_rejected_last_value_is_an_error_once(run: Run) -> None:
    report = await run("const main = async () => { throw new TypeError('t') };\nmain()", language="javascript")
    assert (report.outcome, report.results) == (Outcome.ERROR, ())
    assert report.error is not None
    assert (report.error.name, report.error.value) == ("TypeError", "t")


@pytest.mark.parametrize(
    ("code", "status"),
    [("process.exitCode = 4; console.log('a')", 4), ("process.exit(3)", 3), ("await new Promise(() => 0)", 13)],
)
async def test_an_exit_status_is_told(run: Run, code: str, status: int) -> None:
    report = await run(code, language="javascript")
    assert report.error is not None
    assert (report.outcome, report.error.name, report.error.value) == (Outcome.ERROR, "ExitStatus", str(status))


async def test_the_program_s_file_is_not_among_its_outputs(run: Run) -> None:
    code = "require('fs').writeFileSync('made.js', '1'); console.log(require('fs').readdirSync('.').join())"
    report = await run(code, language="javascript", outputs=["*"])
    assert list(report.files) == ["made.js"]


async def test_a_file_of_the_program_s_name_is_left_alone(run: Run) -> None:
    code = "console.log(__filename, require('./program.js'))"
    report = await run(code, language="javascript", files={"program.js": b"module.exports = 'given'"})
    assert report.stdout == "/home/user/program1.js given\n"


async def test_a_program_for_which_there_is_no_room_fails(run: Run) -> None:
    report = await run(f"// {'x' * 2**20}", language="javascript", limits=Limits(memory_mib=512, cpu_s=20, disk_mib=1))
    assert report.error is not None
    assert (report.outcome, "File too large" in report.error.value) == (Outcome.ERROR, True), report


async def test_npm_works_as_far_as_it_needs_no_network(run: Run) -> None:
    code = "npm init -y > /dev/null && npm pkg set scripts.hi='echo said' && npm run --silent hi && npx --version"
    report = await run(code, language="bash")
    assert report.outcome is Outcome.OK, report
    assert report.stdout.startswith("said\n")
    offline = await run("npm install left-pad", language="bash", timeout_s=15.0)
    assert offline.outcome is Outcome.ERROR
    assert "network" in offline.stderr


async def test_a_program_that_asks_for_the_size_of_its_input_reads_it_at_once(run: Run) -> None:
    code = "const all = Buffer.alloc(fs.fstatSync(0).size); console.log(fs.readSync(0, all), `${all}`)"
    code = f"const fs = require('fs'); {code}"
    assert (await run(code, language="javascript", stdin=b"1 2 3")).stdout == "5 1 2 3\n"
