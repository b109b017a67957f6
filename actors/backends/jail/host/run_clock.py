"""The clock of one program: when its wall time or its CPU time is used up, and which of the two it was."""

from __future__ import annotations

import asyncio

from actors.backends.jail.host.usage import UsageMeter
from actors.schemas import Program

LOOK_S = 0.25
"""How often it is looked at what a program uses."""
_LOOKS = 20
"""How often at least in the wall time of a program whose waits are given back: what is missed is a part of that."""
_SHOWN_S = 0.05


class RunClock:
    """The wall time and the CPU time of one program.

    What it waits for a core is no time of its own, as far as ``limits.cpu_wait_s`` allows for that.
    """

    def __init__(self, program: Program, meter: UsageMeter) -> None:
        self._timeout_s, self._may_wait_s = program.timeout_s, program.limits.cpu_wait_s or 0.0
        self._meter = meter
        self._waited_s = self._ends_at = 0.0
        self._wall = asyncio.Timeout(None)

    @property
    def look_s(self) -> float:
        """After how long to ``look`` again."""
        return min(LOOK_S, self._timeout_s / _LOOKS) if self._may_wait_s else LOOK_S

    @property
    def longest_s(self) -> float:
        """How long the program may take, if it waits for a core for as long as it may."""
        return self._timeout_s + self._may_wait_s

    @property
    def waited_s(self) -> float | None:
        """For how long the program waited for a core; None where that is not measured."""
        return self._waited_s if self._may_wait_s else None

    def start(self) -> asyncio.Timeout:
        """Start counting; what runs under the timeout ends with the program's wall time."""
        if self._may_wait_s:
            self._meter.begin_waits()
        self._ends_at = asyncio.get_running_loop().time() + self._timeout_s
        self._wall = asyncio.timeout_at(self._ends_at)
        return self._wall

    def look(self, cpu_s: float, elsewhere_s: float = 0.0) -> str | None:
        """Give back what was waited for a core; return why the time is up if more than ``cpu_s`` was used.

        ``elsewhere_s`` is CPU time that the program has cost outside its container.
        To be called only while the program runs under the timeout of ``start``.
        """
        used_s = self._meter.cpu_s() + elsewhere_s
        if self._may_wait_s:
            self._waited_s = self._meter.waited_s()
            # One that has computed for as long as it may take has not been kept from it; its own threads crowd it.
            if used_s < self._timeout_s and not self._wall.expired():
                self._wall.reschedule(self._ends_at + min(self._waited_s, self._may_wait_s))
        if used_s > cpu_s:
            return f"used more than {cpu_s:g} s of CPU time, and was stopped; ask for a higher limits.cpu_s"
        return None

    def wall_time_is_up(self) -> str:
        """Say that it is, for a program that ran into its timeout."""
        text = f"still running after {self._timeout_s:g} s of wall time"
        if self._waited_s >= _SHOWN_S:
            text += f", beside {self._waited_s:.1f} s that it waited for a core"
        return f"{text}, and was stopped; ask for a longer timeout_s"
