"""The magics that IPython leaves to its frontends: what a notebook's do, or one line that says why there is none here.

Runs in interpreters.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_magic, magics_class
from IPython.display import clear_output

_WINDOWS = re.compile(r"auto|(gtk|qt|tk|wx)\d?(agg)?|osx|macosx|notebook|nbagg|widget|ipympl|webagg", re.IGNORECASE)
"""Ways in which matplotlib shows figures that are alive, as no result can be."""
_NO_EDITOR = "%edit: a sandbox has no editor; %%writefile writes a file, %load prints one."
_FIRST_WORD = re.compile(r"\s*([A-Za-z_]\w*)\b(?!\s*(?:=(?!=)|[.(\[,:]))")


def add_to(shell: InteractiveShell) -> None:
    """Add them to a shell, with ``%store``, which IPython's applications add."""
    shell.register_magics(_FrontendMagics)
    shell.extension_manager.load_extension("storemagic")  # type: ignore[union-attr]


def is_automagic(shell: InteractiveShell, code: str) -> bool:
    """Whether a program may be a magic without its percent sign, like ``ls`` or ``cd data``: one line, no name."""
    word = _FIRST_WORD.match(code)
    if word is None or "\n" in code.strip():
        return False
    manager = shell.magics_manager
    found = word[1] in manager.magics["line"] or word[1] in manager.lazy_magics
    return found and manager.auto_magic and word[1] not in shell.user_ns


def shown_as(gui: str | None) -> str:
    """Return how figures are shown that ``%matplotlib`` wants in a window: as pictures, and it is told so."""
    if gui is not None and not _WINDOWS.fullmatch(gui):
        return gui
    if gui is not None and gui.lower() != "auto":
        _say(f"%matplotlib {gui}: a sandbox has no windows or widgets; figures are shown as pictures, as with inline.")
    return "inline"


def explain_gui(gui: str | None) -> None:
    """Say that there is no event loop of a window system, unless none was asked for."""
    if gui not in (None, "", "inline", "none"):
        _say(f"%gui {gui}: a sandbox has no windows, so there are no events to wait for.")


@magics_class
class _FrontendMagics(Magics):
    @line_magic
    def clear(self, _: str) -> None:
        """Take back what was displayed."""
        clear_output()  # type: ignore[no-untyped-call]

    @line_magic
    def less(self, path: str) -> None:
        """Print a file."""
        _print_file(path)

    @line_magic
    def more(self, path: str) -> None:
        """Print a file."""
        _print_file(path)

    @line_magic
    def man(self, page: str) -> None:
        """Say that there are no manual pages."""
        _say(f"%man: a sandbox has no manual pages; !{page or 'COMMAND'} --help prints a summary.")

    @line_magic
    def edit(self, _: str) -> None:
        """Say that there is no editor."""
        _say(_NO_EDITOR)

    @line_magic
    def ed(self, _: str) -> None:
        """Say that there is no editor."""
        _say(_NO_EDITOR)

    @line_magic
    def autosave(self, _: str) -> None:
        """Say that there is no notebook."""
        _say("%autosave: there is no notebook here that could be saved.")

    @line_magic
    def connect_info(self, _: str) -> None:
        """Say that nothing can connect."""
        _say("%connect_info: nothing can connect to this interpreter but its session.")

    @line_magic
    def qtconsole(self, _: str) -> None:
        """Say that nothing can connect."""
        _say("%qtconsole: a sandbox has no windows; open another context of the session instead.")

    @line_magic
    def subshell(self, _: str) -> None:
        """Say that there are no subshells."""
        _say("%subshell: there are no subshells here; open another context of the session instead.")


def _print_file(path: str) -> None:
    with open(path) as file:
        sys.stdout.write(file.read())


def print_next_input(text: str, **_: Any) -> None:
    """Print the text that ``%load`` and ``%recall`` put into a notebook's next cell."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
