"""Programs scored by cases: every case a run of its own, in a pristine interpreter, all of them in one batch."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.core.ceilings import Ceilings
from actors.core.grading import difference
from actors.errors import InvalidRequest
from actors.runs.harness import harness
from actors.schemas import ExecutionRequest, ExecutionResult, Limits, Outcome
from actors.schemas.request import MAX_TIMEOUT_S
from actors.schemas.score import Case, CaseScore, Comparison, Score, Submission, Verdict

RunAll = Callable[[list[ExecutionRequest]], Awaitable[list[ExecutionResult]]]
"""Runs programs; returns their results in order."""
OUTPUT_BYTES = 1_000_000
"""The least that is kept of an output that is compared, unless ``limits`` say less."""
ROOM: dict[Comparison, int] = {"exact": 2, "tokens": 2, "numbers": 8}
"""How many times what is expected is kept of an output, since the same may be written with more blanks or digits."""
PATIENCE = 5
"""How many times its CPU time a program may take where only that is limited: it may also wait for something."""
CPU_WAIT = 20
"""How many times its wall time a program may wait for a core; one that had to wait longer was not given its time."""
CHECKER_S = 30.0
"""How long a checker may take."""
LONG_TEXT = 200_000
"""So many characters are compared in a thread: everybody else's runs go on meanwhile."""
_OF_CHECKERS = ("user", "priority", "backend", "image", "cache", "max_wait_s")
"""Options that hold for checkers too; their limits are their own."""
_NOT_OF_CASES = ("session", "context", "idempotency_key")
_NUMPY = re.compile(r"np\.(?:(True|False)_|\w+\((.*)\))")


@dataclass(slots=True)
class _Attempt:
    """One program in one case."""

    program: int
    case: Case
    token: str
    request: ExecutionRequest
    result: ExecutionResult | None = None
    score: CaseScore | None = None


async def score(
    submissions: Sequence[Submission],
    run_all: RunAll,
    options: Mapping[str, Any],
    ceilings: Ceilings,
    alone: bool = False,
) -> list[Score]:
    """Score programs, each with its cases; ``options`` are those of every run, and no case gets beyond ``ceilings``.

    Raises:
        InvalidRequest: an option is wrong, a case does not go with them, or a language has no tests; nothing ran.
            Names the program and the case, or only the case where the program is ``alone``.
    """
    for name in _NOT_OF_CASES:
        if options.get(name) is not None:
            raise InvalidRequest(name, "each case is run by itself, in a pristine interpreter; leave it out")
    shared = ExecutionRequest.of({"code": "", **options})
    attempts = []
    for index, submission in enumerate(submissions):
        for number, case in enumerate(submission.cases):
            place = () if alone else ("programs", str(index))
            where = (*place, "cases", str(number))
            attempts.append(_attempt(index, submission, case, where, options, shared, ceilings))
    for attempt, result in zip(attempts, await run_all([attempt.request for attempt in attempts]), strict=True):
        attempt.result = result
        attempt.score = await _judged(attempt, result)
    await _check([attempt for attempt in attempts if attempt.score is None], run_all, options)
    scores: list[list[CaseScore]] = [[] for _ in submissions]
    for attempt in attempts:
        assert attempt.score is not None
        scores[attempt.program].append(attempt.score)
    return [Score(cases=tuple(cases)) for cases in scores]


def _attempt(
    program: int,
    submission: Submission,
    case: Case,
    place: tuple[str, ...],
    options: Mapping[str, Any],
    shared: ExecutionRequest,
    ceilings: Ceilings,
) -> _Attempt:
    token, code = secrets.token_hex(8), submission.code
    if case.test is not None:
        if shared.language != "python":
            rule = f"a test is Python, and cannot follow {shared.language}; use expected or a checker"
            raise InvalidRequest(".".join((*place, "test")), rule)
        code = harness(code, case.test, token)
    for name in ("cpu_s", "timeout_s"):
        ceilings.require(name, getattr(case, name), ".".join((*place, name)))
    cpu_s = case.cpu_s or shared.limits.cpu_s
    timeout_s = case.timeout_s or options.get("timeout_s")
    if timeout_s is None:
        timeout_s = min(max(shared.timeout_s, PATIENCE * (cpu_s or 0.0)), ceilings.timeout_s)
    limits = {
        "cpu_s": cpu_s,
        "cpu_wait_s": min(CPU_WAIT * timeout_s, ceilings.cpu_wait_s, MAX_TIMEOUT_S),
        "output_bytes": _output_bytes(case, shared.limits, place, ceilings),
    }
    fields = {
        "code": code,
        "env": shared.env | case.env,
        "files": shared.files | case.files,
        "stdin": shared.stdin if case.stdin is None else case.stdin,
        "timeout_s": timeout_s,
        "limits": shared.limits.model_copy(update=limits),
    }
    return _Attempt(program, case, token, ExecutionRequest.of({**options, **fields}, place))


def _output_bytes(case: Case, limits: Limits, place: tuple[str, ...], ceilings: Ceilings) -> int:
    """How much is kept of an output: enough for what is expected, so that what is too long for it is wrong."""
    least = OUTPUT_BYTES if limits.output_bytes is None else limits.output_bytes
    expected = 0 if case.expected is None else len(case.expected.encode(errors="replace"))
    ceilings.require("output_bytes", expected, ".".join((*place, "expected")))
    return min(max(least, ROOM[case.comparison] * expected), ceilings.output_bytes)


async def _judged(attempt: _Attempt, result: ExecutionResult) -> CaseScore | None:
    """Judge by what the run itself shows; None leaves it to the checker."""
    case, limits = attempt.case, attempt.request.limits
    if result.mask:
        return _scored(attempt, Verdict.MASKED, result.message or "the service failed")
    if _was_starved(attempt, result):
        waited = f"it waited {result.usage.cpu_wait_s:.1f} s for a core, and computed for {result.usage.cpu_s:.1f} s"
        return _scored(attempt, Verdict.MASKED, f"the machine was too busy to run it: {waited}")
    if not result.ok:
        detail = f"{result.error.name}: {result.error.value}" if result.error else result.message or ""
        return _scored(attempt, Verdict(result.outcome.value), detail)
    if limits.cpu_s is not None and (result.usage.cpu_s or 0.0) > limits.cpu_s:
        return _scored(attempt, Verdict.TIMEOUT, f"used {result.usage.cpu_s:.2f} s of CPU time, of {limits.cpu_s:g} s")
    if case.test is not None and result.text != repr(attempt.token):
        return _scored(attempt, Verdict.FAILED, "the program ended before its test did")
    if case.expected is None and case.checker is None:
        return _scored(attempt, Verdict.PASSED)
    if _was_cut(attempt, result):
        told = f"printed {result.usage.output_bytes:,} bytes, and {limits.output_bytes:,} are kept to be judged"
        return _scored(attempt, Verdict.OUTPUT_LIMIT, f"{told}; raise limits.output_bytes")
    if case.checker is not None:
        return None
    assert case.expected is not None
    compared = (result.stdout, case.expected, case.comparison, case.tolerance)
    if len(result.stdout) + len(case.expected) < LONG_TEXT:
        found = difference(*compared)
    else:
        found = await asyncio.to_thread(difference, *compared)
    return _scored(attempt, Verdict.PASSED) if found is None else _scored(attempt, Verdict.FAILED, found)


def _was_starved(attempt: _Attempt, result: ExecutionResult) -> bool:
    """Whether its time was up though it was never given it: that says nothing about the program."""
    usage, may_wait_s = result.usage, attempt.request.limits.cpu_wait_s
    if result.outcome is not Outcome.TIMEOUT or usage.cpu_s is None or usage.cpu_wait_s is None or may_wait_s is None:
        return False
    return usage.cpu_wait_s >= may_wait_s and usage.cpu_s < attempt.request.timeout_s


def _was_cut(attempt: _Attempt, result: ExecutionResult) -> bool:
    """Whether the output is not there as a whole, so that nobody can say that it is wrong."""
    bound = attempt.request.limits.output_bytes
    assert bound is not None
    # What was written to stderr counts too, but only a text that was cut is longer than the bound.
    return result.usage.output_bytes > bound and len(result.stdout.encode()) > bound


async def _check(attempts: list[_Attempt], run_all: RunAll, options: Mapping[str, Any]) -> None:
    """Have checkers judge, each in a sandbox that the program was never in."""
    who = {name: options[name] for name in _OF_CHECKERS if name in options}
    limits = Limits(cpu_wait_s=CPU_WAIT * CHECKER_S)
    checked, requests = [], []
    for attempt in attempts:
        assert attempt.result is not None
        files = {
            "input.txt": attempt.request.stdin or b"",
            "output.txt": attempt.result.stdout,
            "expected.txt": attempt.case.expected or "",
        }
        try:
            fields = {"code": attempt.case.checker, "files": files, "timeout_s": CHECKER_S, "limits": limits}
            requests.append(ExecutionRequest.of(fields | who))
            checked.append(attempt)
        except InvalidRequest as error:
            attempt.score = _scored(attempt, Verdict.OUTPUT_LIMIT, f"too much for a checker: {error}")
    verdicts = await run_all(requests) if requests else []
    for attempt, verdict in zip(checked, verdicts, strict=True):
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
    text = verdict.text.strip()
    if (of_numpy := _NUMPY.fullmatch(text)) is not None:
        text = of_numpy[1] or of_numpy[2]
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
