"""What a program is scored by, and what comes of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from actors.errors import InvalidRequest
from actors.schemas.message import Message
from actors.schemas.request import MAX_CODE_BYTES, EnvVars, FileName
from actors.schemas.result import ExecutionResult

MAX_CASES = 1000
Comparison = Literal["exact", "tokens", "numbers"]
Code = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CODE_BYTES)]


class Case(Message):
    """One thing that is asked of a program; each is run in a pristine interpreter.

    It passes if the program ends well and, as far as they are given: its output is ``expected``, ``test`` runs to its
    end after it, and ``checker`` agrees.
    """

    name: str = ""
    stdin: str | bytes | None = None
    env: EnvVars = Field(default_factory=dict)
    files: dict[FileName, str | bytes] = Field(default_factory=dict)
    expected: str | None = None
    """What it is to print."""
    comparison: Comparison = "exact"
    """``exact`` but for blanks at the ends of lines; ``tokens`` word by word; ``numbers`` within ``tolerance``."""
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-6
    test: Code | None = None
    """Python that runs after the program, with its names: ``assert``s, as a rule. It passes if it comes to its end.

    A program that is out to deceive can read and change what runs in its own interpreter: where that matters, use
    ``expected`` or a ``checker``.
    """
    checker: Code | None = None
    """Python that judges the output, in another sandbox than the program's.

    It finds the files ``input.txt``, ``output.txt`` and ``expected.txt``; its last value is the verdict: true or false,
    or points from 0 to 1.
    """
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _asks_for_something(self) -> Case:
        if self.expected is None and self.test is None and self.checker is None:
            raise ValueError("give what is expected, a test or a checker")
        return self


class Verdict(StrEnum):
    """How a program did in a case. ``masked`` says nothing about the program."""

    PASSED = "passed"
    FAILED = "failed"
    """It ended well, with a wrong result."""
    ERROR = "error"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"
    CRASHED = "crashed"
    MASKED = "masked"
    """The service failed, or the checker did."""


class CaseScore(Message):
    """How a program did in one case."""

    name: str
    verdict: Verdict
    points: float | None
    """From 0 to 1; None where it is masked."""
    weight: float = 1.0
    detail: str = ""
    """Why it did not pass, in a line."""
    result: ExecutionResult
    """How the program's run ended: output, error, CPU seconds and peak memory in ``usage``."""

    @property
    def passed(self) -> bool:
        return self.verdict is Verdict.PASSED

    @property
    def mask(self) -> bool:
        return self.verdict is Verdict.MASKED


class Score(Message):
    """How a program did in all cases."""

    cases: tuple[CaseScore, ...]

    @property
    def passed(self) -> bool:
        """Whether it passed every case, and none is masked."""
        return all(case.passed for case in self.cases)

    @property
    def mask(self) -> bool:
        """Whether a trainer must leave this program out: the service failed in one of its cases."""
        return any(case.mask for case in self.cases)

    @property
    def fraction(self) -> float | None:
        """Points of all cases by their weights, from 0 to 1; None where one is masked."""
        if self.mask:
            return None
        total = sum(case.weight for case in self.cases)
        return sum((case.points or 0.0) * case.weight for case in self.cases) / total


def cases_of(given: Any, place: str = "cases") -> tuple[Case, ...]:
    """Check cases, or dicts of their fields.

    Raises:
        InvalidRequest: one breaks a rule; names its place.
    """
    if not isinstance(given, list | tuple) or not given:
        raise InvalidRequest(place, "must be a list of at least one case")
    if len(given) > MAX_CASES:
        raise InvalidRequest(place, f"must be at most {MAX_CASES:,} cases, not {len(given):,}")
    return tuple(
        case if isinstance(case, Case) else Case.of(case, (place, str(number))) for number, case in enumerate(given)
    )
