"""The counters behind ``get_metrics()`` and Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any


class RunStatistics:
    """Counts of runs by outcome, and a recent view of where their time went."""

    def __init__(self, clouds: Collection[str] = ()) -> None:
        """``clouds`` are the backends that are not local."""
        self._clouds = clouds
        self.total = 0
        self.cached = 0
        self.by_outcome: Counter[str] = Counter()
        self.by_backend: Counter[str] = Counter()
        self._mean_s: dict[str, float] = {}

    def record(self, outcome: str, backend: str | None, cached: bool, stages: dict[str, float]) -> None:
        self.total += 1
        self.cached += cached
        self.by_outcome[outcome] += 1
        if backend and not cached:
            self.by_backend[backend] += 1
        for stage, seconds in stages.items():
            known = self._mean_s.get(stage)
            # Exponentially weighted over about the last 20 runs.
            self._mean_s[stage] = seconds if known is None else known + 0.05 * (seconds - known)

    def snapshot(self) -> dict[str, Any]:
        ran = self.total - self.cached
        return {
            "total_requests": self.total,
            "cache_hit_rate": self.cached / self.total if self.total else 0.0,
            "e2b_rate": sum(self.by_backend[name] for name in self._clouds) / ran if ran else 0.0,
            "outcomes": dict(self.by_outcome),
            "backends": dict(self.by_backend),
            "mean_stage_s": {stage: round(seconds, 6) for stage, seconds in self._mean_s.items()},
        }
