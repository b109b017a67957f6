"""A terminal is shown text and colours, whatever a program says and however that is cut into pieces."""

from __future__ import annotations

import io
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from actors.cli import terminal
from actors.cli.terminal import ControlFilter, SafeConsole, Screen, harmless

COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
PARTS = (
    "\x1b",
    "[",
    "]",
    "0;",
    "31",
    "m",
    "\r",
    "\n",
    "\x07",
    "\x9b",
    "\x9d",
    "\u202e",
    "\ud800",
    "a",
    "é",
    "日",
    "H",
    "P",
)
hostile = st.lists(st.one_of(st.sampled_from(PARTS), st.text(st.characters(), max_size=3)), max_size=40)


def filtered(pieces: list[str]) -> str:
    controls = ControlFilter()
    return "".join([*map(controls.feed, pieces), controls.close()])


def orders(text: str) -> set[str]:
    """What a terminal would obey in a text, colours left out."""
    rest = COLOUR.sub("", text)
    bidirectional = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return {
        character
        for character in rest
        if (unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t")
        or unicodedata.bidirectional(character) in bidirectional
    }


@given(hostile)
def test_how_output_is_cut_into_pieces_makes_no_difference(pieces: list[str]) -> None:
    assert filtered(pieces) == filtered(["".join(pieces)])
    assert filtered(list("".join(pieces))) == filtered(["".join(pieces)])


@given(hostile)
def test_nothing_that_a_terminal_obeys_comes_through(pieces: list[str]) -> None:
    assert not orders(filtered(pieces))


@given(hostile)
def test_no_piece_holds_what_a_terminal_obeys(pieces: list[str]) -> None:
    controls = ControlFilter()
    for piece in pieces:
        assert not orders(controls.feed(piece))


@given(st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs"))))
def test_text_stays_as_it_is(text: str) -> None:
    assert harmless(text) == text


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("a\r\nb", "a\nb"),
        ("safe\rcovered", "safe\ncovered"),
        ("\x1b]52;c;cHduZWQ=\x07", r"\x1b]52;c;cHduZWQ=\x07"),
        ("\x1b[2J\x1b[H", r"\x1b[2J\x1b[H"),
        ("\x1b[31mred", "\x1b[31mred\x1b[0m"),
        ("\x1b[38;2;1;2;3m·\x1b[m", "\x1b[38;2;1;2;3m·\x1b[m\x1b[0m"),
        ("\x1b[" + "1;" * 40 + "m", r"\x1b[" + "1;" * 40 + "m"),
        ("\x9b31m\x85", r"\x9b31m\x85"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("\ud800", r"\ud800"),
        ("\x1b", r"\x1b"),
        ("שלום مرحبا 👩‍👩‍👧 é", "שלום مرحبا 👩‍👩‍👧 é"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_it_is_written(said: str, shown: str) -> None:
    assert harmless(said) == shown


class Stream(io.StringIO):
    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def test_a_stream_is_shown_as_it_comes_and_ends_without_its_colours() -> None:
    stream = Stream(is_terminal=True)
    with Screen(stream) as screen:
        screen.write("\x1b[8mhidd")
        assert stream.getvalue() == "\x1b[8mhidd"
        screen.write("en\x1b")
        screen.write("[2J")
    assert stream.getvalue() == "\x1b[8mhidden\\x1b[2J\x1b[0m"


def test_where_there_is_no_terminal_nothing_is_changed() -> None:
    stream = Stream(is_terminal=False)
    with Screen(stream) as screen:
        screen.write("\x1b[2J\r\x9b")
    assert stream.getvalue() == "\x1b[2J\r\x9b"


def test_what_cannot_be_encoded_ends_nothing() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with Screen(stream) as screen:
        screen.write("\ud800é")
    assert stream.buffer.getvalue() == rb"\ud800\xe9"  # type: ignore[attr-defined]  # a buffer in memory


def console(is_terminal: bool = True) -> tuple[SafeConsole, Stream]:
    stream = Stream(is_terminal)
    return SafeConsole(file=stream, force_terminal=is_terminal, color_system="standard", width=200), stream


def test_no_text_that_a_console_shows_is_obeyed_by_the_terminal() -> None:
    out, stream = console()
    evil = "\x1b]0;title\x07\x9b2J\u202e\x1b[31m"
    table = Table("\x1b[2J")
    table.add_row(Text(evil), Text(evil, style="red"))
    out.print(Text(evil), table, Text.assemble((evil, "bold")))
    with out.status(Text(evil)):
        out.print(Text(evil))
    shown = stream.getvalue()
    for order in ("\x1b]", "\x9b", "\u202e", "\x1b[31mX", "\x1b[2J\x1b[2J"):
        assert order not in shown
    assert r"\x1b]0;title" in shown


def test_words_keep_their_colours_and_lose_their_links() -> None:
    out, stream = console()
    out.print(out.words("\x1b[31mred\x1b[0m \x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\"))
    assert "\x1b[31mred\x1b[0m" in stream.getvalue()
    assert "\x1b]8" not in stream.getvalue()
    out.print(Text.from_ansi("\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\"))
    out.print("[link=http://evil.example]link[/link]")
    assert "\x1b]8" not in stream.getvalue()


def test_words_are_raw_where_there_is_no_terminal() -> None:
    out, stream = console(is_terminal=False)
    out.print(out.words("\x1b]52;c;x\x1b\\\x1b[31m"))
    assert stream.getvalue() == "\x1b]52;c;x\x1b\\\x1b[31m\n"


def test_a_terminal_is_what_says_so() -> None:
    assert terminal.is_terminal(Stream(is_terminal=True))
    assert not terminal.is_terminal(Stream(is_terminal=False))
