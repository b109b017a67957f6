"""Scores, of runs that end as they are told."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from actors.config import MaxLimits, RunLimits
from actors.core.ceilings import Ceilings
from actors.errors import InvalidRequest
from actors.runs.scoring import score
from actors.schemas import (
    ExecutionRequest,
    ExecutionResult,
    Limits,
    Outcome,
    Priority,
    ProgramError,
    RichResult,
    Usage,
)
from actors.schemas.score import Score, Submission, Verdict

Ends = Callable[[ExecutionRequest], ExecutionResult]
DAY_S = 86_400.0
CEILINGS = Ceilings.derived(MaxLimits(output_bytes=2**30, timeout_s=DAY_S, cpu_s=DAY_S), [RunLimits()], 64 * 1024)
"""As high as requests can be."""


def result(outcome: Outcome = Outcome.OK, stdout: str = "", text: str | None = None, **fields: Any) -> ExecutionResult:
    shown = (RichResult(is_main_result=True, text=text),) if text is not None else ()
    return ExecutionResult(run_id="r", outcome=outcome, stdout=stdout, results=shown, **fields)


class Runs:
    """Ends every run as told, and keeps what was to be run."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self.ran: list[ExecutionRequest] = []

    async def __call__(self, requests: list[ExecutionRequest]) -> list[ExecutionResult]:
        self.ran += requests
        return [self._ends(request) for request in requests]


def nothing(request: ExecutionRequest) -> ExecutionResult:
    raise AssertionError("nothing is to run")


def submission(*cases: dict[str, Any], code: str = "program") -> Submission:
    return Submission.of({"code": code, "cases": cases})


async def scored(case: dict[str, Any], ends: Ends, code: str = "program", **options: Any) -> Score:
    [found] = await score([submission(case, code=code)], Runs(ends), options, CEILINGS)
    return found


async def asked_for(case: dict[str, Any], **options: Any) -> ExecutionRequest:
    """What a case has run."""
    runs = Runs(lambda _: result())
    await score([submission(case)], runs, options, CEILINGS)
    return runs.ran[0]


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
    ran: list[str] = []

    def to_the_end(request: ExecutionRequest) -> ExecutionResult:
        ran.append(request.code.splitlines()[-1])
        return result(text=ran[-1])

    case = {"test": "assert True"}
    assert (await scored(case, to_the_end)).passed
    assert (await scored(case, lambda _: result())).cases[0].verdict is Verdict.FAILED
    assert (await scored(case, lambda _: result(text="'0123456789abcdef'"))).cases[0].verdict is Verdict.FAILED
    await scored(case, to_the_end)
    assert ran[0] != ran[1], "what says so cannot be known beforehand"
    assert re.fullmatch(r"'[0-9a-f]{16}'", ran[0])


@pytest.mark.parametrize(
    ("text", "verdict", "points"),
    [
        ("True", Verdict.PASSED, 1.0),
        ("False", Verdict.FAILED, 0.0),
        ("1", Verdict.PASSED, 1.0),
        ("0.25", Verdict.FAILED, 0.25),
        ("np.True_", Verdict.PASSED, 1.0),
        ("np.False_", Verdict.FAILED, 0.0),
        ("np.float64(0.5)", Verdict.FAILED, 0.5),
        ("np.int64(2)", Verdict.MASKED, None),
        ("2", Verdict.MASKED, None),
        ("nan", Verdict.MASKED, None),
        ("'yes'", Verdict.MASKED, None),
        (None, Verdict.MASKED, None),
    ],
)
async def test_a_checker_gives_the_verdict_or_none(text: str | None, verdict: Verdict, points: float | None) -> None:
    runs = Runs(lambda request: result(text=text) if request.code == "judge" else result(stdout="printed"))
    [found] = await score([submission({"checker": "judge", "stdin": "in", "expected": "wanted"})], runs, {}, CEILINGS)
    assert (found.cases[0].verdict, found.cases[0].points) == (verdict, points)
    files = {"input.txt": b"in", "output.txt": b"printed", "expected.txt": b"wanted"}
    assert runs.ran[1].files == files


async def test_a_checker_has_limits_of_its_own_and_is_python() -> None:
    runs = Runs(lambda _: result(text="True"))
    options = {"timeout_s": 0.1, "limits": {"memory_mib": 16}, "language": "bash", "user": "ann", "priority": "low"}
    await score([submission({"checker": "judge", "cpu_s": 0.1})], runs, options, CEILINGS)
    checker = runs.ran[1]
    assert (checker.timeout_s, checker.limits, checker.language) == (30.0, Limits(cpu_wait_s=600.0), "python")
    assert (checker.user, checker.priority) == ("ann", Priority.LOW)


async def test_a_checker_that_fails_is_not_held_against_the_program() -> None:
    def ends(request: ExecutionRequest) -> ExecutionResult:
        return result(Outcome.TIMEOUT) if request.code == "judge" else result()

    assert (await scored({"checker": "judge"}, ends)).cases[0].verdict is Verdict.MASKED


async def test_an_output_that_is_too_much_for_a_checker_is_no_failure_of_the_service() -> None:
    printed = result(stdout="x" * (64 * 2**20 + 1))
    [case] = (await scored({"checker": "judge"}, lambda _: printed, limits={"output_bytes": 2**30})).cases
    assert (case.verdict, case.points, case.mask) == (Verdict.OUTPUT_LIMIT, 0.0, False)
    assert "at most 67,108,864 bytes" in case.detail


async def test_points_count_by_weight() -> None:
    runs = Runs(lambda _: result(stdout="1"))
    cases: list[dict[str, Any]] = [{"expected": "1", "weight": 3}, {"expected": "2", "weight": 1}]
    one, other = await score([submission(*cases), submission({"expected": "1"})], runs, {}, CEILINGS)
    assert (one.fraction, other.fraction, other.passed) == (0.75, 1.0, True)


@pytest.mark.parametrize("how", ["expected", "checker"])
async def test_an_output_that_was_cut_is_never_wrong(how: str) -> None:
    def floods(request: ExecutionRequest) -> ExecutionResult:
        bound = request.limits.output_bytes or 0
        text = "1" * bound + "\n[… output truncated: 3000000 bytes in all]"
        return result(stdout=text, usage=Usage(output_bytes=3_000_000))

    [case] = (await scored({how: "1"}, floods)).cases
    assert (case.verdict, case.points, case.mask) == (Verdict.OUTPUT_LIMIT, 0.0, False)
    assert case.detail == "printed 3,000,000 bytes, and 1,000,000 are kept to be judged; raise limits.output_bytes"


async def test_what_went_to_stderr_does_not_make_an_output_too_long() -> None:
    noisy = result(stdout="1", usage=Usage(output_bytes=3_000_000))
    assert (await scored({"expected": "1"}, lambda _: noisy)).passed
    assert (await scored({"expected": "2"}, lambda _: noisy)).cases[0].verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("case", "limits", "kept"),
    [
        ({"expected": "1"}, None, 1_000_000),
        ({"expected": "1"}, {"output_bytes": 5000}, 5000),
        ({"expected": "1" * 5000}, {"output_bytes": 5000}, 10_000),
        ({"expected": "é" * 3_000_000}, None, 12_000_000),
        ({"expected": "1 " * 1_000_000, "comparison": "numbers"}, None, 16_000_000),
        ({"test": "pass"}, None, 1_000_000),
    ],
)
async def test_enough_is_kept_of_an_output_for_what_is_expected(
    case: dict[str, Any], limits: dict[str, int] | None, kept: int
) -> None:
    assert (await asked_for(case, limits=limits)).limits.output_bytes == kept


async def test_a_long_output_is_compared_as_any_other() -> None:
    expected = "\n".join(map(str, range(200_000)))
    assert (await scored({"expected": expected}, lambda _: result(stdout=expected + "\n"))).passed
    [case] = (await scored({"expected": expected}, lambda _: result(stdout=expected[:-1]))).cases
    assert case.detail == "line 200000: '19999', where '199999' was expected"


@pytest.mark.parametrize(
    ("case", "options", "cpu_s", "timeout_s"),
    [
        ({}, {}, None, 30.0),
        ({}, {"timeout_s": 2.0}, None, 2.0),
        ({"timeout_s": 3}, {"timeout_s": 2.0}, None, 3.0),
        ({"cpu_s": 2}, {}, 2.0, 30.0),
        ({"cpu_s": 20}, {}, 20.0, 100.0),  # only CPU time is limited: wall time generously
        ({}, {"limits": {"cpu_s": 20}}, 20.0, 100.0),
        ({"cpu_s": 1}, {"limits": {"cpu_s": 20}}, 1.0, 30.0),
        ({"cpu_s": 20, "timeout_s": 25}, {}, 20.0, 25.0),
        ({"cpu_s": 20}, {"timeout_s": 25.0}, 20.0, 25.0),
    ],
)
async def test_cpu_time_and_wall_time_are_limited_apart(
    case: dict[str, Any], options: dict[str, Any], cpu_s: float | None, timeout_s: float
) -> None:
    request = await asked_for({"expected": "1"} | case, **options)
    assert (request.limits.cpu_s, request.timeout_s) == (cpu_s, timeout_s)
    assert request.limits.cpu_wait_s == 20 * timeout_s, "what it waits for a core does not count"


async def test_a_day_is_as_long_as_a_program_may_wait() -> None:
    assert (await asked_for({"expected": "1", "timeout_s": 86_400})).limits.cpu_wait_s == 86_400


@pytest.mark.parametrize(
    ("usage", "verdict"),
    [
        (Usage(cpu_s=0.5, cpu_wait_s=40.0), Verdict.MASKED),  # twenty times its wall time, and not even that computed
        (Usage(cpu_s=0.5, cpu_wait_s=39.0), Verdict.TIMEOUT),  # the rest it has slept
        (Usage(cpu_s=2.5, cpu_wait_s=40.0), Verdict.TIMEOUT),  # its own threads crowded the cores
        (Usage(cpu_s=0.5), Verdict.TIMEOUT),
        (Usage(), Verdict.TIMEOUT),
    ],
)
async def test_who_was_never_given_its_time_has_not_failed(usage: Usage, verdict: Verdict) -> None:
    late = result(Outcome.TIMEOUT, usage=usage, message="m")
    [case] = (await scored({"expected": "1", "timeout_s": 2.0}, lambda _: late)).cases
    assert case.verdict is verdict


async def test_who_used_more_cpu_time_than_allowed_is_out_of_time_even_if_it_ended() -> None:
    late, soon = (result(stdout="1", usage=Usage(cpu_s=cpu_s, wall_s=9.0)) for cpu_s in (2.1, 1.9))
    [case] = (await scored({"expected": "1", "cpu_s": 2}, lambda _: late)).cases
    assert (case.verdict, case.detail) == (Verdict.TIMEOUT, "used 2.10 s of CPU time, of 2 s")
    assert (await scored({"expected": "1", "cpu_s": 2}, lambda _: soon)).passed
    assert (await scored({"expected": "1"}, lambda _: late)).passed


async def test_a_case_adds_to_what_all_cases_share() -> None:
    case = {"expected": "1", "env": {"B": "2"}, "files": {"b": "2"}}
    request = await asked_for(case, env={"A": "1", "B": "1"}, files={"a": "1", "b": "1"}, stdin="shared", seed=3)
    assert request.env == {"A": "1", "B": "2"}
    assert request.files == {"a": b"1", "b": b"2"}
    assert (request.stdin, request.seed) == (b"shared", 3)
    assert (await asked_for({"expected": "1", "stdin": ""}, stdin="shared")).stdin == b""


MANY = {f"{number}": "" for number in range(1001)}


@pytest.mark.parametrize(
    ("cases", "options", "field", "rule"),
    [
        ([{"test": "assert 1"}], {"language": "bash"}, "cases.0.test", "bash"),
        ([{"expected": "1"}, {"expected": "1", "files": MANY}], {}, "cases.1.files", "1,000"),
        ([{"expected": "1", "stdin": "x" * 2**24 + "x"}], {}, "cases.0.stdin", "16,777,216"),
        ([{"expected": "1"}], {"timeout": 3}, "timeout", "timeout_s"),
        ([{"expected": "1"}], {"session": "s"}, "session", "pristine"),
        ([{"expected": "1"}], {"idempotency_key": "k"}, "idempotency_key", "leave it out"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named_before_anything_runs(
    cases: list[dict[str, Any]], options: dict[str, Any], field: str, rule: str
) -> None:
    for alone in (True, False):
        with pytest.raises(InvalidRequest, match=rule) as refused:
            await score([submission(*cases)], Runs(nothing), options, CEILINGS, alone)
        assert refused.value.field == (field if alone or field in options else f"programs.0.{field}")


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({"code": "1"}, "cases", "required"),
        ({"code": "1", "cases": []}, "cases", "at least 1"),
        ({"code": "1", "cases": "x"}, "cases", "tuple"),
        ({"code": "1", "cases": [{"expected": "1"}] * 1001}, "cases", "at most 1000"),
        ({"code": None, "cases": [{"expected": "1"}]}, "code", "string"),
        ({"code": "1", "cases": [{}]}, "cases.0", "expected, a test or a checker"),
        ({"code": "1", "cases": [{"expected": "1"}, {"expected": 1}]}, "cases.1.expected", "string"),
        ({"code": "1", "cases": [{"tset": "1"}]}, "cases.0.tset", r"did you mean cases\.0\.test\?"),
        ({"code": "1", "cases": [{"expected": "1", "timeout": 3}]}, "cases.0.timeout", r"cases\.0\.timeout_s\?"),
        ({"code": "1", "case": [{"expected": "1"}]}, "case", r"did you mean cases\?"),
        ({"code": "1", "cases": [{"test": " \n"}]}, "cases.0.test", "pattern"),
        ({"code": "1", "cases": [{"expected": "1", "tolerance": -1}]}, "cases.0.tolerance", "greater"),
        ({"code": "1", "cases": [{"expected": "1", "cpu_s": 0}]}, "cases.0.cpu_s", "greater"),
        ([1], "request", "dictionary"),
    ],
)
def test_what_is_wrong_with_a_submission_is_named(fields: Any, field: str, rule: str) -> None:
    with pytest.raises(InvalidRequest, match=rule) as refused:
        Submission.of(fields, ("programs", "3"))
    assert refused.value.field == ("programs.3" if field == "request" else f"programs.3.{field}")


USUAL = Ceilings.derived(MaxLimits(), [RunLimits()], 64 * 1024)


@pytest.mark.parametrize(
    ("case", "field"),
    [({"cpu_s": 1201}, "cpu_s"), ({"timeout_s": 1201}, "timeout_s"), ({"expected": "x" * 4_000_001}, "expected")],
)
async def test_a_case_that_asks_for_more_than_the_most_is_named(case: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest, match=r"must be at most .*; max_limits\.") as refused:
        await score([submission({"expected": "1"}, {"expected": "1"} | case)], Runs(nothing), {}, USUAL, True)
    assert refused.value.field == f"cases.1.{field}"


async def test_what_a_case_gets_without_having_asked_for_it_stays_within_the_ceilings() -> None:
    runs = Runs(lambda _: result(stdout="x" * 2_500_000))
    cases = {"expected": "x" * 2_500_000, "cpu_s": 1200.0}, {"expected": "x" * 2_500_000, "timeout_s": 1200.0}
    [found] = await score([submission(*cases)], runs, {}, USUAL)
    assert found.passed
    for request in runs.ran:
        USUAL.check(request)
