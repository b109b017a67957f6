"""TypeScript as people write it, also where plain Node.js does not take it: as tsc and its like do."""

from __future__ import annotations

import pytest

from actors.schemas import Outcome
from tests.backends import Run

pytestmark = pytest.mark.asyncio(loop_scope="module")
BESIDE = {
    "util.ts": "export interface Options { n: number }\nexport type Id = string;\n"
    "export const twice = (n: number): number => n * 2;\nexport default class Box<T> { constructor(public v: T) {} }\n",
    "lib/index.ts": "export * from './deep';\nexport enum Level { Low, High }\n",
    "lib/deep.ts": "import { twice } from '../util.js';\nexport const four = (): number => twice(2);\n"
    "export function bad(): never {\n  enum E { A }\n  throw new RangeError('deep');\n}\n",
    "barrel.ts": "export { Options, Id, twice } from './util';\nexport { default as Box } from './util';\n",
    "again.ts": "import { Options, twice, Id } from './barrel';\nexport { Options, Id, twice as double };\n"
    "export { Options as Other } from './barrel';\n",
    "old.js": "module.exports = { old: 5 };\n",
    "common.cts": "export = { c: 7 as number };\n",
    "data.json": '{"k": [1, 2]}\n',
}


@pytest.mark.parametrize(
    ("code", "printed"),
    [
        ("enum Color { Red, Green }\nconst c: Color = Color.Green;\nconsole.log(c);", "1"),
        (
            "class A { constructor(private readonly x: number) {}\n  get(): number { return this.x; } }\n"
            "console.log(new A(5).get());",
            "5",
        ),
        ("import fs = require('fs');\nconsole.log(typeof fs.readFileSync);", "function"),
        ("import fs = require('fs');\nexport const a = 1;\nconsole.log(typeof fs.readFileSync);", "function"),
        ("import { twice } from './util';\nconsole.log(twice(3));", "6"),
        ("import { twice } from './util.ts';\nconsole.log(twice(3));", "6"),
        ("import Box, { twice } from './util.js';\nconsole.log(new Box<number>(twice(4)).v);", "8"),
        ("import { Options, Id, twice } from './util';\nconst o: Options = { n: 1 };\nconsole.log(twice(o.n));", "2"),
        ("import { Options } from './util';\nlet o: Options;\nconsole.log('no value');", "no value"),
        ("import { four, Level } from './lib';\nconsole.log(four(), Level.High, Level[0]);", "4 1 Low"),
        ("const { twice } = require('./util');\nconsole.log(twice(5 as number));", "10"),
        ("import { Box, Options, twice } from './barrel';\nlet o: Options;\nconsole.log(new Box(twice(2)).v);", "4"),
        ("import { Id, Other, double } from './again';\nlet o: Other | Id;\nconsole.log(double(3));", "6"),
        ("export { Options, twice } from './util';\nconsole.log('passed on');", "passed on"),
        ("import old from './old';\nconsole.log(old);", "{ old: 5 }"),
        ("import c = require('./common.cts');\nconsole.log(c);", "{ c: 7 }"),
        ("import data from './data.json';\nconsole.log(data.k);", "[ 1, 2 ]"),
        ("const data = require('./data.json');\nconsole.log(data.k);", "[ 1, 2 ]"),
        ("const { twice } = await import('./util');\nconsole.log(twice(1));", "2"),
        (
            "import fs from 'fs';\nif (require.main === module) console.log('main', typeof fs, __dirname);",
            "main object /home/user",
        ),
        ("export function main(): void { console.log('ran') }\nmain();\nmodule.exports = { main };", "ran"),
        ("export default class {}\ninterface P { a: 1 }\nconst a = 1;\nexport { P, a };\nconsole.log(a);", "1"),
        (
            "abstract class S { abstract get area(): number }\n"
            "class C extends S { get area() { return 3 } }\nconsole.log(new C().area);",
            "3",
        ),
        (
            "import { Worker, isMainThread, parentPort } from 'worker_threads';\nimport { twice } from './util';\n"
            "if (isMainThread) new Worker(__filename).on('message', (m: number) => console.log(m));\n"
            "else parentPort!.postMessage(twice(8));",
            "16",
        ),
        (
            "import { fork } from 'child_process';\nimport { twice } from './util';\n"
            "if (process.send) process.send(twice(9));\nelse fork(__filename).on('message', (m) => console.log(m));",
            "18",
        ),
    ],
)
async def test_a_program_runs_as_tsc_would_have_it(run: Run, code: str, printed: str) -> None:
    files = {path: text.encode() for path, text in BESIDE.items()}
    report = await run(code, language="typescript", files=files)
    assert (report.outcome, report.stdout, report.stderr) == (Outcome.OK, f"{printed}\n", ""), report


async def test_an_error_is_told_where_it_was_written(run: Run) -> None:
    code = (
        "import { bad } from './lib';\ninterface A { x: number }\nenum E { A, B }\n\n"
        "function f(a: A): void {\n  bad();\n}\nf({ x: E.B });"
    )
    report = await run(code, language="typescript", files={path: text.encode() for path, text in BESIDE.items()})
    assert report.error is not None
    told = report.error.traceback
    assert told.startswith("/home/user/lib/deep.ts:5\n  throw new RangeError('deep');\n        ^\n\nRangeError: deep\n")
    assert [line.split("/")[-1].rstrip(")") for line in told.splitlines()[5:]] == [
        "deep.ts:5:9",
        "program.ts:6:3",
        "program.ts:8:1",
    ]


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("const x: number[] = [1, 2];\nx.map((n: number): number => n + 1)", "[ 2, 3 ]"),
        ("1 + (2 as number)", "3"),
        ("import path from 'node:path';\npath.join('a', 'b');", "'a/b'"),
        ("enum E { A = 4 }\nE.A // the last", "4"),
        ("const f = async (): Promise<string> => 'waited';\nf()", "'waited'"),
        ("interface A { x: number }", None),
    ],
)
async def test_its_last_value_is_a_result(run: Run, code: str, text: str | None) -> None:
    report = await run(code, language="typescript")
    assert (report.outcome, report.text) == (Outcome.OK, text), report
