"""Time that moves only when a test says so."""

from __future__ import annotations


class FakeClock:
    """Monotonic seconds, advanced by hand."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds
