"""What there is on this machine for running programs: versions, cores, memory, modules; looked up without Ray."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import psutil

from actors.config import Settings

PACKAGE = "e2b-orchestrator"


def facts(settings: Settings) -> dict[str, str]:
    """Name to value, for a person or a report."""
    modules = settings.jail.preload
    found = [name for name in modules if find_spec(name.partition(".")[0]) is not None]
    return {
        PACKAGE: installed(PACKAGE),
        "python": platform.python_version(),
        "ray": installed("ray"),
        # Those that this process may use, which in a container are fewer than the machine has.
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "preloaded": ", ".join(found) or "nothing beside the standard library",
    }


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
