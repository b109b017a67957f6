"""Tests on a real Ray, one for the session: the fixtures are those that the package ships, in ``actors.testing``."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from actors.testing import Deployment, pid_of

KillProcess = Callable[[Deployment, str], int]


@pytest.fixture
def kill_process() -> KillProcess:
    """End the process of an actor as a crash does, with SIGKILL; gives its pid."""

    def kill(deployment: Deployment, name: str) -> int:
        pid = pid_of(deployment.namespace, name)
        assert pid is not None, f"{name} is not alive"
        os.kill(pid, signal.SIGKILL)
        return pid

    return kill
