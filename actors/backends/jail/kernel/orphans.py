"""Processes of bwrap that outlive whoever started them, found by the name that they were given.

bwrap ends with its parent, but not yet while it waits for its own first step: a zygote or keeper that is killed just
then leaves it waiting for good.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

_BUILDERS = ("jail-zygote", "jail-keeper", "jail-ahead")
_NAME = re.compile(rb"jail-walls-(\d+)\0")


def name_of_walls(builder: int) -> str:
    return f"jail-walls-{builder}"


def sweep() -> None:
    """Kill those whose builder is dead, as far as this account may."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another's
            match = _NAME.match((path / "cmdline").read_bytes())
            if match and not _is_builder(int(match[1])):
                os.kill(int(path.name), signal.SIGKILL)


def _is_builder(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() in _BUILDERS
    except OSError:
        return False
