from __future__ import annotations

from actors.telemetry.prometheus import flattened


def test_every_number_has_a_name_of_its_section_and_field() -> None:
    metrics = {"pool": {"pool_size": 3, "backend": "jail", "states": {"idle": 2}}, "cache": {"hit_rate": 0.5}}
    assert dict(flattened(metrics)) == {
        "e2b_orchestrator_pool_pool_size": 3.0,
        "e2b_orchestrator_cache_hit_rate": 0.5,
    }


def test_a_section_that_is_away_exports_nothing() -> None:
    assert dict(flattened({"queue": {"unavailable": "FairQueue: is gone or restarting"}})) == {}
