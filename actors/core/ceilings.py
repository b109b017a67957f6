"""The most that a run may ask for itself, whatever its user says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from actors.config import MaxLimits, RunLimits
from actors.errors import InvalidRequest
from actors.schemas import ExecutionRequest, Limits

TIMES = 4
"""How many times the default one run may have, where no setting says otherwise."""
CPU_WAITS = 20
"""How many times its longest timeout a run may wait for a core besides."""
MACHINE_SHARE = 0.5
"""Of the machine's memory, for one run's memory and disk together: its files are in memory too."""
PLACES = 3
"""Where a run may write as much as ``disk_mib``: the workspace, ``/tmp`` and ``/dev/shm``."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The most of each limit that a request may name."""

    memory_mib: int
    cpu_s: float
    cpu_wait_s: float
    processes: int
    disk_mib: int
    output_bytes: int
    timeout_s: float

    @classmethod
    def derived(cls, said: MaxLimits, defaults: Iterable[RunLimits], machine_mib: int) -> Self:
        """Complete what the settings say; ``defaults`` are what each backend's runs have that say nothing."""
        backends = list(defaults)
        disk_mib = max(each.disk_mib for each in backends)
        share_mib = int(MACHINE_SHARE * machine_mib)
        memory_mib = said.memory_mib or _within(
            share_mib - PLACES * disk_mib, max(each.memory_mib for each in backends)
        )
        cpu_s = TIMES * max(each.cpu_s for each in backends)
        timeout_s = said.timeout_s or cpu_s
        return cls(
            memory_mib=memory_mib,
            cpu_s=said.cpu_s or cpu_s,
            cpu_wait_s=said.cpu_wait_s or CPU_WAITS * timeout_s,
            processes=said.processes or TIMES * max(each.processes for each in backends),
            disk_mib=said.disk_mib or _within((share_mib - memory_mib) // PLACES, disk_mib),
            output_bytes=said.output_bytes or TIMES * max(each.output_bytes for each in backends),
            timeout_s=max(timeout_s, MaxLimits.LEAST_TIMEOUT_S),
        )

    def check(self, request: ExecutionRequest, within: str = "") -> None:
        """Insist that a request asks for no more; ``within`` is where the request lies, with a dot.

        Raises:
            InvalidRequest: names the option, the ceiling and the setting.
        """
        self.require("timeout_s", request.timeout_s, f"{within}timeout_s")
        for name in Limits.model_fields.keys() & self.__slots__:
            self.require(name, getattr(request.limits, name), f"{within}limits.{name}")

    def require(self, name: str, asked: float | None, field: str) -> None:
        """The same for one limit, which the caller knows as ``field``."""
        most = getattr(self, name)
        if asked is not None and asked > most:
            rule = f"must be at most {most:,} in this deployment, not {asked:,}; max_limits.{name} sets it"
            raise InvalidRequest(field, rule)


def _within(room_mib: int, default_mib: int) -> int:
    """As many times the default as there is room for, and the default in any case."""
    return max(default_mib, min(TIMES * default_mib, room_mib))
