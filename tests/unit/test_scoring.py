"""Scores, of runs that end as they are told."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from actors.errors import InvalidRequest
from actors.runs.scoring import score
from actors.schemas import ExecutionResult, Outcome, ProgramError, RichResult
from actors.schemas.score import Score, Verdict

Ends = Callable[[dict[str, Any]], ExecutionResult]


def result(outcome: Outcome = Outcome.OK, stdout: str = "", text: str | None = None, **fields: Any) -> ExecutionResult:
    shown = (RichResult(is_main_result=True, text=text),) if text is not None else ()
    return ExecutionResult(run_id="r", outcome=outcome, stdout=stdout, results=shown, **fields)


async def scored(case: dict[str, Any], ends: Ends, code: str = "program") -> Score:
    ran: list[dict[str, Any]] = []

    async def run_many(programs: list[dict[str, Any]]) -> list[ExecutionResult]:
        ran.extend(programs)
        return [ends(program) for program in programs]

    [found] = await score([(code, [case])], run_many)
    found.__dict__["ran"] = ran
    return found


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.REJECTED, Outcome.INFRA])
async def test_what_the_service_failed_is_masked_and_no_program_s_fault(outcome: Outcome) -> None:
    found = await scored({"expected": "1"}, lambda _: result(outcome, message="why"))
    [case] = found.cases
    assert (case.verdict, case.points, case.mask, case.detail) == (Verdict.MASKED, None, True, "why")
    assert (found.mask, found.passed, found.fraction) == (True, False, None)


@pytest.mark.parametrize(
    "outcome",
    [Outcome.ERROR, Outcome.TIMEOUT, Outcome.OUT_OF_MEMORY, Outcome.OUTPUT_LIMIT, Outcome.CRASHED],
)
async def test_what_the_program_failed_is_told_by_how_it_ended(outcome: Outcome) -> None:
    error = ProgramError(name="E", value="v") if outcome is Outcome.ERROR else None
    found = await scored({"expected": "1"}, lambda _: result(outcome, "1", error=error, message="m"))
    assert (found.cases[0].verdict.value, found.cases[0].points, found.mask) == (outcome.value, 0.0, False)
    assert found.cases[0].detail == ("E: v" if error else "m")


async def test_a_test_counts_only_if_its_end_was_reached() -> None:
    def to_the_end(program: dict[str, Any]) -> ExecutionResult:
        return result(text=program["code"].splitlines()[-1])

    case = {"test": "assert True"}
    assert (await scored(case, to_the_end)).passed
    assert (await scored(case, lambda _: result())).cases[0].verdict is Verdict.FAILED
    assert (await scored(case, lambda _: result(text="'0123456789abcdef'"))).cases[0].verdict is Verdict.FAILED
    one, other = [(await scored(case, to_the_end)).__dict__["ran"][0]["code"] for _ in range(2)]
    assert one != other, "what says so cannot be known beforehand"
    assert re.match(r"program\n\n# .*\nassert True\n'[0-9a-f]{16}'\Z", one)


@pytest.mark.parametrize(
    ("text", "verdict", "points"),
    [
        ("True", Verdict.PASSED, 1.0),
        ("False", Verdict.FAILED, 0.0),
        ("1", Verdict.PASSED, 1.0),
        ("0.25", Verdict.FAILED, 0.25),
        ("np.True_", Verdict.MASKED, None),
        ("2", Verdict.MASKED, None),
        ("nan", Verdict.MASKED, None),
        ("'yes'", Verdict.MASKED, None),
        (None, Verdict.MASKED, None),
    ],
)
async def test_a_checker_gives_the_verdict_or_none(text: str | None, verdict: Verdict, points: float | None) -> None:
    def ends(program: dict[str, Any]) -> ExecutionResult:
        return result(text=text) if program["code"] == "judge" else result(stdout="printed")

    found = await scored({"checker": "judge", "stdin": "in", "expected": "wanted"}, ends)
    assert (found.cases[0].verdict, found.cases[0].points) == (verdict, points)
    assert found.__dict__["ran"][1]["files"] == {"input.txt": "in", "output.txt": "printed", "expected.txt": "wanted"}


async def test_a_checker_that_fails_is_not_held_against_the_program() -> None:
    def ends(program: dict[str, Any]) -> ExecutionResult:
        return result(Outcome.TIMEOUT) if program["code"] == "judge" else result()

    assert (await scored({"checker": "judge"}, ends)).cases[0].verdict is Verdict.MASKED


async def test_points_count_by_weight() -> None:
    async def run_many(programs: list[dict[str, Any]]) -> list[ExecutionResult]:
        return [result(stdout="1") for _ in programs]

    cases = [{"expected": "1", "weight": 3}, {"expected": "2", "weight": 1}]
    one, other = await score([("a", cases), ("b", [{"expected": "1"}])], run_many)
    assert (one.fraction, other.fraction, other.passed) == (0.75, 1.0, True)


async def test_a_test_follows_python_alone() -> None:
    async def run_many(programs: list[dict[str, Any]]) -> list[ExecutionResult]:
        raise AssertionError("nothing is to run")

    with pytest.raises(InvalidRequest, match="bash"):
        await score([("a", [{"test": "assert 1"}])], run_many, "bash")
    with pytest.raises(InvalidRequest, match=r"programs\.1\.cases\.0"):
        await score([("a", [{"expected": "1"}]), ("b", [{}])], run_many)
