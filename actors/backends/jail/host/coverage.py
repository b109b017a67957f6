"""What of a program's use is counted on this machine, by what, and what is not: in every result, and for ``doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from actors.backends.jail.kernel.cgroup import Parents

_BOUNDED = "contents of files (bounded by disk_mib), of pipes and of epoll (by fewer descriptors)"
_TOGETHER = "descriptors in flight and pages of pipes, which the account's jails have together"


@dataclass(frozen=True, slots=True)
class Coverage:
    """Who counts memory and shares out processors here, and what nobody counts for each jail by itself."""

    memory: str
    processors: str
    uncounted: tuple[str, ...]

    @classmethod
    def of(cls, groups: Parents | None, *, own_id: bool) -> Self:
        """Say what ``groups`` count, if there are any, and what the kernel counts by the ids of jails."""
        together = () if own_id else (_TOGETHER,)
        if groups is None:
            return cls("process limits and polling", "niceness", (_BOUNDED, *together))
        return cls("cgroup", "cgroup" if groups.cpu else "niceness", together)

    def __str__(self) -> str:
        text = f"memory by {self.memory}, CPU by {self.processors}"
        return f"{text}; not counted: {'; '.join(self.uncounted)}" if self.uncounted else text
