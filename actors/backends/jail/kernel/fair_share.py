"""Who weighs how much where processors are short: those that have used little lately more than those that used much."""

from __future__ import annotations

import time
from collections.abc import Callable

_HALF_LIFE_S = 1.0
_MUCH_S = 0.5


class FairShare:
    """The CPU time that a jail has used lately, by a moving sum in which it counts half after a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._used_s, self._at = 0.0, clock()

    def charge(self, used_s: float) -> bool:
        """Add CPU time that was used since the last call; return whether the jail is to stand back behind others."""
        now = self._clock()
        self._used_s = self._used_s * 0.5 ** ((now - self._at) / _HALF_LIFE_S) + used_s
        self._at = now
        return self._used_s > _MUCH_S
