"""Interpreters begin in the middle: forked from one that has rehearsed. Programs must not be able to tell."""

from __future__ import annotations

import pytest

from tests.backends import Run

pytestmark = pytest.mark.asyncio(loop_scope="module")
WITH_PACKAGES = "import numpy as np\n"


@pytest.mark.parametrize("packages", ["", WITH_PACKAGES], ids=["lean", "loaded"])
async def test_nothing_of_the_rehearsal_is_left(run: Run, packages: str) -> None:
    report = await run(
        packages
        + """
import sys
known = {"np", "sys", "known", "In", "Out", "get_ipython", "exit", "quit", "open"}
print({name for name in globals() if name == "_" or not name.startswith("_")} - known)
print([name for name in sys.modules if name.split(".")[0] == "actors"])
plots = sys.modules.get("matplotlib.pyplot")
print(plots.get_fignums() if plots else [])
print(__import__("threading").active_count(), sys.argv)
"""
    )
    assert report.stdout == "set()\n[]\n[]\n1 ['program.py']\n"


async def test_each_has_numpy_randomness_of_its_own_that_can_be_seeded(run: Run) -> None:
    draw = WITH_PACKAGES + "print(np.random.rand(), np.random.standard_normal())\n"
    drawn = {(await run(draw)).stdout for _ in range(4)}
    assert len(drawn) == 4
    seeded = await run(WITH_PACKAGES + "np.random.seed(0); print(np.random.rand())\n")
    assert seeded.stdout == "0.5488135039273248\n"
    moments = await run(WITH_PACKAGES + "x = np.random.rand(100_000); print(abs(x.mean() - 0.5) < 0.01, len(set(x)))\n")
    assert moments.stdout == "True 100000\n", "the state that it begins with is a sound one"


@pytest.mark.parametrize(
    ("value", "text"), [("7", "7"), ("True", "True"), ("'é'", "'é'"), ("2.5", "2.5"), ("[1]", "[1]")]
)
async def test_plain_values_are_shown_as_they_are_written(run: Run, value: str, text: str) -> None:
    report = await run(value)
    [result] = report.results
    assert (result.text, result.is_main_result, result.html) == (text, True, None)


async def test_programs_decide_how_even_plain_values_are_shown(run: Run) -> None:
    formatter = "f = get_ipython().display_formatter.formatters['text/{}']\n"
    latex = formatter.format("latex") + "f.for_type(int, lambda n: f'${n}$')\n7"
    [result] = (await run(latex)).results
    assert (result.latex, result.text) == ("$7$", "7")
    plain = formatter.format("plain") + "f.for_type(str, lambda s, p, cycle: p.text('<' + s + '>'))\n'a'"
    [result] = (await run(plain)).results
    assert result.text == "<a>"


async def test_modules_in_the_workspace_can_be_imported(run: Run) -> None:
    report = await run(
        "open('helper.py', 'w').write('answer = 42')\nimport helper\nprint(helper.answer, helper.__file__)"
    )
    assert report.stdout == "42 /home/user/helper.py\n"


async def test_standard_streams_are_utf_8_and_lines_leave_at_once(run: Run) -> None:
    report = await run("import os, sys\nprint('é', sys.stdout.encoding, sys.stderr.encoding)\nos._exit(0)")
    assert report.stdout == "é utf-8 utf-8\n"
