"""Builds an image: an environment of its own, from its list of packages."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from actors import directories
from actors.backends.images import store
from actors.backends.images.catalogue import Image
from actors.backends.images.store import Layout, Manifest
from actors.config import ImageSettings
from actors.errors import ServiceError

LAYOUT = Path(__file__).with_name("layout.py")
NEEDED = ("ipython>=9,<10", "matplotlib-inline>=0.1.7,<1")
"""What runs programs, and so is in every image."""
COMPANIONS = {"matplotlib": "e2b-charts>=0.0.3,<1", "plotly": "nbformat>=5,<6"}
"""What tells what a figure of a package plots, and what such a package needs to show one. Taken in where the package is
there, and the companion's own needs can be met."""
BUILD_S = 3600.0
_LAST_LINES = 15
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class BuildFailed(ServiceError):
    """An image could not be built; nothing is left of it, and what was built before is still there."""

    code = "image_build_failed"


def build(
    image: Image,
    settings: ImageSettings,
    *,
    tag: str | None = None,
    python: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Build an image and put it in the place of its last build; ``tell`` is told of each step.

    A running deployment goes over to it by itself: its supervisor replaces sandboxes of another BUILD_TAG.

    Raises:
        BuildFailed: a package cannot be had; says which.
    """
    try:
        home = directories.secure(store.directory(settings))
    except OSError as error:
        raise BuildFailed(f"images cannot be kept in {error.filename}: {error.strerror}") from None
    with _alone(home / f"{image.name}.lock"):
        environment = home / f"{image.name}-{uuid.uuid4().hex[:8]}"
        try:
            manifest = _built(image, environment, tag or image.tag, python or sys.executable, tell)
            written = environment.with_suffix(".json")
            written.write_text(manifest.model_dump_json(indent=1))
            previous = store.built(settings, image.name)
            written.replace(store.manifest_path(settings, image.name))
        except BaseException:
            shutil.rmtree(environment, ignore_errors=True)
            raise
        _sweep(home, image.name, {environment.name, Path(previous.directory).name if previous else ""})
    return manifest


def _built(image: Image, environment: Path, tag: str | None, python: str, tell: Callable[[str], None]) -> Manifest:
    tell(f"making an environment with {python}")
    _step([python, "-m", "venv", str(environment)], tell)
    own = str(environment / "bin" / "python")
    pip = [own, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    _step([*pip, *NEEDED, *image.packages], tell)
    found = _inspect(own)
    for package, companion in COMPANIONS.items():
        if package in found["versions"]:
            # With what is there as it is: it must not change what the list asks for.
            pinned = [f"{name}=={version}" for name, version in found["versions"].items()]
            with contextlib.suppress(BuildFailed):
                _step([*pip, companion, *pinned], tell)
                found = _inspect(own)
    tell("compiling")
    _step([own, "-m", "compileall", "-q", "-j", "0", str(environment / "lib")], tell, may_fail=True)
    required = {_canonical(match[0]) for package in image.packages if (match := _NAME.match(package))}
    return Manifest(
        name=image.name,
        tag=tag or _derived_tag(image.name, found),
        requirements=image.packages,
        versions=found["versions"],
        modules={name: tuple(found["modules"].get(name, ())) for name in sorted(required)},
        layout=Layout.model_validate(found["layout"]),
        directory=str(environment),
        mib=sum(path.lstat().st_size for path in environment.rglob("*")) / 2**20,
    )


def _inspect(python: str) -> dict[str, Any]:
    """Ask an environment's own Python what is in it."""
    told = subprocess.run([python, "-I", str(LAYOUT)], capture_output=True, text=True, timeout=60.0, check=False)
    if told.returncode != 0:
        raise BuildFailed(f"the new environment's Python does not start: {told.stderr[-500:]}")
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def _derived_tag(name: str, found: dict[str, Any]) -> str:
    """Equal for equal content: the same Python and the same version of every package."""
    facts = json.dumps([found["layout"]["version"], sorted(found["versions"].items())])
    return f"{name}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"


def _step(command: list[str], tell: Callable[[str], None], *, may_fail: bool = False) -> None:
    """Run one step, telling each line that it says."""
    lines: list[str] = []
    # Nothing of this environment's: it is another that is being built.
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip())
                tell(line.strip())
            status = process.wait(BUILD_S)
        except BaseException:
            process.kill()
            raise
    if status != 0 and not may_fail:
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-_LAST_LINES:]
        raise BuildFailed("; ".join(errors) or f"{command[0]} ended with status {status}")


def _sweep(home: Path, name: str, kept: set[str]) -> None:
    """Remove what builds before the last left; sandboxes of the last may still be running."""
    for path in home.glob(f"{name}-????????"):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let nobody else build the same image meanwhile.

    Raises:
        BuildFailed: somebody else does.
    """
    try:
        held = FileLock(path).acquire(blocking=False)
    except Timeout:
        raise BuildFailed(f"another build of it is under way ({path})") from None
    with held:
        yield


def _canonical(name: str) -> str:
    """As package indexes compare names. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()
