"""Tests on a real Ray, one for the session, with the fixtures that the package ships in ``actors.testing``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from actors.testing import Deployment, deployed


@pytest.fixture(scope="module")
def system(orchestrator_cluster: None) -> Iterator[Deployment]:
    """A deployment of several sandboxes on the fake backend, shared by the tests of a module."""
    with deployed(pool={"min_size": 2, "target_size": 3, "max_size": 5}) as running:
        yield running
