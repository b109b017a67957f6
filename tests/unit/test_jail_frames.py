"""The wire between the host and an untrusted interpreter."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.backends.jail.frames import MAX_FRAME_BYTES, MAX_NESTING, MAX_VALUES, Decoder, ProtocolViolation, encode

texts = st.text(st.characters(codec=None, categories=("L", "N", "Cs", "So")), max_size=20).map(
    # JSON cannot tell two surrogates that make a pair from the character that they stand for.
    lambda text: text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner)
)
messages = st.dictionaries(texts, values, max_size=4)


@given(st.lists(messages, max_size=4), st.lists(st.integers(1, 50), max_size=50))
def test_messages_survive_however_their_bytes_are_split(sent: list[dict[str, object]], sizes: list[int]) -> None:
    data, decoder, received = b"".join(map(encode, sent)), Decoder(), []
    for size in [*sizes, len(data)]:
        received += [message for message, _ in decoder.feed(data[:size])]
        data = data[size:]
    assert received == sent


@given(st.binary(max_size=200))
def test_any_bytes_are_understood_or_a_violation(data: bytes) -> None:
    with contextlib.suppress(ProtocolViolation):
        for message, size in Decoder().feed(data):
            assert isinstance(message, dict)
            assert size <= len(data)


@pytest.mark.parametrize("body", [b"[]", b"1", b"{", b"\xff", b'{"a": NaN}', b'{"a": Infinity}', b""])
def test_what_is_no_json_object_is_a_violation(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        list(Decoder().feed(len(body).to_bytes(4, "little") + body))


def test_a_frame_over_the_bound_is_refused_before_it_is_gathered() -> None:
    with pytest.raises(ProtocolViolation, match="bytes"):
        list(Decoder().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "little")))


@pytest.mark.parametrize(("depth", "refused"), [(MAX_NESTING - 1, False), (MAX_NESTING + 1, True), (10_000, True)])
def test_nesting_is_bounded(depth: int, refused: bool) -> None:
    body = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    frame = len(body).to_bytes(4, "little") + body
    if refused:
        with pytest.raises(ProtocolViolation):
            list(Decoder().feed(frame))
    else:
        assert [json.dumps(message) for message, _ in Decoder().feed(frame)]


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[' + b"[]," * MAX_VALUES + b"1]}",
        b'{"a":[' + b"1," * (MAX_VALUES + 1) + b"1]}",
        b'"' * (5 * MAX_VALUES),
        b'{"a":"' + rb"\"," * (4 * MAX_VALUES),  # a string that never ends
    ],
)
def test_a_frame_that_would_grow_when_parsed_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        list(Decoder().feed(len(body).to_bytes(4, "little") + body))


def test_commas_brackets_and_quotes_in_a_text_are_no_values() -> None:
    message = {"a": ',[{"\\' * MAX_VALUES}
    assert [received for received, _ in Decoder().feed(encode(message))] == [message]


@pytest.mark.parametrize("number", ["1e999", "-1E+400", "[0.5, 1e309]", f"1{'0' * 400}.0", "NaN", "-Infinity"])
def test_no_number_is_infinite(number: str) -> None:
    body = f'{{"kind":"x","value":{number}}}'.encode()
    with pytest.raises(ProtocolViolation, match="not JSON"):
        list(Decoder().feed(len(body).to_bytes(4, "little") + body))


@pytest.mark.parametrize("number", ["1e308", "1e-999", "0.1", f"0.{'1' * 400}", f"1{'0' * 308}"])
def test_a_large_number_that_is_one_passes(number: str) -> None:
    body = f'{{"kind":"x","value":{number},"text":"1e999"}}'.encode()
    [(message, _)] = Decoder().feed(len(body).to_bytes(4, "little") + body)
    assert float(message["value"]) == float(number)
