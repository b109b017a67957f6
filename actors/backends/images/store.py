"""The images that were built on this machine: an environment each, and a manifest that says what is in it."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from actors import directories
from actors.config import ImageSettings
from actors.errors import ConfigurationError


class Layout(BaseModel):
    """Where an environment's Python finds what it needs; see ``layout.py``."""

    model_config = ConfigDict(frozen=True)

    python: str
    version: str
    sys_path: tuple[str, ...]
    prefixes: tuple[str, ...]


class Manifest(BaseModel):
    """What an image was built of. Written last, so that what has none was never finished."""

    model_config = ConfigDict(frozen=True)

    name: str
    tag: str
    requirements: tuple[str, ...]
    versions: dict[str, str]
    """The version of every package, those that others need included."""
    modules: dict[str, tuple[str, ...]]
    """What each required package is imported as."""
    layout: Layout
    directory: str
    mib: float


def directory(settings: ImageSettings) -> Path:
    """Where images are kept."""
    return settings.directory or directories.data() / "images"


def manifest_path(settings: ImageSettings, name: str) -> Path:
    return directory(settings) / f"{name}.json"


def built(settings: ImageSettings, name: str) -> Manifest | None:
    """Return what the newest build of an image holds; None if it was never built.

    Raises:
        ConfigurationError: another account could put an image of its own in the place of this one.
    """
    path = manifest_path(settings, name)
    try:
        with directories.opened(path.parent):
            return _read(path, path.stat().st_mtime_ns, path.stat().st_ino)
    except (FileNotFoundError, ValidationError):  # of an older form, it is to be built again
        return None
    except OSError as error:
        raise ConfigurationError(f"image {name!r} cannot be used: {error.filename}: {error.strerror}") from None


@functools.lru_cache(maxsize=16)
def _read(path: Path, *_: int) -> Manifest:
    """Read a manifest once, for as long as the file is the same; it is asked for every new sandbox."""
    return Manifest.model_validate_json(path.read_text())


def required(settings: ImageSettings, name: str) -> Manifest:
    """Return what the newest build of an image holds.

    Raises:
        ConfigurationError: it was never built, or its environment is gone.
    """
    manifest = built(settings, name)
    if manifest is None or not os.path.exists(manifest.layout.python):
        raise ConfigurationError(
            f"image {name!r} is not built on this machine; build it: e2b-orchestrator image build {name}"
        )
    return manifest
