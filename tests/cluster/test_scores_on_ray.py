"""Programs scored on Ray and real jails, as a trainer does it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import actors
from actors.errors import InvalidRequest
from actors.schemas.score import CaseScore, Verdict
from actors.testing import Deployment, deployed


@pytest.fixture(scope="module")
def system(orchestrator_cluster: None) -> Iterator[Deployment]:
    with deployed(router={"local": "jail"}, pool={"min_size": 2, "target_size": 3, "max_size": 5}) as running:
        yield running


def scored(system: Deployment, code: str, case: dict[str, Any], **options: Any) -> CaseScore:
    """Score a program by one case."""
    score: actors.Score = ray.get(system.orchestrator.score.remote(code, [case], **options), timeout=120)
    return score.cases[0]


ADD = "a, b = map(int, input().split())\nprint(a + b)"


def test_a_program_is_scored_case_by_case(system: Deployment) -> None:
    cases = [
        {"name": "small", "stdin": "1 2", "expected": "3\n"},
        {"name": "wrong", "stdin": "1 2", "expected": "4"},
        {"name": "bad input", "stdin": "x", "expected": "3"},
        {
            "name": "checked",
            "stdin": "2 2",
            "expected": "4",
            "checker": "open('output.txt').read().strip() == open('expected.txt').read()",
        },
        {"name": "half", "stdin": "2 2", "checker": "0.5", "weight": 2},
    ]
    score = ray.get(system.orchestrator.score.remote(ADD, cases, user="trainer", timeout_s=5))
    verdicts = [(case.name, case.verdict, case.points) for case in score.cases]
    assert verdicts == [
        ("small", Verdict.PASSED, 1), ("wrong", Verdict.FAILED, 0), ("bad input", Verdict.ERROR, 0),
        ("checked", Verdict.PASSED, 1), ("half", Verdict.FAILED, 0.5),
    ]  # fmt: skip
    assert score.cases[1].detail == "line 1: '3', where '4' was expected"
    assert "ValueError" in score.cases[2].detail
    assert (score.passed, score.mask, score.fraction) == (False, False, 0.5)
    assert all(case.result.usage.cpu_s is not None for case in score.cases)


def test_tests_run_after_the_program_and_cannot_be_skipped(system: Deployment) -> None:
    test = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
    programs = {
        "def add(a, b): return a + b": Verdict.PASSED,
        "def add(a, b): return a - b": Verdict.ERROR,
        "import sys\ndef add(a, b): return 3\nsys.exit(0)": Verdict.FAILED,
        "import os\nos._exit(0)": Verdict.FAILED,
        "while True: pass": Verdict.TIMEOUT,
        "x = b'x' * 500_000_000": Verdict.OUT_OF_MEMORY,
    }
    batch = [{"code": code, "cases": [{"test": test}, {"test": "x = 1"}]} for code in programs]
    scores = ray.get(
        system.orchestrator.score_many.remote(batch, timeout_s=3.0, cache="off", limits={"memory_mib": 256})
    )
    assert [score.cases[0].verdict for score in scores] == list(programs.values())
    assert [score.passed for score in scores] == [True, False, False, False, False, False]


def test_cases_are_pristine_and_a_seed_holds_for_each(system: Deployment) -> None:
    code = "import os, random\nprint(os.path.exists('left'), random.random())\nopen('left', 'w')"
    score = ray.get(system.orchestrator.score.remote(code, [{"expected": ""}] * 3, seed=5))
    printed = {case.result.stdout for case in score.cases}
    assert len(printed) == 1
    assert printed.pop().startswith("False")


ADD_FUNCTION = "def add(a, b): return a + b\n"
WRONG_FUNCTION = "def add(a, b): return a - b\n"
UNITTEST = (
    "import unittest\nclass T(unittest.TestCase):\n"
    "    def test(self): self.assertEqual(add(1, 2), 3)\nunittest.main(argv=['t'])"
)
NUMBERS = "\n".join(map(str, range(200_000)))
AS_ELSEWHERE: dict[str, tuple[str, dict[str, Any], str]] = {
    "a long integer is one less": (
        "print(50000000000000000)", {"expected": "50000000000000001", "comparison": "numbers"}, "failed",
    ),
    "an integer is wrong by one in a million": (
        "print(1000001)", {"expected": "1000002", "comparison": "numbers"}, "failed",
    ),
    "an integer is wrong and printed as a float": (
        "print(1000001.0)", {"expected": "1000002", "comparison": "numbers"}, "failed",
    ),
    "an integer of 5,000 digits": (
        "print('1' * 5000)", {"expected": "1" * 5000, "comparison": "numbers"}, "passed",
    ),
    "a float instead of a decimal": (
        "print(0.1 + 0.2)", {"expected": "0.3", "comparison": "numbers"}, "passed",
    ),
    "a float, and no tolerance": (
        "print(0.1 + 0.2)", {"expected": "0.3", "comparison": "numbers", "tolerance": 0}, "failed",
    ),
    "Windows' line ends": ("print('1\\r\\n2', end='\\r\\n')", {"expected": "1\n2\n"}, "passed"),
    "a main guard reads input": (
        ADD_FUNCTION + "if __name__=='__main__':\n    print(add(int(input()),int(input())))",
        {"test": "assert add(1,2)==3"}, "passed",
    ),
    "a main guard the other way round": (
        ADD_FUNCTION + "if '__main__' == __name__:\n    import sys\n    sys.exit(add(*map(int, sys.argv[1:])))",
        {"test": "assert add(1,2)==3"}, "passed",
    ),
    "a main guard without a test": (
        ADD_FUNCTION + "if __name__=='__main__':\n    print(add(int(input()),int(input())))",
        {"stdin": "1\n2\n", "expected": "3"}, "passed",
    ),
    "a test with a main guard": (
        WRONG_FUNCTION, {"test": "if __name__ == '__main__':\n    assert add(1,2)==3"}, "error",
    ),
    "unittest.main() of a right program": (ADD_FUNCTION, {"test": UNITTEST}, "passed"),
    "unittest.main() of a wrong program": (WRONG_FUNCTION, {"test": UNITTEST}, "error"),
    "unittest.main() as in a file": (
        ADD_FUNCTION, {"test": UNITTEST.replace("argv=['t']", "")}, "passed",
    ),
    "a test ends with sys.exit(0)": (
        ADD_FUNCTION, {"test": "import sys\nassert add(1,2)==3\nsys.exit(0)"}, "passed",
    ),
    "a function leaves instead of answering": (
        "import sys\ndef add(a, b): sys.exit(0)", {"test": "assert add(1,2)==3"}, "failed",
    ),
    "a test pickles what the program has made": (
        "class Box: pass", {"test": "import pickle\nassert type(pickle.loads(pickle.dumps(Box()))) is Box"}, "passed",
    ),
    "a test awaits": ("async def add(a, b): return a + b", {"test": "assert await add(1, 2) == 3"}, "passed"),
    "a notebook's program": ("!true\n" + ADD_FUNCTION, {"test": "assert add(1,2)==3"}, "passed"),
    "program and test are indented": (
        "    def add(a,b):\n        return a+b\n", {"test": "    assert add(1,2)==3\n"}, "passed",
    ),
    "a right answer of 1.3 MB": ("print('\\n'.join(map(str,range(200000))))", {"expected": NUMBERS}, "passed"),
    "a wrong answer of 1.3 MB": ("print('\\n'.join(map(str,range(1,200001))))", {"expected": NUMBERS}, "failed"),
    "an answer far longer than expected": ("print('1' * 3_000_000)", {"expected": "1"}, "output_limit"),
    "a long answer to a checker": ("print('1' * 3_000_000)", {"checker": "True"}, "output_limit"),
    "much on stderr": ("import sys\nprint('x' * 3_000_000, file=sys.stderr)\nprint(1)", {"expected": "1"}, "passed"),
    "open(0)": ("print(sum(map(int,open(0).read().split())))", {"stdin": "1 2", "expected": "3"}, "passed"),
    "2,000 literals": ('s = ' + ' + '.join(['"a"'] * 2000) + "\nprint(len(s))", {"expected": "2000"}, "passed"),
    "2,000 literals and a test": ('s = ' + ' + '.join(['"a"'] * 2000), {"test": "assert len(s) == 2000"}, "passed"),
    "a blank program": ("", {"expected": "3"}, "failed"),
    "a blank program, where nothing is expected": (" \n", {"expected": ""}, "passed"),
    "a blank program with a test": ("", {"test": "assert add(1, 2) == 3"}, "error"),
    "a NUL": ("print(3)\0", {"expected": "3"}, "error"),
    "a lone surrogate": ("print(3)  # \ud800", {"expected": "3"}, "error"),
    "a program that is too long": ("print(3)\n" + "#" * 1_000_000, {"expected": "3"}, "error"),
    "too much CPU time": ("while True: pass", {"expected": "3", "cpu_s": 0.5}, "timeout"),
    "too much wall time": ("import time\ntime.sleep(60)", {"expected": "3", "cpu_s": 5, "timeout_s": 0.5}, "timeout"),
    "numpy's verdict of a checker": (
        "print(3)", {"checker": "import numpy as np\nnp.equal(int(open('output.txt').read()), 3)"}, "passed",
    ),
}  # fmt: skip
"""Programs and cases by what is special about them, with the verdict that graders elsewhere come to."""


@pytest.mark.parametrize("name", AS_ELSEWHERE)
def test_a_program_is_judged_as_it_is_elsewhere(system: Deployment, name: str) -> None:
    code, case, verdict = AS_ELSEWHERE[name]
    found = scored(system, code, case)
    assert (found.verdict.value, found.mask) == (verdict, False), found.detail
    assert found.points == float(verdict == "passed")


def test_the_example_of_the_document_is_right(system: Deployment) -> None:
    text = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    *statements, shown, listed = example.strip().splitlines()
    names: dict[str, Any] = {"ray": ray, "orchestrator": system.orchestrator}
    exec("\n".join(statements), names)
    values, _, comment = shown.partition("  # ")
    assert str(eval(values, names)) == f"({comment})"
    assert eval(listed, names) == [(Verdict.PASSED, 1.0, "")] * 3


def test_the_time_that_was_up_is_named(system: Deployment) -> None:
    cpu = scored(system, "while True: pass", {"expected": "3", "cpu_s": 0.5})
    assert cpu.detail.startswith("used more than 0.5 s of CPU time")
    wall = scored(system, "import time\ntime.sleep(60)", {"expected": "3", "cpu_s": 5, "timeout_s": 0.5})
    assert wall.detail.startswith("still running after 0.5 s of wall time")
    assert wall.result.usage.wall_s < 5


@pytest.mark.parametrize("case", [{"cpu_s": 2.0}, {"timeout_s": 2.0}, {"cpu_s": 2.0, "timeout_s": 2.0}], ids=str)
def test_programs_that_run_beside_each_other_have_the_time_that_each_would_have_alone(
    system: Deployment, case: dict[str, float]
) -> None:
    busy = "import time\nwhile time.process_time() < 1.0: pass\nprint('done')"
    programs = [{"code": f"# {number}\n{busy}", "cases": [{"expected": "done"} | case]} for number in range(12)]
    scores = ray.get(system.orchestrator.score_many.remote(programs, user="busy"), timeout=240)
    assert [score.passed for score in scores] == [True] * 12, [score.cases[0].detail for score in scores]


@pytest.mark.parametrize(
    ("cases", "options", "field"),
    [
        ([], {}, "cases"),
        ("x", {}, "cases"),
        ([{}], {}, "cases.0"),
        ([{"expected": "1"}, {"expected": 1}], {}, "cases.1.expected"),
        ([{"tset": ""}], {}, "cases.0.tset"),
        ([{"test": "assert 1"}], {"language": "bash"}, "cases.0.test"),
        ([{"expected": "1"}], {"timeout": 3}, "timeout"),
        ([{"expected": "1"}], {"backend": "moon"}, "backend"),
        ([{"expected": "1"}], {"session": "s"}, "session"),
    ],
)
def test_what_is_wrong_is_named(system: Deployment, cases: Any, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ray.get(system.orchestrator.score.remote("1", cases, **options))
    assert refused.value.field == field
    programs = [{"code": "1", "cases": [{"expected": "1"}]}, {"code": "1", "cases": cases}]
    with pytest.raises(InvalidRequest) as refused:
        ray.get(system.orchestrator.score_many.remote(programs, **options))
    assert refused.value.field == (field if field in options else f"programs.1.{field}")


@pytest.mark.parametrize(
    ("programs", "field"),
    [
        ("x", "programs"),
        ([1], "programs.0"),
        ([{"code": 1, "cases": []}], "programs.0.code"),
        ([{"kode": ""}], "programs.0.kode"),
    ],
)
def test_what_is_no_list_of_programs_is_named(system: Deployment, programs: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ray.get(system.orchestrator.score_many.remote(programs))
    assert refused.value.field == field
