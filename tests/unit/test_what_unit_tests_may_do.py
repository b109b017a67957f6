"""The rules of this directory hold: what a unit test must not do fails, with a sentence that says where it belongs."""

from __future__ import annotations

import asyncio
import mmap
import os
import subprocess
import time
from collections.abc import Callable

import pytest
import ray


@pytest.mark.parametrize(
    ("forbidden", "sentence"),
    [
        (lambda: ray.init(), "must not start Ray"),
        (lambda: time.sleep(1), "must not sleep"),
        (lambda: os.fork(), "must not start a process"),
        (lambda: os.posix_spawn("/bin/true", ["true"], {}), "must not start a process"),
        (lambda: subprocess.run(["true"], check=True), "must not start a process"),
        (lambda: mmap.mmap(-1, 4096), "must not map memory"),
        (lambda: os.memfd_create("x"), "must not map memory"),
    ],
)
def test_what_is_forbidden_fails(forbidden: Callable[[], object], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        forbidden()


async def test_tasks_may_give_way_to_others_and_no_more() -> None:
    await asyncio.sleep(0)
    with pytest.raises(AssertionError, match="must not sleep"):
        await asyncio.sleep(0.1)
    with pytest.raises(AssertionError, match="must not start a process"):
        await asyncio.create_subprocess_exec("true")
