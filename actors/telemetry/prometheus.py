"""The deployment's metrics for Prometheus, through the endpoint that Ray has on every node.

Only the Orchestrator exports, for all: the series of an actor that ended stays in the endpoint, so sandboxes, which
come and go, export nothing, and neither users nor sandboxes are labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

PREFIX = "e2b_orchestrator"
EXPORT_S = 5.0
_BUCKETS_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]


def flattened(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every number of ``get_metrics()``, by a name made of its section and field; what is nested deeper is left out."""
    for section, values in metrics.items():
        for field, value in values.items():
            if isinstance(value, (bool, int, float)):
                yield f"{PREFIX}_{section}_{field}", float(value)


class Exporter:
    """Counts runs as they end, and copies the components' metrics when told to."""

    def __init__(self, namespace: str) -> None:
        self._tags = {"namespace": namespace}
        self._runs = Counter(
            f"{PREFIX}_runs", "Runs by how they ended.", tag_keys=("namespace", "outcome", "backend", "tier")
        )
        self._seconds = Histogram(
            f"{PREFIX}_run_seconds", "Seconds from request to result.", _BUCKETS_S, tag_keys=("namespace", "tier")
        )
        self._gauges: dict[str, Gauge] = {}

    def count(self, outcome: str, backend: str | None, cached: bool, seconds: float) -> None:
        """``tier`` is ``cache`` or ``sandbox``: their times differ a hundredfold."""
        tier = "cache" if cached else "sandbox"
        self._runs.inc(tags=self._tags | {"outcome": outcome, "backend": backend or "", "tier": tier})
        self._seconds.observe(max(seconds, 1e-6), tags=self._tags | {"tier": tier})

    def copy(self, metrics: Mapping[str, Any]) -> None:
        for name, value in flattened(metrics):
            gauge = self._gauges.get(name)
            if gauge is None:
                gauge = self._gauges[name] = Gauge(name, "See get_metrics().", tag_keys=("namespace",))
            gauge.set(value, tags=self._tags)
