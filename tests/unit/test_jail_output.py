"""Output kept, counted and passed on; what an interpreter displays, believed or not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.backends.jail.frames import ProtocolViolation
from actors.backends.jail.host.results import error_of, result_of
from actors.backends.output import FLOOD_FACTOR, CapturedStream
from actors.schemas import OutputEvent, ProgramReport

pieces = st.lists(st.binary(max_size=40), max_size=10)


@given(pieces, st.integers(1, 100))
def test_the_first_bytes_are_kept_and_all_are_counted(written: list[bytes], bound: int) -> None:
    output = CapturedStream("stdout", bound, None)
    for data in written:
        output.write(data)
    whole = b"".join(written)
    assert output.written == len(whole)
    kept, _, rest = output.text().partition("\n[… output truncated: ")
    if len(whole) <= bound:
        assert output.text() == whole.decode(errors="replace")
    else:
        assert kept.startswith(whole[:bound].decode(errors="replace").partition("\n[…")[0])
        assert rest.endswith(f"{len(whole)} bytes in all]")


@given(pieces, st.integers(1, 100), st.sets(st.integers(0, 9)))
def test_the_events_together_are_what_was_kept(written: list[bytes], bound: int, flushes: set[int]) -> None:
    events: list[OutputEvent] = []
    output = CapturedStream("stderr", bound, events.append)
    for index, data in enumerate(written):
        output.write(data)
        if index in flushes:
            output.flush()
    output.flush(final=True)
    assert "".join(event.text for event in events) == b"".join(written)[:bound].decode(errors="replace")


def test_a_character_split_between_writes_is_one_character() -> None:
    events: list[OutputEvent] = []
    output = CapturedStream("stdout", 100, events.append)
    for byte in "é".encode():
        output.write(bytes([byte]))
        output.flush()
    assert [event.text for event in events] == ["é"]


def test_a_flood_is_more_than_so_many_times_the_bound() -> None:
    output = CapturedStream("stdout", 10, None)
    output.write(b"x" * 10 * FLOOD_FACTOR)
    assert not output.flooded
    output.write(b"x")
    assert output.flooded


def test_each_form_becomes_its_field_and_unknown_ones_are_extra() -> None:
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
