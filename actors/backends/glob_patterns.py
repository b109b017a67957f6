"""Patterns of file names, as Python's ``glob`` reads them: whether a name fits one, without looking at any file."""

from __future__ import annotations

import functools
import re
from fnmatch import translate

_ANY_DEPTH = "**"
_THIS = ("", ".")


def fits(name: str, pattern: str) -> bool:
    """Whether ``glob.glob(pattern, recursive=True)`` may find a file of this name, relative to the same directory.

    A pattern also fits the file that it names literally. Hidden files must be asked for: by a pattern in which a part
    begins with a dot.
    """
    if name == pattern:
        return True
    parts, wanted = name.split("/"), pattern.split("/")
    hidden = "/." in f"/{pattern}"
    if wanted[-1] in _THIS or (not hidden and any(part.startswith(".") for part in parts)):
        return False
    # Whether the parts so far fit what is wanted so far, for every number of parts: no pattern takes longer than that.
    fitting = [True] + [False] * len(parts)
    for number, want in enumerate(wanted, 1):
        if want == _ANY_DEPTH:
            first = fitting.index(True) if True in fitting else len(fitting)
            first += number == len(wanted)  # the file itself is one part at least
            fitting = [at >= first for at in range(len(fitting))]
        elif want not in _THIS:
            matches = _compiled(want).match
            fitting = [False, *(fitting[at] and matches(part) is not None for at, part in enumerate(parts))]
    return fitting[-1]


@functools.lru_cache(maxsize=256)
def _compiled(part: str) -> re.Pattern[str]:
    return re.compile(translate(part))
