"""The embedded backend: programs in bubblewrap jails on this machine, in interpreters forked from a warm one."""

from __future__ import annotations

from actors.backends.jail.host.backend import JailBackend

__all__ = ["JailBackend"]
