"""Tests on a real Ray, one for the session, with the fixtures that the package ships in ``actors.testing``."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator

import pytest

from actors.testing import Deployment, deployed


@pytest.fixture(scope="module")
def system(orchestrator_cluster: None) -> Iterator[Deployment]:
    """A deployment of several sandboxes on the fake backend, shared by the tests of a module."""
    with deployed(pool={"min_size": 2, "target_size": 3, "max_size": 5}) as running:
        yield running


@pytest.fixture
def ray_environment() -> Iterator[dict[str, str]]:
    """The environment of a process that starts a Ray by itself: with a token, in a directory of this account alone."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # Short, since unix sockets lie under it.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as directory:
        token = secrets.token_hex(32)
        yield own | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_TMPDIR": directory}
