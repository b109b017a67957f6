"""What one user's programs do stays that user's: others are served, and the programs' ends are their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray

from actors.testing import Deployment, deployed

ANSWERS = r"""
import sys
at = sys._getframe()
while "files" not in at.f_globals or not hasattr(at.f_globals["files"], "_ACTIONS"): at = at.f_back
at.f_globals["files"]._ACTIONS["find_files"] = lambda action: {"*.png": ["a\x00b"]}
"""
"""Answers in the interpreter's place, with a name that no file can have."""
SMALL = {"min_size": 2, "target_size": 2, "max_size": 3}


@pytest.fixture(scope="module")
def jailed(orchestrator_cluster: None) -> Iterator[Deployment]:
    with deployed(router={"local": "jail"}, jail={"preload": ()}, pool=SMALL) as running:
        yield running


def test_a_user_for_whom_the_service_fails_is_stopped_and_nobody_else(system: Deployment) -> None:
    ends = [system.run("# fake: infra", user="mallory", cache="off") for _ in range(20)]
    assert {result.error_code for result in ends if result.outcome == "rejected"} == {"breaker_open"}
    assert system.metrics("circuit_breaker")["stopped_users"] == 1
    others = [system.orchestrator.run.remote("print(1)", user=f"u{n}", cache="off") for n in range(20)]
    assert {result.outcome for result in ray.get(others, timeout=30)} == {"ok"}
    assert system.metrics("circuit_breaker")["state"] == "closed"


def test_forged_names_of_files_neither_mask_a_run_nor_stop_others(jailed: Deployment) -> None:
    ends = [jailed.run(ANSWERS, user="mallory", outputs=["*.png"], cache="off") for _ in range(14)]
    assert not any(result.mask for result in ends)
    assert jailed.run("print(2)", user="bob", cache="off").ok
    assert jailed.metrics("circuit_breaker")["failure_rate"] == 0


@pytest.mark.parametrize(
    ("code", "limits", "outcome"),
    [
        (
            "for n in range(4): open(f'/tmp/{n}', 'wb').write(bytes(50 * 2**20))",
            {"memory_mib": 64, "disk_mib": 500},
            {"out_of_memory", "error"},  # without control groups such files are no memory of the program
        ),
        ("for n in range(5000): display(n)", {}, {"ok", "output_limit"}),
        ("import os; os.kill(os.getpid(), 9)", {}, {"crashed"}),
        ("import os; os.closerange(0, 1000); import time; time.sleep(5)", {}, {"crashed"}),
    ],
    ids=["files", "values", "killed", "closed"],
)
def test_a_plain_programs_end_is_its_own_however_often(
    jailed: Deployment, code: str, limits: dict[str, int], outcome: set[str]
) -> None:
    ends = [jailed.run(code, user="eve", limits=limits, cache="off") for _ in range(11)]
    assert {result.outcome for result in ends} <= outcome
    assert not any(result.mask for result in ends)
    assert jailed.run("print(3)", user="bob", cache="off").ok
