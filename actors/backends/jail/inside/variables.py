"""The environment variables of one program, with what CPython otherwise takes from them only as it starts.

Runs in interpreters.
"""

from __future__ import annotations

import contextlib
import locale
import os
import time
from collections.abc import Mapping

_LOCALE = frozenset(("LC_ALL", "LC_CTYPE", "LANG"))


def put(variables: Mapping[str, str | None]) -> dict[str, str | None]:
    """Set variables, and remove those that are None; return what was there before, to be put back in the same way."""
    before = {name: os.environ.get(name) for name in variables}
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if "TZ" in variables:
        time.tzset()
    if not _LOCALE.isdisjoint(variables):
        with contextlib.suppress(locale.Error):  # one that this image lacks, with which CPython starts all the same
            locale.setlocale(locale.LC_CTYPE, "")
    return before
