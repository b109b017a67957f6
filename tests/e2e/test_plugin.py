"""The pytest plugin as a user's project meets it: in a directory of its own, found by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

CONFTEST = """
import os, signal, ray  # which sets a variable when it is imported
def look():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return environment | {str(number): str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)}
before = look()
def pytest_unconfigure(config):
    open("changed.txt", "w").write(str(sorted(look().items() ^ before.items())))
"""
TESTS = """
import pytest, ray
def test_a_program_runs(orchestrator):
    assert ray.get(orchestrator.run.remote("1 + 1")).text == "2"
def test_the_deployment_of_a_module_is_one(orchestrator):
    assert ray.get(orchestrator.get_metrics.remote())["orchestrator"]["total_requests"] == 1
def test_deployments_do_not_meet(deployment, orchestrator):
    one, other = deployment(), deployment(pool={"max_size": 1})
    assert one.namespace != other.namespace
    ray.get(one.orchestrator.run.remote("1"))
    counts = [ray.get(of.get_metrics.remote())["orchestrator"]["total_requests"] for of in
              (one.orchestrator, other.orchestrator, orchestrator)]
    assert counts == [1, 0, 1]
"""


def test_a_users_tests_run_apart_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_mine.py").write_text(TESTS)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST_"))}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment | {"XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    summary = ran.stdout.strip().splitlines()[-1]
    assert "3 passed" in summary, ran.stdout[-3000:]
    assert (tmp_path / "changed.txt").read_text() == "[]"
    left = [process for process in psutil.process_iter() if _mentions(process, str(tmp_path))]
    assert not psutil.wait_procs(left, timeout=10)[1]


def _mentions(process: psutil.Process, text: str) -> bool:
    try:
        return any(text in argument for argument in process.cmdline())
    except psutil.Error:
        return False
