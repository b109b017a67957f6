"""The table of backends, as settings make it."""

from __future__ import annotations

import pytest

from actors.backends import specs
from actors.backends.fake.backend import FakeBackend
from actors.backends.specs import BackendSpec, Quota
from actors.config import Settings
from actors.core.limits.rate_limits import Plan
from actors.rate_limiter import plans


def spec(**row: object) -> BackendSpec:
    return specs.table(Settings.load(backends={"it": {"kind": "fake"} | row}))["it"]


def test_the_settings_of_before_give_one_row() -> None:
    assert list(specs.table(Settings.load())) == ["jail"]
    only = specs.table(Settings.load(router={"local": "fake"}))
    assert {name: (row.name, row.local, row.image) for name, row in only.items()} == {"fake": ("fake", True, None)}


def test_a_deployment_may_hold_several_of_one_kind() -> None:
    rows = {"genomics": {"kind": "jail", "image": "genomics"}, "plain": {"kind": "jail", "image": None}}
    table = specs.table(Settings.load(jail={"image": "science"}, backends=rows))
    assert {name: each.image for name, each in table.items()} == {
        "jail": "science",
        "genomics": "genomics",
        "plain": None,
    }


@pytest.mark.parametrize(
    ("row", "cpus", "concurrency"),
    [({}, 1, 4), ({}, 16, 32), ({"plan": "pro"}, 16, 6), ({"concurrency": 3}, 16, 3)],
)
def test_how_much_runs_at_a_time_goes_by_the_cluster_unless_it_is_said(
    row: dict[str, object], cpus: int, concurrency: int
) -> None:
    assert spec(**row).concurrency(cpus) == concurrency


def test_the_deployments_concurrency_is_that_of_every_backend_that_does_not_say() -> None:
    rows = {"quiet": {"kind": "fake"}, "wide": {"kind": "fake", "concurrency": 99}}
    table = specs.table(Settings.load(queue={"global_concurrency": 5}, backends=rows))
    assert {name: each.concurrency(1) for name, each in table.items()} == {"jail": 5, "quiet": 5, "wide": 99}


@pytest.mark.parametrize(
    ("row", "quota"),
    [
        ({}, Quota()),
        ({"plan": "hobby"}, Quota(1.0, 40_000, 20_000, 20)),
        ({"plan": "pro"}, Quota(5.0, 40_000, 20_000, 100)),
        ({"plan": "pro", "rate_limit": {"creation_per_s": 0.5}}, Quota(0.5, 40_000, 20_000, 100)),
        ({"rate_limit": {"operations": 10}}, Quota(operations=10)),
    ],
)
def test_a_quota_is_the_plans_unless_the_settings_say_otherwise(row: dict[str, object], quota: Quota) -> None:
    assert spec(**row).quota == quota


def test_the_limiter_has_a_plan_for_what_has_a_quota() -> None:
    rows = {"cloud": {"kind": "fake", "plan": "hobby", "rate_limit": {"operations_window_s": 30.0}}}
    table = specs.table(Settings.load(backends=rows))
    assert plans(table.values()) == {
        ("cloud", "operations"): Plan(40_000, 30.0),
        ("cloud", "lifecycle"): Plan(20_000, 30.0),
        ("cloud", "creation"): Plan(1, 1.0),
    }


@pytest.mark.parametrize(
    ("row", "tag"),
    [({}, "fake"), ({"image": "blue"}, "blue"), ({"image": "blue", "pool": {"build_tag": "v2"}}, "v2")],
)
def test_a_fake_backend_is_of_its_image_unless_a_tag_is_expected(row: dict[str, object], tag: str) -> None:
    backend = spec(**row).make()
    assert isinstance(backend, FakeBackend)
    assert backend.capabilities.build_tag == tag
