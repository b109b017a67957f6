"""Programs scored by cases: every case a run of its own, in a pristine interpreter, all of them in one batch."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from actors.core.grading import difference
from actors.errors import InvalidRequest
from actors.schemas import ExecutionResult, Outcome
from actors.schemas.score import Case, CaseScore, Score, Verdict, cases_of

RunMany = Callable[[list[dict[str, Any]]], Awaitable[list[ExecutionResult]]]
"""Runs programs, each a dict of ``code`` and options of its own; returns their results in order."""
_AFTER = "\n\n# ── the test ──\n"


@dataclass(slots=True)
class _Attempt:
    """One program in one case."""

    program: int
    case: Case
    token: str
    result: ExecutionResult | None = None
    score: CaseScore | None = None

    def fields(self, code: str) -> dict[str, Any]:
        """What to run."""
        if self.case.test is not None:
            # Its last value, which no other run has, says that the end was reached.
            code = f"{code}{_AFTER}{self.case.test}\n{self.token!r}"
        fields: dict[str, Any] = {"code": code, "files": self.case.files, "env": self.case.env}
        return fields if self.case.stdin is None else fields | {"stdin": self.case.stdin}


async def score(programs: Sequence[tuple[str, Any]], run_many: RunMany, language: str = "python") -> list[Score]:
    """Score programs, each with its cases.

    Raises:
        InvalidRequest: a case breaks a rule, or a language has no tests; nothing ran.
    """
    attempts = []
    for index, (_, given) in enumerate(programs):
        place = "cases" if len(programs) == 1 else f"programs.{index}.cases"
        for case in cases_of(given, place):
            if case.test is not None and language != "python":
                raise InvalidRequest(
                    place, f"a test is Python, and cannot follow {language}; use expected or a checker"
                )
            attempts.append(_Attempt(index, case, secrets.token_hex(8)))
    results = await run_many([attempt.fields(programs[attempt.program][0]) for attempt in attempts])
    for attempt, result in zip(attempts, results, strict=True):
        attempt.result = result
        attempt.score = _judged(attempt, result)
    await _check([attempt for attempt in attempts if attempt.score is None], run_many)
    scores: list[list[CaseScore]] = [[] for _ in programs]
    for attempt in attempts:
        assert attempt.score is not None
        scores[attempt.program].append(attempt.score)
    return [Score(cases=tuple(cases)) for cases in scores]


def _judged(attempt: _Attempt, result: ExecutionResult) -> CaseScore | None:
    """Judge by what the run itself shows; None leaves it to the checker."""
    case = attempt.case
    if result.mask:
        return _scored(attempt, Verdict.MASKED, result.message or "the service failed")
    if not result.ok:
        detail = f"{result.error.name}: {result.error.value}" if result.error else result.message or ""
        return _scored(attempt, Verdict(result.outcome.value), detail)
    if case.test is not None and result.text != repr(attempt.token):
        return _scored(attempt, Verdict.FAILED, "the program ended before its test did")
    if case.expected is not None and case.checker is None:
        found = difference(result.stdout, case.expected, case.comparison, case.tolerance)
        if found is not None:
            return _scored(attempt, Verdict.FAILED, found)
    return None if case.checker is not None else _scored(attempt, Verdict.PASSED)


async def _check(attempts: list[_Attempt], run_many: RunMany) -> None:
    """Have checkers judge, each in a sandbox that the program was never in."""
    programs = []
    for attempt in attempts:
        assert attempt.result is not None
        stdin = attempt.case.stdin or ""
        files = {
            "input.txt": stdin,
            "output.txt": attempt.result.stdout,
            "expected.txt": attempt.case.expected or "",
        }
        programs.append({"code": attempt.case.checker, "files": files, "language": "python"})
    verdicts = await run_many(programs) if programs else []
    for attempt, verdict in zip(attempts, verdicts, strict=True):
        points = _points(verdict)
        if points is None:
            what = f"{verdict.error.name}: {verdict.error.value}" if verdict.error else verdict.message or verdict.text
            attempt.score = _scored(attempt, Verdict.MASKED, f"the checker gave no verdict: {what}")
        else:
            printed = verdict.stdout.strip() or "the checker says no"
            attempt.score = _scored(
                attempt, Verdict.PASSED if points == 1 else Verdict.FAILED, "" if points == 1 else printed, points
            )


def _points(verdict: ExecutionResult) -> float | None:
    """What a checker gives; None where it fails, or gives nothing from 0 to 1."""
    if verdict.outcome is not Outcome.OK or verdict.text is None:
        return None
    text = verdict.text.removeprefix("np.").strip()
    if text in ("True", "False"):
        return float(text == "True")
    try:
        points = float(text)
    except ValueError:
        return None
    return points if 0 <= points <= 1 else None


def _scored(attempt: _Attempt, verdict: Verdict, detail: str = "", points: float | None = None) -> CaseScore:
    assert attempt.result is not None
    if points is None and verdict is not Verdict.MASKED:
        points = float(verdict is Verdict.PASSED)
    return CaseScore(
        name=attempt.case.name,
        verdict=verdict,
        points=points,
        weight=attempt.case.weight,
        detail=detail,
        result=attempt.result,
    )
