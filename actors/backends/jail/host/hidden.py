"""What lies in a Python environment and is nobody's business in a jail: credentials, and other environments."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_NAMES = (
    *("pip.conf", "pip.ini", "uv.toml", ".condarc", "condarc", "condarc.d", ".mambarc", "pypirc", "poetry.toml"),
    *(".pypirc", ".netrc", "_netrc", ".npmrc", ".env", ".envrc", ".git-credentials", ".gitconfig", ".git"),
    *(".ssh", ".aws", ".azure", ".config", ".docker", ".kube", ".gnupg", ".huggingface", ".cache", ".conda"),
    *("etc/pip.conf", "etc/npmrc", "etc/conda", "envs", "pkgs", "state", "share/keyrings"),
)
_SHARED_WITH_ALL = ".local"
"""The name of a prefix below which every program of an account keeps what is its own."""
_USER_IN_ADDRESS = re.compile(rb"://[^/\s\"@]+@")
"""In what pip notes of a package that came from an address: who may fetch it, perhaps by which token."""


def hidden(prefixes: list[str], search_path: list[str]) -> list[str]:
    """Return the files and directories of an environment that a jail is to show empty.

    ``prefixes`` are all that it shows of the environment, and ``search_path`` is where packages are.
    """
    found = [*(path for prefix in prefixes for path in _in(Path(prefix))), *_noted(search_path)]
    shown = [f"{prefix}/" for prefix in prefixes]
    # A prefix may lie in what another one has beside its own files, as the environments of conda do.
    return sorted({str(path) for path in found if not any(prefix.startswith(f"{path}/") for prefix in shown)})


def _in(prefix: Path) -> Iterator[Path]:
    for name in (*_NAMES, *(("share",) if prefix.name == _SHARED_WITH_ALL else ())):
        path = prefix / name
        if path.exists() and not path.is_symlink():
            yield path


def _noted(search_path: list[str]) -> Iterator[Path]:
    for directory in search_path:
        for path in Path(directory).glob("*.dist-info/direct_url.json"):
            if not os.access(path, os.R_OK) or _USER_IN_ADDRESS.search(path.read_bytes()):
                yield path
