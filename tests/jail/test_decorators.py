"""Decorators of TypeScript: the language's own, and its earlier ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.schemas import Outcome
from actors.schemas.action import OpenContext
from tests.backends import OpenSession, Run

pytestmark = pytest.mark.asyncio(loop_scope="module")
LOGGED = """\
function logged(method: Function, context: ClassMethodDecoratorContext) {
  return function (this: unknown, ...args: unknown[]) {
    console.log('call', String(context.name), ...args);
    return method.apply(this, args);
  };
}
"""
PARTS = Path(__file__).with_name("node").joinpath("decorators.txt").read_text().split("==== ")[1:]


@pytest.mark.parametrize("part", PARTS, ids=[part.partition("\n")[0] for part in PARTS])
async def test_decorators_apply(run: Run, part: str) -> None:
    code, _, printed = part.partition("\n")[2].partition("----\n")
    report = await run(code, language="typescript")
    assert (report.outcome, report.stdout) == (Outcome.OK, f"{printed.strip()}\n"), report


async def test_a_tsconfig_asks_for_the_earlier_ones(run: Run) -> None:
    code = "function f(...args: any[]) { console.log(args.length) }\nclass A { @f m() {} }"
    asked = {"tsconfig.json": b'{ "compilerOptions": { "experimentalDecorators": true } }'}
    assert (await run(code, language="typescript")).stdout == "2\n"
    assert (await run(code, language="typescript", files=asked)).stdout == "3\n"


async def test_errors_in_decorated_classes_are_told_where_they_were_written(run: Run) -> None:
    code = f"{LOGGED}class A {{\n  @logged\n  m(): never {{\n    throw new Error('in m');\n  }}\n}}\nnew A().m();"
    report = await run(code, language="typescript")
    assert report.error is not None
    assert report.error.traceback.startswith("/home/user/program.ts:10\n    throw new Error('in m');")


async def test_a_session_decorates_too(session: OpenSession) -> None:
    await session.do(OpenContext(context="c", language="typescript"))
    await session.run(LOGGED, context="c", language="typescript")
    report = await session.run("class A { @logged m() { return 5 } }\nnew A().m()", context="c", language="typescript")
    assert (report.stdout, report.text) == ("call m\n", "5"), report
