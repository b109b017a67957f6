"""The sweeper of bwrap processes that outlive the process that started them; it knows them by their names.

bwrap ends with its parent, but not yet while it waits for its own first step: a jail server or shim that is killed just
then leaves it waiting for good. Run by the host when a backend starts.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

from actors.backends.jail import process_names

_NAME = re.compile(rf"{process_names.WALLS}(\d+)\0".encode())


def sweep() -> None:
    """Kill every bwrap whose builder is dead, as far as this account may."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another's
            match = _NAME.match((path / "cmdline").read_bytes())
            if match and not _is_builder(int(match[1])):
                os.kill(int(path.name), signal.SIGKILL)


def _is_builder(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() in process_names.BUILDERS
    except OSError:
        return False
