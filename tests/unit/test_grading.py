"""Whether what was printed is what was expected."""

from __future__ import annotations

import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.core.grading import difference, same_number
from actors.schemas.score import Comparison

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
        ("3\r\n4\r\n", "3\n4", {"exact", "tokens", "numbers"}),
        ("3\n4", "3\r\n4\r\n\r\n", {"exact", "tokens", "numbers"}),
        ("\n3", "3", {"tokens", "numbers"}),
        ("3\n\n4", "3\n4", {"tokens", "numbers"}),
        ("1\t2\u00a03", "1 2 3", {"tokens", "numbers"}),
        ("50000000000000000", "50000000000000001", set()),
        ("1000001", "1000002", set()),
        ("9007199254740993", "9007199254740992", set()),
        ("1" * 5000 + "0", "1" * 5000 + "1", set()),
        ("007 +5", "7 5", {"numbers"}),
        ("[0.1, 0.2]", "[0.10, 0.2]", set()),
        ("1_000", "1000", set()),
        ("\u0661", "1", set()),
        ("0x10", "16", set()),
        ("1e10000", "1e10001", set()),
        (".5 5.", "0.5 5.0", {"numbers"}),
        ("1E+2", "100.0", {"numbers"}),
        ("-inf", "inf", set()),
        ("-nan", "nan", {"numbers"}),
        ("1e308", "inf", set()),
        ("nan", "0", set()),
        ("0", "nan", set()),
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


@pytest.mark.parametrize(
    ("printed", "expected", "tolerance", "same"),
    [
        ("0.30000000000000004", "0.3", 0.0, False),
        ("0.30", "0.3", 0.0, True),
        ("3.0", "3", 0.0, True),
        ("1e3", "1000", 0.0, True),
        ("3", "4", 1.0, False),  # integers are exact, whatever the tolerance
        ("1.1", "1.0", 0.1, True),  # 1.1 - 1.0 is more than 0.1 in binary
        ("1.1000000001", "1.0", 0.1, False),
        ("0.7", "0.8", 0.1, True),
        ("100000.1", "100000.0", 1e-6, True),
        ("100000.2", "100000.0", 1e-6, False),
        ("2.9999999", "3", 1e-6, True),
        ("2.99999", "3", 1e-6, False),
        ("1000000000000.0001", "1000000000000", 1e-6, True),
        ("1000001.0", "1000002", 1e-6, False),  # near by its part, but it is the integer beside
        ("5e16", "50000000000000001", 1e-6, False),
        ("1000001", "1000002.0", 1e-6, True),
        ("10.9", "10", 1.0, True),
        ("123456789012345678901234567890.1", "123456789012345678901234567890.2", 0.0, False),
        ("0", "1e-9999", 0.0, False),
        ("1e9999", "1.0", 1e-6, False),
        ("", "1", 1.0, False),
        ("one", "1", 1.0, False),
        ("1", "one", 1.0, False),
    ],
)
def test_numbers_are_the_same_within_the_tolerance(printed: str, expected: str, tolerance: float, same: bool) -> None:
    assert same_number(printed, expected, tolerance) is same


@given(st.integers(), st.integers(), st.floats(0, 1e9))
def test_integers_are_the_same_only_if_they_are_equal(one: int, other: int, tolerance: float) -> None:
    assert same_number(str(one), str(other), tolerance) is (one == other)
    assert same_number(f"{one:+030d}", str(one), tolerance)


@given(st.integers(), st.integers(1, 9), st.integers(0, 400))
def test_long_integers_that_differ_in_one_digit_differ(start: int, digit: int, zeros: int) -> None:
    number = 10 ** (zeros + 1) * start
    assert not same_number(str(number), str(number + digit), 0.5)


@given(st.floats(allow_infinity=False, allow_nan=False), st.floats(allow_infinity=False, allow_nan=False))
def test_without_a_tolerance_numbers_are_the_same_only_if_their_values_are(one: float, other: float) -> None:
    assert same_number(repr(one), repr(other), 0.0) is (Fraction(repr(one)) == Fraction(repr(other)))
    assert same_number(f"{one:.40e}", f"{one:.400f}", 0.0) is (Fraction(f"{one:.40e}") == Fraction(f"{one:.400f}"))


@given(
    st.integers(-(10**15), 10**15).map(lambda number: Decimal(number).scaleb(-6)),
    st.integers(-(10**12), 10**12).map(lambda number: Decimal(number).scaleb(-9)),
    st.sampled_from([0.0, 1e-9, 1e-6, 0.1]),
)
def test_the_tolerance_is_a_distance_or_a_part_of_what_was_expected(
    expected: Decimal, apart: Decimal, tolerance: float
) -> None:
    printed = expected + apart
    allowed = Fraction(repr(tolerance))
    within = abs(Fraction(apart)) <= max(allowed, allowed * abs(Fraction(expected)))
    assert same_number(f"{printed:f}", f"{expected:f}", tolerance) is within


@given(st.floats(-1e100, 1e100), st.floats(0.01, 0.5))
def test_numbers_farther_apart_than_the_tolerance_differ(number: float, tolerance: float) -> None:
    other = number + (1 + abs(number)) * tolerance * 3
    if other != number:
        assert difference(repr(number), repr(other), "numbers", tolerance) is not None
        assert difference(repr(number), repr(number * (1 + tolerance / 4)), "numbers", tolerance) is None


@given(st.lists(st.one_of(st.integers().map(str), st.floats().map(repr), st.text(max_size=3)), max_size=8), st.data())
def test_blanks_between_words_make_no_difference_to_words(words: list[str], data: st.DataObject) -> None:
    blanks = st.text(" \n\t\r", min_size=1, max_size=3)
    printed = "".join(word + data.draw(blanks) for word in words)
    for comparison in ("tokens", "numbers"):
        assert difference(printed, " ".join(words), comparison) is None


@pytest.mark.parametrize("token", ["1" * 10**6 + "x", "1" * 10**6 + ".e", "+" * 10**6, "." * 10**6, "1e" + "1" * 10**6])
def test_a_long_word_that_is_nearly_a_number_is_read_quickly(token: str) -> None:
    since = time.perf_counter()
    assert not same_number(token, "1.5", 1e-6)
    assert not same_number("1.5", token, 1e-6)
    assert time.perf_counter() - since < 1
