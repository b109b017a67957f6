"""What a program is scored by, and what comes of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from actors.schemas.message import Message
from actors.schemas.request import MAX_CODE_BYTES, MAX_TIMEOUT_S, EnvVars, FileName
from actors.schemas.result import ExecutionResult

MAX_CASES = 1000
Comparison = Literal["exact", "tokens", "numbers"]
Checker = Annotated[str, StringConstraints(pattern=r"\S", max_length=MAX_CODE_BYTES)]
Test = Annotated[str, StringConstraints(pattern=r"\S", max_length=MAX_CODE_BYTES // 2)]
"""Shorter, since the program is to fit beside it."""
Seconds = Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)]


class Case(Message):
    """One thing that is asked of a program; each is run in a pristine interpreter.

    It passes if the program ends well and, as far as they are given: its output is ``expected``, ``test`` runs to its
    end after it, and ``checker`` agrees.
    """

    name: str = ""
    stdin: str | bytes | None = None
    env: EnvVars = Field(default_factory=dict)
    """Variables, beside those that all cases share."""
    files: dict[FileName, str | bytes] = Field(default_factory=dict)
    """Files in the workspace, beside those that all cases share."""
    expected: str | None = None
    """What it is to print."""
    comparison: Comparison = "exact"
    """``exact`` but for blanks at the ends of lines; ``tokens`` word by word; ``numbers`` within ``tolerance``."""
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-6
    """What decimals may be apart, or the part of what was expected that they may be; integers are to be equal."""
    test: Test | None = None
    """Python that runs after the program, with its names: ``assert``s, as a rule. It passes if it comes to its end.

    The program's main guard does not hold for it. It may end by ``SystemExit`` with success, as ``unittest.main()``
    does. A program that is out to deceive can read and change what runs in its own interpreter: where that matters, use
    ``expected`` or a ``checker``.
    """
    checker: Checker | None = None
    """Python that judges the output, in another sandbox than the program's.

    It finds the files ``input.txt``, ``output.txt`` and ``expected.txt``; its last value is the verdict: true or false,
    or points from 0 to 1.
    """
    cpu_s: Seconds | None = None
    """CPU time that the program may use, with all its children; None is what ``limits`` say."""
    timeout_s: Seconds | None = None
    """Wall time that it may take, without what it waits for a core.

    None is what all cases share or, where only CPU time is limited, several times that.
    """
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _asks_for_something(self) -> Case:
        if self.expected is None and self.test is None and self.checker is None:
            raise ValueError("give what is expected, a test or a checker")
        return self


class Submission(Message):
    """A program, and the cases that it is scored by."""

    code: str
    cases: Annotated[tuple[Case, ...], Field(min_length=1, max_length=MAX_CASES)]


class Verdict(StrEnum):
    """How a program did in a case. ``masked`` says nothing about the program."""

    PASSED = "passed"
    FAILED = "failed"
    """It ended well, with a wrong result."""
    ERROR = "error"
    TIMEOUT = "timeout"
    """It used more CPU time or wall time than it may; ``detail`` says which."""
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"
    """It printed more than is kept, so that nobody can say whether it was right."""
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
