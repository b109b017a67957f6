"""Programs that are nested deep: what CPython compiles runs here, and what it refuses costs an exception, no more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from actors.schemas import Outcome
from tests.backends import OpenSession, Run

pytestmark = pytest.mark.asyncio(loop_scope="module")

ELIFS = "x = 1499\nif x == 0: y = 0\n" + "".join(f"elif x == {n}: y = {n}\n" for n in range(1, 1500)) + "print(y)"
DEEP = {
    "1,100 terms": "print(" + " + ".join(["1"] * 1100) + ")",
    "2,000 literals": "s = " + " + ".join(['"a"'] * 2000) + "\nprint(len(s))",
    "2,900 literals": "s = " + " + ".join(['"a"'] * 2900) + "\nprint(len(s))",
    "an expression at the end": "len(" + " + ".join(["'a'"] * 2000) + ")",
    "a chain of calls": "s = 'a'" + ".strip()" * 900 + "\nprint(s)",
    "1,500 branches": ELIFS,
    "2,000 negations": "print(" + "-" * 2000 + "1)",
    "5,000 terms": "print(" + " + ".join(["1"] * 5000) + ")",
    "100,000 terms": "print(" + " + ".join(["1"] * 100_000) + ")",
    "5,000 branches": "x = 1\n" + "if x == 0: y = 0\n" + "elif x == 2: y = 2\n" * 5000 + "else: print('other')",
}


def in_cpython(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", DEEP)
async def test_a_deep_program_ends_as_in_cpython(run: Run, name: str) -> None:
    plain = in_cpython(DEEP[name])
    report = await run(DEEP[name])
    assert report.stdout == plain.stdout
    if plain.returncode == 0:
        assert report.outcome is Outcome.OK, report.error
    else:
        assert report.outcome is Outcome.ERROR
        assert report.error is not None
        assert f"{report.error.name}: {report.error.value}" == plain.stderr.splitlines()[-1]


async def test_a_program_that_is_too_deep_leaves_a_session_its_state(session: OpenSession) -> None:
    await session.run("x = 7")
    for code in (DEEP["100,000 terms"], "%time " + DEEP["100,000 terms"]):
        report = await session.run(code)
        assert report.error is not None
        assert report.error.name == "RecursionError"
    assert (await session.run("import sys\nx, sys.getrecursionlimit()")).text == "(7, 1000)"
