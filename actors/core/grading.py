"""Whether what a program printed is what was expected. ``docs/scoring.md`` sets these rules beside public graders'."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from functools import partial
from itertools import zip_longest

from actors.schemas.score import Comparison

_SHOWN = 200
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,4})?", re.ASCII | re.IGNORECASE)
"""A number with a larger exponent is a word: no double is, and to add it to another would fill the memory."""
_INFINITE = re.compile(r"([+-]?)inf(?:inity)?", re.ASCII | re.IGNORECASE)
_NOT_A_NUMBER = re.compile(r"[+-]?nan", re.ASCII | re.IGNORECASE)
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)
_HALF = Decimal("0.5")


def difference(printed: str, expected: str, comparison: Comparison, tolerance: float = 1e-6) -> str | None:
    """Return where the two differ first, in a line; None where they do not.

    ``exact`` compares lines, without the blanks at their ends and without empty lines at the end; ``tokens`` compares
    words, whatever blanks are between them; ``numbers`` does too, and lets numbers be written in any way.
    """
    if printed == expected:
        return None
    if comparison == "exact":
        return _first_difference(_lines(printed), _lines(expected), "line", operator.eq)
    same = operator.eq if comparison == "tokens" else partial(same_number, tolerance=tolerance)
    return _first_difference(printed.split(), expected.split(), "word", same)


def same_number(printed: str, expected: str, tolerance: float) -> bool:
    """Whether two words are the same number, in exact arithmetic; a word that is no number is none.

    Two integers are the same if they are equal. Else ``tolerance`` is what they may be apart, or the part of the
    expected number that they may be apart; but no such part is as much as half of what lies between two integers,
    where an integer is expected.
    """
    if (sign := _INFINITE.fullmatch(expected)) is not None:
        other = _INFINITE.fullmatch(printed)
        return other is not None and (other[1] == "-") == (sign[1] == "-")
    if _NOT_A_NUMBER.fullmatch(expected):
        return _NOT_A_NUMBER.fullmatch(printed) is not None
    if not (_DECIMAL.fullmatch(printed) and _DECIMAL.fullmatch(expected)):
        return False
    found, wanted = Decimal(printed), Decimal(expected)
    if found == wanted:
        return True
    whole = _INTEGER.fullmatch(expected) is not None
    if whole and _INTEGER.fullmatch(printed):
        return False
    allowed = Decimal(repr(tolerance))
    apart = _EXACT.subtract(found, wanted).copy_abs()
    if apart <= allowed:
        return True
    return apart <= _EXACT.multiply(allowed, wanted).copy_abs() and not (whole and apart >= _HALF)


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _first_difference(found: list[str], wanted: list[str], unit: str, same: Callable[[str, str], bool]) -> str | None:
    for number, (one, other) in enumerate(zip_longest(found, wanted), 1):
        if one is None:
            return f"{unit} {number}: nothing, where {_shown(other)} was expected"
        if other is None:
            return f"{unit} {number}: {_shown(one)}, where nothing was expected"
        if one != other and not same(one, other):
            return f"{unit} {number}: {_shown(one)}, where {_shown(other)} was expected"
    return None


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
