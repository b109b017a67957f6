"""A session's JavaScript and TypeScript: as in a console, which is Node's own one where that takes the program."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from actors.backends.jail.host import languages
from actors.schemas import Outcome, ProgramReport
from actors.schemas.action import OpenContext
from tests.backends import OpenSession

pytestmark = pytest.mark.asyncio(loop_scope="module")
NODE = languages.installed(sys.path, os.defpath)["javascript"]
BESIDE = {
    "counter.mjs": b"export let count = 0;\nexport const more = () => { count++; };\nexport default 'counted';\n",
    "data.json": b'{"k": 1}\n',
    "util.ts": b"export interface Options { n: number }\nexport const twice = (n: number): number => n * 2;\n",
}
# Programs of one session, in order, and what each shows: a text, or the name of the error that ends it.
SEQUENCES: dict[str, list[tuple[str, str | None]]] = {
    "javascript": [
        ("const a = 1; a", "1"),
        ("const a = 2; a", "2"),
        ("a = 3", "!TypeError"),
        ("let b = 1, f = () => 3; class A {}; function g() { return 4 }; f() + g()", "7"),
        ("let b = 2; class A { x() { return 9 } }; function g() { return 5 }; new A().x() + b + g()", "16"),
        ("var v = 1; v", "1"),
        ("var v = 2; v", "2"),
        ("const c = 1; const c = 2", "!SyntaxError"),
        ("import path from 'node:path';\nconst z = 7;", None),
        ("z", "7"),
        ("path.join('a', 'b')", "'a/b'"),
        (
            "import path, { sep as s } from 'node:path';\nimport * as f from 'fs';\npath.join('a', 'b') + s + typeof f",
            "'a/b/object'",
        ),
        ("var p = 1; function q2() {}", None),
        ("import p, { sep as q2 } from 'node:path'; p.join('x', q2)", "'x/'"),
        ("const half = (() => { throw new Error('half') })()", "!Error"),
        ("import half from 'node:path'; half.sep", "'/'"),
        ("const path = 5; path", "5"),
        ("import path from 'node:path';\npath.sep", "'/'"),
        ("import word, { count, more } from './counter.mjs';\nmore(); more();\n[word, count]", "[ 'counted', 2 ]"),
        ("more(); count", "3"),
        ("count = 5", "!TypeError"),
        ("import { less } from './counter.mjs'", "!SyntaxError"),
        ("import nothing from './nothing.mjs'", "!Error"),
        ("import data from './data.json' with { type: 'json' };\ndata", "{ k: 1 }"),
        ("const { count: n } = await import('./counter.mjs'); n", "3"),
        ("export const exported = 5; export default { exported }", "{ exported: 5 }"),
        ("exported", "5"),
        ("export default function named() { return 1 }", None),
        ("named()", "1"),
        ("import.meta.url", "'file:///home/user/program.js'"),
        ("[import.meta.dirname, __dirname, __filename]", "[ '/home/user', '/home/user', '/home/user/program.js' ]"),
        ("require.main === module", "true"),
        ("{ a: 1 }", "{ a: 1 }"),
        ("_", "{ a: 1 }"),
        ("{ let q = 1; q }", "1"),
        ("var _ = { own: 1 }; 2", "2"),
        ("_.own", "1"),
        ("for (const i of [1, 2]) { i * 2 }", "4"),
        ("await 3; let y = 4; y", "4"),
        ("y", "4"),
        ("os.EOL", "'\\n'"),
        ("const crypto = require('crypto'); crypto.randomBytes(3).length", "3"),
        ("const { URL } = require('url'); new URL('http://a/b').pathname", "'/b'"),
        ("Promise.resolve(7)", "7"),
        ("Promise.reject(new RangeError('r'))", "!RangeError"),
        ("throw { a: 1 }", "!Thrown"),
        ("setTimeout(() => { throw new EvalError('late') }, 5); undefined", "!EvalError"),
        ("process.exitCode = 3; undefined", "!ExitStatus"),
        ("typeof process.exitCode", "'undefined'"),
        ("return 5", "!SyntaxError"),
        ("'use strict'; undeclared = 1", "!ReferenceError"),
        ("undeclared = 1; undeclared", "1"),
        ("process.argv.length", "1"),
        ("let x = 1;\n// that is all", None),
        ("", None),
        ("/* nothing */", None),
        ("function* gen() { yield 1 }\n[...gen()]", "[ 1 ]"),
        ("label: for (;;) { break label }", None),
        ("eval('const inner = 5; inner') + new Function('return 1')()", "6"),
        ("this === globalThis", "true"),
        ("const r = await new Promise((go) => setTimeout(go, 5, 'r')); r", "'r'"),
    ],
    "typescript": [
        ("enum Color { Red, Green = 5 }\nconst c: Color = Color.Green; c", "5"),
        ("Color[0]", "'Red'"),
        ("const c: Color = Color.Red; c", "0"),
        ("interface P { a: number }\nconst p: P = { a: 1 }; p", "{ a: 1 }"),
        ("const p = <P>{ a: 2 }; p satisfies P", "{ a: 2 }"),
        ("namespace N { export const q = 4 }\nN.q", "4"),
        ("class K { constructor(private readonly v: number) {} get(): number { return this.v } }\nnew K(5).get()", "5"),
        ("import { twice, Options } from './util';", None),
        ("const o: Options = { n: 3 }; twice(o.n)", "6"),
        ("import fs = require('fs'); typeof fs.existsSync", "'function'"),
        ("const enum E { X = 3 }\nE.X", "3"),
        ("abstract class Q { abstract m(): void }", None),
        ("type X = string; declare const zz: number;", None),
        ("const bad: number = ;", "!SyntaxError"),
        ("null!.x", "!TypeError"),
        ("const w = await Promise.resolve(2 as number); w", "2"),
    ],
}


# Programs of one session which Node's own console takes too.
ORDINARY = [
    "const a = 1; a",
    "a + 1",
    "let b = { c: [1, 'x', null, undefined], d: new Map([[1, { e: new Set([2]) }]]) }; b",
    "b.c.length",
    "{ a: 1, ...b }",
    "{ let inner = 5; inner }",
    "{}",
    "[] + {}",
    "'text'",
    "`a${1}`",
    "'use strict'",
    "-0",
    "10n ** 20n",
    "Symbol('s')",
    "null",
    "undefined",
    "var v = 1",
    "v++",
    "v",
    "function f(x) { return x * 2 }",
    "f(21)",
    "f",
    "class A { #p = 1; get p() { return this.#p } static s = 2 }",
    "new A().p + A.s",
    "class B extends A { constructor() { super(); this.q = 3 } }; new B()",
    "if (v > 1) { 'more' } else { 'less' }",
    "for (let i = 0; i < 3; i++) i * i",
    "switch (1) { case 1: 'one' }",
    "try { null.x } catch (error) { error.constructor.name }",
    "[1, 2, 3].map((n) => n ** 2)",
    "new Error('shown').message",
    "new Date(0)",
    "/a+/gi",
    "Buffer.from('é')",
    "const { x, y: [z = 4] } = { x: 1, y: [] }; [x, z]",
    "x.nothing.at.all",
    "missing",
    "throw new RangeError('r')",
    "let w = 1; let w = 2",
    "const k = 1; k = 2",
    "await 5",
    "const awaited = await Promise.all([1, Promise.resolve(2)]); awaited",
    "awaited.length",
    "await Promise.reject(new EvalError('e'))",
    "async function g() { await null; return 7 }; await g()",
    "typeof require",
    "require('path').join('a', 'b')",
    "path.join('a', 'b')",
    "fs.existsSync('/')",
    "this === globalThis",
    "globalThis.made = 1; made",
    "eval('1 + 1')",
    "label: for (;;) break label",
    "void 0",
    "delete globalThis.made",
    "typeof made",
    "(() => { throw { odd: true } })()",
    "// nothing",
]
IN_NODE = r"""
const { PassThrough } = require("stream");
const [input, output] = [new PassThrough(), new PassThrough({ encoding: "utf8" })];
require("repl").start({ input, output, prompt: "\u0001", terminal: false, useGlobal: true, ignoreUndefined: true });
const programs = JSON.parse(process.argv[1]);
let written = "";
const shown = [];
output.on("data", (text) => {
  written += text;
  while (written.includes("\u0001")) {
    shown.push(written.slice(0, written.indexOf("\u0001")));
    written = written.slice(written.indexOf("\u0001") + 1);
    if (shown.length > programs.length) {
      console.log(JSON.stringify(shown.slice(1)));
      process.exit();
    }
    input.write(programs[shown.length - 1] + "\n");
  }
});
"""


def shown_in_node(programs: list[str]) -> list[str | None]:
    """Return what each program shows in Node's own console."""
    command = [NODE, "-e", IN_NODE, json.dumps(programs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return [_shown(written.rstrip("\n")) for written in json.loads(done.stdout)]


def _shown(written: str) -> str | None:
    _, failed, what = written.rpartition("Uncaught")
    if not failed:
        return written or None
    error = re.match(r":?\s+(\w*Error)\b", what)
    return f"!{error[1]}" if error else "!Thrown"


def shown_by(report: ProgramReport) -> str | None:
    """Return what a program showed: a text, or the name of the error that ended it."""
    return f"!{report.error.name}" if report.error is not None else report.text


async def opened(session: OpenSession, language: Any) -> dict[str, Any]:
    """Open a context of a language, and return the options of programs in it."""
    await session.do(OpenContext(context="c", language=language))
    await session.run("0", context="c", language=language, files=BESIDE)
    return {"context": "c", "language": language}


@pytest.mark.parametrize("language", SEQUENCES)
async def test_programs_of_a_session_show_what_a_console_does(session: OpenSession, language: str) -> None:
    there = await opened(session, language)
    for code, expected in SEQUENCES[language]:
        report = await session.run(code, **there)
        assert shown_by(report) == expected, (code, report)
        assert report.stderr == "", code


async def test_programs_show_what_they_do_in_node_s_own_console(session: OpenSession) -> None:
    there = await opened(session, "javascript")
    in_node = await asyncio.to_thread(shown_in_node, ORDINARY)
    for code, expected in zip(ORDINARY, in_node, strict=True):
        assert shown_by(await session.run(code, **there)) == expected, code


async def test_errors_show_the_place_in_their_program_and_in_earlier_ones(session: OpenSession) -> None:
    there = await opened(session, "javascript")
    await session.run("const one = 1;\nfunction f(x) {\n  return x.y.z;\n}", **there)
    report = await session.run("// calls it\n  f({})", **there)
    assert report.error is not None
    place = "REPL2:3\n  return x.y.z;\n             ^\n\n"
    assert report.error.traceback == (
        f"{place}TypeError: Cannot read properties of undefined (reading 'z')\n    at f (REPL2:3:14)\n    at REPL3:2:3"
    )
    report = await session.run("let ok = 1;\nlet x = ;", **there)
    assert report.error is not None
    assert report.error.traceback == "REPL4:2\nlet x = ;\n        ^\n\nSyntaxError: Unexpected token ';'"


async def test_errors_of_what_is_written_anew_show_the_place_as_it_was_written(session: OpenSession) -> None:
    there = await opened(session, "typescript")
    code = (
        "interface A {\n  x: number\n}\nenum E { B }\n"
        "function f(a: A): never {\n  throw new Error('x' + a.x);\n}\nf({ x: E.B });"
    )
    report = await session.run(code, **there)
    assert report.error is not None
    assert report.error.traceback.splitlines()[:2] == ["REPL2:6", "  throw new Error('x' + a.x);"]
    assert report.error.traceback.endswith("    at f (REPL2:6:9)\n    at REPL2:8:1")


async def test_what_is_imported_follows_the_working_directory(session: OpenSession) -> None:
    there = await opened(session, "javascript")
    await session.run("fs.mkdirSync('deep'); fs.writeFileSync('deep/m.mjs', 'export const m = 1')", **there)
    await session.run("fs.writeFileSync('deep/c.js', 'exports.c = 2'); process.chdir('deep')", **there)
    report = await session.run("import { m } from './m.mjs';\n[m, require('./c').c, __dirname]", **there)
    assert report.text == "[ 1, 2, '/home/user/deep' ]", report


async def test_an_interrupted_program_shows_nothing_later(session: OpenSession) -> None:
    there = await opened(session, "javascript")
    waiting = (
        "setTimeout(() => 0, 1e6); await new Promise((go) => { globalThis.go = go }); console.log('later'); 'shown'"
    )
    assert (await session.run(waiting, timeout_s=0.3, **there)).outcome is Outcome.TIMEOUT
    report = await session.run("go(); await null; 1", **there)
    assert (report.outcome, report.text, len(report.results)) == (Outcome.OK, "1", 1)


async def test_an_error_between_programs_does_not_end_the_session(session: OpenSession) -> None:
    there = await opened(session, "javascript")
    server = "require('net').createServer(() => { throw new Error('between') }).listen(8124); undefined"
    await session.run(server, **there)
    await session.command("bash -c 'exec 3<>/dev/tcp/127.0.0.1/8124'")
    report = await session.run("1 + 1", **there)
    assert (report.outcome, report.text) == (Outcome.OK, "2")
