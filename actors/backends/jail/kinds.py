"""The two kinds of interpreter, and which one suits a program.

``LOADED`` has the image's packages imported already, ``LEAN`` only Python's own modules, and so is cheaper to fork.
"""

from __future__ import annotations

import re
import sys

LEAN, LOADED = "lean", "loaded"
_WORD = re.compile(r"[A-Za-z_]\w*")
_IMPORT = re.compile(r"^[ \t]*(?:import|from)[ \t]+([^\n#;]*)", re.MULTILINE)


def suited(code: str, preloaded: frozenset[str]) -> str:
    """Choose a kind by what the program's text names; a wrong choice costs time, never a result.

    Any mention of a preloaded package counts, whatever the way in which it is imported, and so does importing a module
    that is not Python's own.
    """
    if not preloaded.isdisjoint(_WORD.findall(code)):
        return LOADED
    for line in _IMPORT.findall(code):
        modules = line.partition(" import ")[0] if " import " in line else line
        for part in modules.split(","):
            name = part.split()[0].partition(".")[0] if part.split() else ""
            if name and name not in sys.stdlib_module_names:
                return LOADED
    return LEAN
