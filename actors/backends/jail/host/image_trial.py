"""The trial of an image in a jail: is every package there, and is it the build that it says it is?"""

from __future__ import annotations

import importlib.util

from actors.backends.images import store
from actors.backends.jail.host import image
from actors.backends.jail.host.backend import JailBackend
from actors.config import ImageSettings, JailSettings, RunLimits
from actors.schemas import Limits, Outcome, Program

_IMPORT_S = 120.0
_PROGRAM = """
import importlib
for module in {modules!r}:
    importlib.import_module(module)
"""
BUILD_TAG = "BUILD_TAG"


async def trial(settings: JailSettings, limits: RunLimits, images: ImageSettings) -> dict[str, str | None]:
    """Return what is wrong with each package of an image, and with its BUILD_TAG; None is nothing.

    Raises:
        ConfigurationError: the image was not built.
        IsolationUnavailable: no jail can be made.
    """
    modules, tag = _expected(settings, images)
    backend = JailBackend(settings, limits, images)
    findings: dict[str, str | None] = {}
    await backend.start()
    try:
        sandbox = await backend.create()
        read = await sandbox.check()
        findings[BUILD_TAG] = None if read == tag else f"the jail reads {read!r}, not {tag!r}"
        for package, names in modules.items():
            code = _PROGRAM.format(modules=names)
            roomy = Limits(memory_mib=max(2048, limits.memory_mib), disk_mib=limits.disk_mib)
            report = await sandbox.execute(Program(run_id="", code=code, timeout_s=_IMPORT_S, limits=roomy))
            findings[package] = None
            if report.outcome is not Outcome.OK:
                findings[package] = f"{report.error.name}: {report.error.value}" if report.error else report.message
            elif not names:
                findings[package] = "is not installed"
    finally:
        await backend.close()
    return findings


def _expected(settings: JailSettings, images: ImageSettings) -> tuple[dict[str, tuple[str, ...]], str]:
    """Return the modules that each package is to bring, and the tag."""
    if settings.image is not None:
        manifest = store.required(images, settings.image)
        return manifest.modules, manifest.tag
    # Nothing was built: what this environment has of the modules that programs start with.
    tops = [name.partition(".")[0] for name in settings.preload]
    there: dict[str, tuple[str, ...]] = {name: (name,) for name in tops if importlib.util.find_spec(name) is not None}
    return there, image.build_tag(settings, images)
