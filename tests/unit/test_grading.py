"""Whether what was printed is what was expected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.core.grading import Comparison, difference

COMPARISONS: tuple[Comparison, ...] = ("exact", "tokens", "numbers")


@pytest.mark.parametrize(
    ("printed", "expected", "equal_by"),
    [
        ("3\n", "3", {"exact", "tokens", "numbers"}),
        ("3  \n\n\n", "3", {"exact", "tokens", "numbers"}),
        ("1 2\n3", "1\n2 3", {"tokens", "numbers"}),
        (" 3", "3", {"tokens", "numbers"}),
        ("0.30000000000000004", "0.3", {"numbers"}),
        ("1e3", "1000", {"numbers"}),
        ("-0", "0", {"numbers"}),
        ("nan", "NaN", {"numbers"}),
        ("inf", "Infinity", {"numbers"}),
        ("3.1", "3.2", set()),
        ("yes", "Yes", set()),
        ("", "3", set()),
        ("3", "", set()),
        ("1 2 3", "1 2", set()),
        ("", "", {"exact", "tokens", "numbers"}),
        ("a 1.0000000001 b", "a 1 b", {"numbers"}),
    ],
)
def test_what_counts_as_equal(printed: str, expected: str, equal_by: set[str]) -> None:
    assert {comparison for comparison in COMPARISONS if difference(printed, expected, comparison) is None} == equal_by


def test_the_first_difference_is_named_and_long_ones_are_cut() -> None:
    assert difference("a\nb\nc", "a\nx\ny", "exact") == "line 2: 'b', where 'x' was expected"
    assert difference("a", "a b", "tokens") == "word 2: nothing, where 'b' was expected"
    assert difference("a b", "a", "tokens") == "word 2: 'b', where nothing was expected"
    assert len(difference("x" * 10**6, "y", "exact") or "") < 300


@given(st.text(), st.sampled_from(COMPARISONS))
def test_everything_is_equal_to_itself(text: str, comparison: Comparison) -> None:
    assert difference(text, text, comparison) is None


@given(st.text(), st.text(), st.sampled_from(COMPARISONS))
def test_what_is_equal_exactly_is_equal_in_every_way(one: str, other: str, comparison: Comparison) -> None:
    if difference(one, other, "exact") is None and "\r" not in one + other:
        assert difference(one, other, comparison) is None
    if difference(one, other, "tokens") is None:
        assert difference(one, other, "numbers") is None


@given(st.floats(-1e100, 1e100), st.floats(0.01, 0.5))
def test_numbers_farther_apart_than_the_tolerance_differ(number: float, tolerance: float) -> None:
    other = number + (1 + abs(number)) * tolerance * 3
    if other != number:
        assert difference(repr(number), repr(other), "numbers", tolerance) is not None
        assert difference(repr(number), repr(number * (1 + tolerance / 4)), "numbers", tolerance) is None
