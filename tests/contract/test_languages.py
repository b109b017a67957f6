"""Programs in other languages than Python."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from actors.errors import ContextLost, InvalidRequest
from actors.schemas import Outcome
from actors.schemas.action import Interrupt, OpenContext, RestartContext
from tests.backends import OpenSession, Run

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.needs("processes")]
HELLO = {
    "bash": "name=world; echo hello $name; echo err >&2",
    "javascript": "const name = 'world'; console.log(`hello ${name}`); console.error('err')",
    "typescript": "const name: string = 'world'; console.log(`hello ${name}`); console.error('err')",
}
HARD = {"QUOTE": "'\"\\`$(touch /tmp/owned)", "LINES": "a\nb'\\n", "UNICODE": "é✓", "EMPTY": "", "HOME": "/tmp"}


@pytest.mark.parametrize("language", HELLO)
async def test_a_program_prints(run: Run, language: Any) -> None:
    report = await run(HELLO[language], language=language)
    assert (report.outcome, report.stdout, report.stderr) == (Outcome.OK, "hello world\n", "err\n"), report
    assert report.usage.cpu_s is not None


@pytest.mark.parametrize(
    ("language", "code", "name", "words"),
    [
        ("bash", "exit 3", "ExitStatus", "3"),
        ("bash", "false", "ExitStatus", "1"),
        ("bash", "if then", "ExitStatus", "2"),
        ("bash", "kill -TERM $$", "ExitStatus", "143"),
        ("javascript", "function f() {\n  null.x\n}\nf()", "TypeError", "program.js:2:8"),
        ("javascript", "let x = ;", "SyntaxError", "program.js:1"),
        ("javascript", "throw {a: 1}", "Thrown", "{ a: 1 }"),
        ("javascript", "Promise.reject(new RangeError('late'))", "RangeError", "late"),
        ("javascript", "setTimeout(() => { throw new Error('in a timer') }, 10)", "Error", "in a timer"),
        ("javascript", "process.exit(4)", "ExitStatus", "4"),
        ("javascript", "import x from 'nowhere'", "Error", "nowhere"),
        ("typescript", "const a = 1\nlet b: number = ;", "SyntaxError", "program.ts:2"),
        ("typescript", "enum A { B }\n\nthrow new Error(A[0])", "Error", "program.ts:3:7"),
    ],
)
async def test_a_program_that_fails_says_how(run: Run, language: str, code: str, name: str, words: str) -> None:
    report = await run(code, language=language)
    assert report.outcome is Outcome.ERROR
    assert report.error is not None
    assert (report.error.name, words in report.error.value + report.error.traceback) == (name, True), report.error
    for own in ("node:internal", "node:inspector", "node-host"):
        assert own not in report.error.traceback


@pytest.mark.parametrize(("language", "code"), [("bash", "exit 0"), ("javascript", "process.exit()")])
async def test_a_program_that_says_it_is_done_has_done_nothing_wrong(run: Run, language: str, code: str) -> None:
    assert (await run(code, language=language)).outcome is Outcome.OK


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("1 + 1", "2"),
        ("const x = [1, 'a']; x", "[ 1, 'a' ]"),
        ("await Promise.resolve('waited')", "'waited'"),
        ("new Map([[1, 2]])", "Map(1) { 1 => 2 }"),
        ("undefined", None),
        ("let y = 1", None),
    ],
)
async def test_the_last_value_is_shown(run: Run, code: str, text: str | None) -> None:
    assert (await run(code, language="javascript")).text == text


async def test_values_have_other_formats_too(run: Run) -> None:
    report = await run("display({'text/html': '<b>x</b>'}); display(1); ({a: [1]})", language="javascript")
    html, plain, last = report.results
    assert (html.html, plain.text, last.json_, last.is_main_result) == ("<b>x</b>", "1", {"a": [1]}, True)


async def test_a_program_waits_for_what_it_has_begun(run: Run) -> None:
    code = "async function main() { await new Promise(go => setTimeout(go, 50)); console.log('done') }\nmain()"
    assert (await run(f"{code}; undefined", language="javascript")).stdout == "done\n"


async def test_static_imports_make_it_a_module(run: Run) -> None:
    code = "import fs from 'node:fs';\nimport { join } from 'node:path';\nconsole.log(fs.existsSync(join('/', 'usr')))"
    report = await run(code, language="javascript")
    assert (report.stdout, (await run("ls -a /home/user", language="bash")).stdout) == ("true\n", ".\n..\n")
    typed = await run("import fs from 'node:fs';\nconst n: number = 2;\nconsole.log(n)", language="typescript")
    assert typed.stdout == "2\n"


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("bash", "cat; read x; echo end"),
        ("javascript", "process.stdout.write(require('fs').readFileSync(0, 'utf8')); console.log('end')"),
        (
            "javascript",
            "process.stdin.on('data', d => process.stdout.write(d)).on('end', () => console.log('end')); undefined",
        ),
    ],
)
async def test_standard_input(run: Run, session: OpenSession, language: str, code: str) -> None:
    assert (await run(code, language=language, stdin=b"a\nb\n")).stdout == "a\nb\nend\n"
    assert (await run(code, language=language)).stdout == "end\n"
    await session.do(OpenContext(context="c", language=language))
    for text in ("one", "two"):
        report = await session.run(code, context="c", language=language, stdin=text.encode())
        assert report.stdout == f"{text}end\n"


PRINT = "import os, json; print(json.dumps([os.environ.get(name) for name in {names}]))"
SHOW = {
    "bash": f"python3 -c '{PRINT}'",
    "javascript": "const { execFileSync } = require('child_process');"
    f"console.log(execFileSync('python3', ['-c', `{PRINT}`]).toString().trim());"
    "console.log(JSON.stringify({names}.map(name => process.env[name] ?? null)))",
}


@pytest.mark.parametrize("language", SHOW)
async def test_variables_of_any_value_and_gone_afterwards(run: Run, session: OpenSession, language: Any) -> None:
    show = "{ %s }" % SHOW[language].replace("{names}", json.dumps(list(HARD)))  # noqa: UP031 - a block, so run twice
    if language == "bash":
        show = show.replace(" }", "; }")

    def shown(printed: str) -> list[list[str | None]]:
        return [json.loads(line) for line in printed.splitlines()]

    alone = shown((await run(show, language=language, env=HARD)).stdout)
    assert alone[0] == alone[-1] == list(HARD.values())
    await session.do(OpenContext(context="c", language=language))
    assert shown((await session.run(show, context="c", language=language, env=HARD)).stdout) == alone
    after = shown((await session.run(show, context="c", language=language)).stdout)
    assert after[0] == after[-1] == [None, None, None, None, "/home/user"]
    assert not (await session.command("test -e /tmp/owned")).ok


STATE = {
    "bash": ("x=5; f() { echo f$x; }; cd /tmp", "f; pwd", "f5\n/tmp\n"),
    "javascript": ("const x = 5; let y = 1; class A { m() { return x + y } }", "console.log(new A().m())", "6\n"),
    "typescript": ("const x: number = 5; type T = string", "const t: T = 'a'; console.log(x, t)", "5 a\n"),
}


@pytest.mark.parametrize("language", STATE)
async def test_a_session_s_programs_share_what_they_define(session: OpenSession, language: Any) -> None:
    define, use, printed = STATE[language]
    await session.do(OpenContext(context="c", language=language))
    assert (await session.run(define, context="c", language=language)).outcome is Outcome.OK
    assert (await session.run(use, context="c", language=language)).stdout == printed
    failing = {"bash": "nonsense-command"}.get(language, "throw new Error('x')")
    assert (await session.run(failing, context="c", language=language)).outcome is Outcome.ERROR
    assert (
        await session.run(
            use.replace("const t: T", "const u: T").replace(", t)", ", 'a')"), context="c", language=language
        )
    ).stdout == printed


@pytest.mark.parametrize("language", ["bash", "javascript"])
async def test_the_first_program_says_what_a_session_s_interpreter_is(session: OpenSession, language: Any) -> None:
    await session.run("x=1", language=language)
    with pytest.raises(InvalidRequest, match=language):
        await session.run("x = 1")
    await session.do(RestartContext())
    await session.run("x=1", language=language)


BUSY = {
    "bash": ["while :; do :; done", "sleep 60", "cat /dev/zero | cat > /dev/null"],
    "javascript": [
        "while (true) {}",
        "await new Promise(go => setTimeout(go, 1e6))",
        "setInterval(() => 0, 10); undefined",
    ],
}


@pytest.mark.parametrize(("language", "code"), [(language, code) for language, codes in BUSY.items() for code in codes])
async def test_interrupts_and_timeouts_keep_state(session: OpenSession, language: str, code: str) -> None:
    fields: dict[str, Any] = {"context": "c", "language": language}
    await session.do(OpenContext(context="c", language=language))
    await session.run("x=7", **fields)
    running = asyncio.ensure_future(session.run(code, **fields))
    await asyncio.sleep(0.4)
    await session.do(Interrupt(context="c"))
    report = await asyncio.wait_for(running, 5)
    assert report.outcome is Outcome.ERROR
    assert report.error is not None
    assert report.error.name == "Interrupted"
    assert (await session.run(code, timeout_s=0.4, **fields)).outcome is Outcome.TIMEOUT
    show = {"bash": "echo $x", "javascript": "console.log(x)"}[language]
    assert (await session.run(show, **fields)).stdout == "7\n"


@pytest.mark.parametrize(("language", "code"), [(language, code) for language, codes in BUSY.items() for code in codes])
async def test_a_program_out_of_time_is_killed_with_all_it_started(run: Run, language: str, code: str) -> None:
    assert (await run(f"{code}", language=language, timeout_s=0.5)).outcome is Outcome.TIMEOUT
    assert (
        await run("trap '' INT TERM; while :; do sleep 60; done", language="bash", timeout_s=0.3)
    ).outcome is Outcome.TIMEOUT


@pytest.mark.parametrize(
    ("language", "code"), [("bash", "exit 3"), ("bash", "kill -9 $$"), ("javascript", "process.exit(3)")]
)
async def test_one_that_ends_its_interpreter_has_lost_the_context(
    session: OpenSession, language: str, code: str
) -> None:
    await session.do(OpenContext(context="c", language=language))
    assert (await session.run(code, context="c", language=language)).outcome is Outcome.ERROR
    await asyncio.sleep(0.1)
    with pytest.raises(ContextLost):
        await session.run("1", context="c", language=language)
    await session.do(RestartContext(context="c"))
    assert (
        await session.run("true" if language == "bash" else "1", context="c", language=language)
    ).outcome is Outcome.OK


async def test_a_crash_of_node_is_one(run: Run) -> None:
    report = await run("process.kill(process.pid, 'SIGSEGV'); await new Promise(() => 0)", language="javascript")
    assert report.outcome is Outcome.CRASHED
    assert "SIGSEGV" in (report.message or "")


async def test_a_session_s_server_may_stay(session: OpenSession) -> None:
    await session.do(OpenContext(context="js", language="javascript"))
    await session.run(
        "require('http').createServer((q, s) => s.end('served')).listen(8123); undefined",
        context="js",
        language="javascript",
    )
    code = "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:8123').read()"
    assert (await session.run(code)).text == "b'served'"


async def test_memory_is_limited_in_node_too(run: Run) -> None:
    report = await run(
        "const a = []; while (true) a.push(new Array(1e6).fill(1.5))", language="javascript", timeout_s=20.0
    )
    assert report.outcome in (Outcome.OUT_OF_MEMORY, Outcome.CRASHED)


async def test_each_program_is_pristine(run: Run) -> None:
    for language, leave, look in (
        ("bash", "echo x > left; export Y=1", "ls; echo $Y"),
        (
            "javascript",
            "globalThis.y = 1; require('fs').writeFileSync('left', '')",
            "console.log(typeof y, require('fs').readdirSync('.'))",
        ),
    ):
        await run(leave, language=language)
        assert "left" not in (await run(look, language=language)).stdout
        assert "1" not in (await run(look, language=language)).stdout
