"""Time, as decisions see it."""

from __future__ import annotations

from collections.abc import Callable

Clock = Callable[[], float]
"""Monotonic seconds. Injected, so that tests move time by hand; only differences of readings mean anything."""
