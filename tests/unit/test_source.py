"""What text is no program, in the words of CPython."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.core.source import source_error


@pytest.mark.parametrize("code", ["", " \n\t", "\ufeff", "# nothing", "print('é')", "x" * 1_000_000, "\r\n"])
def test_a_program_may_be_anything_else(code: str) -> None:
    assert source_error(code) is None


@pytest.mark.parametrize(
    ("code", "value", "line"),
    [
        ("a\0b", "source code cannot contain null bytes", 1),
        ("a\nb\n'\0'", "source code cannot contain null bytes", 3),
        ("\n'\ud800'", "surrogates not allowed", 2),
        ("x" * 1_000_001, "the program has 1,000,001 bytes; at most 1,000,000 are run", 1),
        ("é" * 600_000, "the program has 1,200,000 bytes; at most 1,000,000 are run", 1),
    ],
)
def test_what_cannot_be_a_program_fails_as_one_that_does_not_compile(code: str, value: str, line: int) -> None:
    error = source_error(code)
    assert error is not None
    assert error.name == "SyntaxError"
    assert error.value.endswith(value)
    assert error.traceback == f'  File "<program>", line {line}\nSyntaxError: {error.value}\n'


def test_a_hundred_megabytes_are_refused_at_once() -> None:
    code = "é" * 100_000_000
    since = time.perf_counter()
    assert source_error(code) is not None
    assert time.perf_counter() - since < 0.05


@given(st.text())
def test_whatever_has_no_error_can_be_sent_and_compiled_or_refused_by_its_language(code: str) -> None:
    if source_error(code) is None:
        assert "\0" not in code.encode().decode()
