"""Whether what a program printed is what was expected."""

from __future__ import annotations

import math
import re
from itertools import zip_longest
from typing import Literal

Comparison = Literal["exact", "tokens", "numbers"]
"""``exact`` but for blanks at the ends of lines and of the text; ``tokens`` word by word; ``numbers`` the same, with
numbers equal within a tolerance."""
_SHOWN = 200
_WORD = re.compile(r"\S+")


def difference(printed: str, expected: str, comparison: Comparison, tolerance: float = 1e-6) -> str | None:
    """Return where the two differ first, in a line; None where they do not.

    Numbers are equal within ``tolerance``, relative or absolute, as contests have it.
    """
    if comparison == "exact":
        return _first_difference(_lines(printed), _lines(expected), "line")
    words, wanted = _WORD.findall(printed), _WORD.findall(expected)
    if comparison == "numbers":
        # What is equal within the tolerance is made equal.
        words = [
            there if there is not None and word is not None and _near(word, there, tolerance) else word
            for word, there in zip(words, [*wanted, *[None] * len(words)], strict=False)
        ]
    return _first_difference(words, wanted, "word")


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _first_difference(found: list[str], wanted: list[str], unit: str) -> str | None:
    for number, (one, other) in enumerate(zip_longest(found, wanted), 1):
        if one != other:
            if one is None:
                return f"{unit} {number}: nothing, where {_shown(other)} was expected"
            if other is None:
                return f"{unit} {number}: {_shown(one)}, where nothing was expected"
            return f"{unit} {number}: {_shown(one)}, where {_shown(other)} was expected"
    return None


def _near(one: str, other: str, tolerance: float) -> bool:
    try:
        found, wanted = float(one), float(other)
    except ValueError:
        return False
    if math.isnan(wanted):
        return math.isnan(found)
    return math.isclose(found, wanted, rel_tol=tolerance, abs_tol=tolerance)


def _shown(text: str | None) -> str:
    text = text or ""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
