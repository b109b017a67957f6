"""What Node.js reports of an error that nobody caught, made into the traceback that users get."""

from __future__ import annotations

import re

DIRECTORY = ".node-host-"
"""How the name of the directory begins that holds the service's own scripts."""
_VERSION = re.compile(r"\n+Node\.js v[^\n]*\s*\Z")
_OWN = rf"(?:node:internal|/{re.escape(DIRECTORY)})"
_OWN_FRAME = re.compile(rf"\n +at [^\n]*{_OWN}[^\n{{]*(?P<rest> \{{)?(?=\n|\Z)")
_OWN_PLACE = re.compile(rf"\A[^\n]*{_OWN}[^\n]*\n[^\n]*\n *\^+\n+")


def traceback(report: str, program: str, code: str | None, moved: dict[str, int] | None) -> str:
    """Return a report without parts of the service or of Node.js, and with the program's lines as they were given.

    ``code`` is the program's, unless a source map has seen to that. ``moved`` says whence (line and column) and by how
    much the rest of a line was moved when it ran.
    """
    text = _VERSION.sub("", report.lstrip("\n"))
    text = _OWN_PLACE.sub("", text)
    text = _OWN_FRAME.sub(lambda match: match["rest"] or "", text)
    if code is None:
        return text
    excerpt = re.compile(rf"(?P<place>(?:file://)?{re.escape(program)}:(?P<line>\d+)\n)[^\n]*(?P<caret>\n *)(?=\^)")
    lines = code.split("\n")

    def shown(match: re.Match[str]) -> str:
        line, caret = int(match["line"]), match["caret"]
        if moved is not None and line == moved["line"] and len(caret) - 1 > moved["column"]:
            caret = caret[: -moved["by"]]
        return match["place"] + (lines[line - 1].rstrip("\r") if line <= len(lines) else "") + caret

    def named(match: re.Match[str]) -> str:
        column = int(match["column"])
        return match["place"] + str(column - moved["by"] if moved and column > moved["column"] else column)

    text = excerpt.sub(shown, text, count=1)
    if moved is None:
        return text
    return re.sub(rf"(?P<place>{re.escape(program)}:{moved['line']}:)(?P<column>\d+)", named, text)
