"""What Prometheus scrapes from Ray's own endpoint."""

from __future__ import annotations

import urllib.request
from typing import Any

import ray

from actors.testing import eventually


def scraped() -> str:
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_runs_and_components_are_exported_and_neither_users_nor_sandboxes_are_labels(orchestrator: Any) -> None:
    result = ray.get(orchestrator.run.remote("print(1)", user="somebody", cache="off"), timeout=30)
    assert result.ok
    wanted = ("ray_e2b_orchestrator_runs", "ray_e2b_orchestrator_run_seconds", "ray_e2b_orchestrator_pool_pool_size")
    eventually(lambda: all(name in scraped() for name in wanted), 40, "they are scraped")
    ours = [line for line in scraped().splitlines() if "e2b_orchestrator" in line]
    assert not [line for line in ours if "somebody" in line or str(result.sandbox_id) in line]
