"""The report of a program's error: its traceback without the frames of this machinery, its hint, its bounds.

Runs in interpreters, when a program fails.
"""

from __future__ import annotations

import codeop
import linecache
import os
import traceback
import types
from typing import Any

import IPython

from actors.backends.jail.inside import hints, mime_bundle, sources

_FRAMES_SHOWN = 40
_MAX_NAME = 1000
_OWN_FILES = (os.path.dirname(IPython.__file__), os.path.dirname(__file__), codeop.__file__, "<frozen runpy>")


def report(value: BaseException, trace: types.TracebackType | None, add_package: str) -> dict[str, Any]:
    """Return the message that tells the host of an error; ``add_package`` says how to add a package to the image."""
    try:
        text = str(value)
    except BaseException as error:  # noqa: BLE001 - the program's own code, which may raise anything
        text = f"<str() failed: {type(error).__name__}>"
    return {
        "kind": "error",
        "name": mime_bundle.cut(type(value).__name__, _MAX_NAME),
        "value": mime_bundle.cut(text),
        "traceback": mime_bundle.cut(_formatted(value, trace, text, hints.on(value, add_package))),
    }


def _formatted(value: BaseException, trace: types.TracebackType | None, text: str, hint: str | None) -> str:
    if isinstance(value, SyntaxError) and value.text is None and sources.is_program(value.filename):
        # The compiler knows a place by the tree alone, and CPython reads its line from the file.
        value.text = linecache.getline(value.filename or "", value.lineno or 0) or None
    try:
        if hint is not None:
            value.add_note(hint)
        found = traceback.TracebackException(type(value), value, own_part(trace), limit=-_FRAMES_SHOWN, compact=True)
        _leave_out_internals(found)
        return "".join(found.format())
    except Exception:  # noqa: BLE001 - an exception may be as odd as any object
        return f"{type(value).__name__}: {text}"


def own_part(trace: types.TracebackType | None) -> types.TracebackType | None:
    """Skip the frames that led to the program."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
        trace = trace.tb_next
    return trace


def _leave_out_internals(report: traceback.TracebackException) -> None:
    """Remove the frames of IPython's magics, from every error of a chain."""
    left: list[traceback.TracebackException | None] = [report]
    while left:
        if (error := left.pop()) is not None:
            kept = [frame for frame in error.stack if not frame.filename.startswith(_OWN_FILES)]
            error.stack = traceback.StackSummary.from_list(kept)
            left += [error.__cause__, error.__context__, *(error.exceptions or ())]
