"""Unit tests need no Ray and no patience."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, NoReturn

import pytest
import ray

SLEEPERS = ("actors.backends.fake", "asyncio.")
"""Whose sleeping is what is tested: the latencies of the fake backend, and what asyncio does of itself."""
_sleep = asyncio.sleep


@pytest.fixture(autouse=True)
def _no_ray_and_no_sleeping(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_ray(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a unit test must not start Ray; test the core, or move the test to tests/cluster")

    def sleep(seconds: float) -> NoReturn:
        raise AssertionError(f"a unit test must not sleep ({seconds} s); move a FakeClock instead")

    def async_sleep(delay: float, result: Any = None) -> Any:
        # To sleep for no time is to give way to other tasks.
        if delay <= 0 or sys._getframe(1).f_globals["__name__"].startswith(SLEEPERS):
            return _sleep(delay, result)
        return sleep(delay)

    monkeypatch.setattr(ray, "init", start_ray)
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(asyncio, "sleep", async_sleep)
