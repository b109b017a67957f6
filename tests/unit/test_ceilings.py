"""The most that requests may ask for: derived from the defaults and the machine, told by option and setting."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.config import MaxLimits, RunLimits, Settings
from actors.core.ceilings import PLACES, Ceilings
from actors.errors import ConfigurationError, InvalidRequest
from actors.runs import machine
from actors.schemas import ExecutionRequest

LARGE_MIB = 64 * 1024


def ceilings(machine_mib: int = LARGE_MIB, limits: RunLimits | None = None, **said: Any) -> Ceilings:
    return Ceilings.derived(MaxLimits(**said), [limits or RunLimits()], machine_mib)


def test_a_request_may_have_four_times_what_is_usual() -> None:
    assert ceilings() == Ceilings(
        memory_mib=4096,
        cpu_s=1200.0,
        cpu_wait_s=24_000.0,
        processes=512,
        disk_mib=1024,
        output_bytes=4_000_000,
        timeout_s=1200.0,
    )


@given(
    machine_mib=st.integers(128, 2**20),
    memory_mib=st.integers(16, 2**16),
    disk_mib=st.integers(1, 2**14),
)
def test_memory_and_disk_together_are_at_most_half_of_the_machine_or_what_is_usual(
    machine_mib: int, memory_mib: int, disk_mib: int
) -> None:
    found = ceilings(machine_mib, RunLimits(memory_mib=memory_mib, disk_mib=disk_mib))
    usual = memory_mib + PLACES * disk_mib
    assert found.memory_mib + PLACES * found.disk_mib <= max(machine_mib / 2, usual)
    assert memory_mib <= found.memory_mib <= 4 * memory_mib
    assert disk_mib <= found.disk_mib <= 4 * disk_mib


def test_what_the_settings_say_holds() -> None:
    said = {"memory_mib": 100_000, "disk_mib": 9, "timeout_s": 86_400.0, "output_bytes": 5_000, "processes": 7}
    found = ceilings(**said)
    assert {name: getattr(found, name) for name in said} == said
    assert found.cpu_wait_s == 20 * 86_400.0


def test_of_several_backends_the_largest_counts() -> None:
    found = Ceilings.derived(MaxLimits(), [RunLimits(), RunLimits(memory_mib=4096)], LARGE_MIB)
    assert found.memory_mib == 16_384


@pytest.mark.parametrize(
    ("options", "field", "ceiling"),
    [
        ({"limits": {"memory_mib": 1_048_576}}, "limits.memory_mib", "4,096"),
        ({"limits": {"disk_mib": 65_536}}, "limits.disk_mib", "1,024"),
        ({"limits": {"processes": 4096}}, "limits.processes", "512"),
        ({"limits": {"output_bytes": 2**30}}, "limits.output_bytes", "4,000,000"),
        ({"limits": {"cpu_s": 86_400}}, "limits.cpu_s", "1,200"),
        ({"limits": {"cpu_wait_s": 86_400}}, "limits.cpu_wait_s", "24,000"),
        ({"timeout_s": 86_400.0}, "timeout_s", "1,200"),
    ],
)
def test_who_asks_for_more_is_told_the_option_the_ceiling_and_the_setting(
    options: dict[str, Any], field: str, ceiling: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ceilings().check(ExecutionRequest.checked(code="1", **options), "programs.3.")
    assert refused.value.field == f"programs.3.{field}"
    assert f"at most {ceiling}" in refused.value.rule
    assert f"max_limits.{field.removeprefix('limits.')} sets it" in refused.value.rule


def test_who_asks_for_the_most_gets_it() -> None:
    most = {"memory_mib": 4096, "disk_mib": 1024, "processes": 512, "output_bytes": 4_000_000, "cpu_s": 1200}
    ceilings().check(ExecutionRequest.checked(code="1", limits=most, timeout_s=1200.0))
    ceilings(machine_mib=128).check(ExecutionRequest.checked(code="1"))


@pytest.mark.parametrize("name", sorted(RunLimits.model_fields.keys() & MaxLimits.model_fields.keys()))
def test_a_ceiling_below_what_runs_have_by_default_is_a_mistake(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"max_limits\.{name}: must be at least"):
        Settings.load(max_limits={name: 1}, limits={name: 2})
    with pytest.raises(ConfigurationError, match=rf"max_limits\.{name}"):
        Settings.load(max_limits={name: 5}, limits={name: 2}, backends={"other": {"kind": "fake", "limits": {name: 6}}})
    Settings.load(max_limits={name: 2}, limits={name: 2})


def test_a_timeout_of_who_names_none_is_within_the_ceiling() -> None:
    default = ExecutionRequest.model_fields["timeout_s"].default
    assert default <= MaxLimits.LEAST_TIMEOUT_S
    with pytest.raises(ConfigurationError, match=r"max_limits\.timeout_s"):
        Settings.load(max_limits={"timeout_s": default - 1})
    assert ceilings(limits=RunLimits(cpu_s=1.0)).timeout_s >= default


def test_every_limit_of_a_request_has_a_ceiling() -> None:
    assert set(Ceilings.__slots__) == MaxLimits.model_fields.keys()
    from actors.schemas import Limits

    assert Limits.model_fields.keys() - {"network"} <= MaxLimits.model_fields.keys()


def test_a_container_has_what_it_may_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_OF_CONTAINER", (str(limit), str(tmp_path / "missing")))
    whole = machine.memory_mib()
    limit.write_text("max\n")
    assert machine.memory_mib() == whole
    limit.write_text(f"{64 * 2**20}\n")
    assert machine.memory_mib() == 64
