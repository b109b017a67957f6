"""Unit tests need no Ray, no patience, no process but their own and no memory mapped by hand."""

from __future__ import annotations

import asyncio
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import ray

SLEEPERS = ("actors.backends.fake", "asyncio.")
"""Modules whose sleeping is what is tested: the latencies of the fake backend, and what asyncio does of itself."""
STARTS_PROCESSES = (
    *((os, name) for name in ("fork", "forkpty", "posix_spawn", "posix_spawnp", "execv", "execve", "system")),
    (subprocess, "Popen"),
)
MAPS_MEMORY = ((mmap, "mmap"), (os, "memfd_create"))
_sleep = asyncio.sleep


@pytest.fixture(autouse=True)
def _only_the_unit_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> NoReturn:
        raise AssertionError(f"a unit test must not sleep ({seconds} s); move a FakeClock instead")

    def async_sleep(delay: float, result: Any = None) -> Any:
        # To sleep for no time is to give way to other tasks.
        if delay <= 0 or sys._getframe(1).f_globals["__name__"].startswith(SLEEPERS):
            return _sleep(delay, result)
        return sleep(delay)

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(asyncio, "sleep", async_sleep)
    monkeypatch.setattr(ray, "init", _refuse("start Ray; test the core, or move the test to tests/cluster"))
    for module, name in STARTS_PROCESSES:
        monkeypatch.setattr(
            module, name, _refuse(f"start a process ({name}); move the test to the suite of what it starts")
        )
    for module, name in MAPS_MEMORY:
        monkeypatch.setattr(module, name, _refuse(f"map memory ({name}); move the test to tests/jail"))


def _refuse(what: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError(f"a unit test must not {what}")

    return refuse
