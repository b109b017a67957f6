"""What an interpreter says that it displays becomes what users get, or is a violation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.backends.jail.frames import ProtocolViolation
from actors.backends.jail.host.results import error_of, result_of
from actors.schemas import ProgramReport


def test_each_format_becomes_its_field_and_unknown_ones_are_extra() -> None:
    formats = {"text/plain": "1", "image/png": "aGk=", "application/json": [1], "application/x": "y"}
    result = result_of({"main": True, "formats": formats})
    assert (result.text, result.png, result.json_, result.extra) == ("1", "aGk=", [1], {"application/x": "y"})
    assert result.is_main_result


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"formats": []},
        {"formats": {"text/plain": 1}},
        {"formats": {"image/png": {}}},
        {"formats": {"e2b/data": "x"}},
    ],
)
def test_a_result_of_another_shape_is_a_violation(message: dict[str, object]) -> None:
    with pytest.raises(ProtocolViolation):
        result_of(message)


@pytest.mark.parametrize("message", [{}, {"name": "E", "value": "v"}, {"name": 1, "value": "v", "traceback": ""}])
def test_an_error_of_another_shape_is_a_violation(message: dict[str, object]) -> None:
    with pytest.raises(ProtocolViolation):
        error_of(message)


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_whatever_text_comes_can_be_sent_on(name: str, value: str) -> None:
    error = error_of({"name": name, "value": value, "traceback": value})
    result = result_of({"formats": {"text/plain": value, "application/json": {name: [value]}, name + "/x": value}})
    report = ProgramReport(outcome="error", error=error, results=(result,))  # type: ignore[arg-type]
    assert ProgramReport.model_validate_json(report.model_dump_json()) == report
