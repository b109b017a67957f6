"""Everything that touches a sandbox. I/O, no Ray."""

from __future__ import annotations

from actors.backends.base import Backend
from actors.config import Settings
from actors.errors import ConfigurationError

LOCAL = ("jail", "fake")


def make_backend(name: str, settings: Settings) -> Backend:
    """Build a backend by name, without starting it; imports are late since each drags in its own dependencies."""
    if name == "jail":
        from actors.backends.jail import JailBackend

        return JailBackend(settings.jail, settings.limits, settings.images)
    if name == "fake":
        from actors.backends.fake.backend import FakeBackend

        return FakeBackend(settings.fake, build_tag=settings.pool.build_tag or "fake")
    raise ConfigurationError(f"there is no backend {name!r}; there are {', '.join(LOCAL)}")
