"""What a terminal is shown of a program's words: text, line ends, tabs and colours.

A terminal obeys what it is sent: it fills the clipboard, renames its window, moves over lines that were shown before,
answers into the shell. So anything else that a program said is shown as an escape that can be read. Where there is no
terminal nothing is changed.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from types import TracebackType
from typing import IO, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

_COLOUR = r"\x1b\[[0-9;:]{0,40}m"
_RESET = "\x1b[0m"
_ORDERS = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0, DEL and C1
    "\u202a-\u202e\u2066-\u206f"  # what changes the direction of writing
    "\ud800-\udfff"  # halves of pairs, which cannot be written at all
)
_SPECIAL = re.compile(rf"(?P<colour>{_COLOUR})|(?P<line_end>\r\n?)|[{_ORDERS}]")
_UNFINISHED = re.compile(r"(?:\r|\x1b(?:\[[0-9;:]{0,40})?)\Z")


class ControlFilter:
    """Makes pieces of one stream harmless; how it is cut into pieces makes no difference."""

    def __init__(self) -> None:
        self._held = ""
        self._is_coloured = False

    def feed(self, text: str) -> str:
        text = self._held + text
        unfinished = _UNFINISHED.search(text)
        self._held = unfinished[0] if unfinished else ""
        return self._harmless(text.removesuffix(self._held))

    def close(self) -> str:
        """What was held back until its end would be known; and the colours that what follows is to have."""
        rest = self._harmless(self._held)
        self._held = ""
        return rest + _RESET * self._is_coloured

    def _harmless(self, text: str) -> str:
        return _SPECIAL.sub(self._shown, text)

    def _shown(self, found: re.Match[str]) -> str:
        if found["colour"]:
            self._is_coloured = True
            return found[0]
        # A carriage return alone would let what follows cover its line.
        return "\n" if found["line_end"] else _escape(found[0])


def harmless(text: str) -> str:
    """A whole text with nothing but colours left of what a terminal obeys."""
    controls = ControlFilter()
    return controls.feed(text) + controls.close()


class Screen:
    """Where a program's output is shown as it comes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._filter = ControlFilter() if is_terminal(stream) else None
        if isinstance(stream, io.TextIOWrapper):
            # No program is to end this one by what cannot be encoded.
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> None:
        # Not through rich, which would take a program's brackets for markup and its escapes for its own.
        self._stream.write(self._filter.feed(text) if self._filter else text)
        self._stream.flush()

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._filter:
            self._stream.write(self._filter.close())
            self._stream.flush()


class SafeConsole(Console):
    """A console whose own cursor and colours work as ever, and no text in it has any."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        segments = super().render(renderable, options)
        return map(_plain, segments) if is_terminal(self.file) else segments

    def words(self, text: str) -> Text:
        """What a program said, in its own colours; where there is no terminal, as it is."""
        if not is_terminal(self.file):
            return Text(text)
        return Text.from_ansi(harmless(text))


def is_terminal(stream: IO[str]) -> bool:
    return stream.isatty()


def _plain(segment: Segment) -> Segment:
    if segment.control:
        return segment
    text, style, _ = segment
    # A link is an order too.
    return Segment(re.sub(f"[{_ORDERS}]", lambda found: _escape(found[0]), text), style and style.update_link(None))


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
