"""What the machine has that this runs on."""

from __future__ import annotations

from pathlib import Path

import psutil

_OF_CONTAINER = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_mib() -> int:
    """All of its memory; in a container, what the container may use."""
    total = psutil.virtual_memory().total
    return min([total, *filter(None, map(_bytes, map(Path, _OF_CONTAINER)))]) // 2**20


def _bytes(file: Path) -> int | None:
    """What a control group says; None where it says nothing, or has no limit."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
