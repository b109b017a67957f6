"""The embedded backend: a jail on this machine."""

from actors.backends.jailed.backend import JailBackend

__all__ = ["JailBackend"]
