"""Structured logs, and the counters behind ``get_metrics()`` and Prometheus."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line; whatever was passed as ``extra=`` (a run id, a sandbox id) becomes a field."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def get_logger(name: str) -> logging.Logger:
    return logging.getLogger(name)


def log_as_json(level: int = logging.INFO) -> None:
    """Write this package's logs to stderr as JSON; called once in each actor's process."""
    root = logging.getLogger("actors")
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
        root.addHandler(handler)
    root.setLevel(level)
    root.propagate = False


class RunStatistics:
    """Counts of runs by outcome, and a recent view of where their time went."""

    def __init__(self) -> None:
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
            "e2b_rate": self.by_backend["e2b"] / ran if ran else 0.0,
            "outcomes": dict(self.by_outcome),
            "backends": dict(self.by_backend),
            "mean_stage_s": {stage: round(seconds, 6) for stage, seconds in self._mean_s.items()},
        }
