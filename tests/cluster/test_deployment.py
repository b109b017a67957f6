"""How a deployment begins and ends when others begin and end at the same time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import ray

from actors.clients.registry import actor_names
from actors.config import Settings
from actors.deployment.creation import create_deployment, end_deployment
from actors.errors import ConfigurationError
from actors.testing import Deployment

Start = Callable[..., Deployment]


def test_one_that_lost_its_supervisor_for_good_can_be_ended(deployment: Start) -> None:
    namespace = deployment().namespace
    ray.kill(ray.get_actor("PoolSupervisor", namespace=namespace))
    end_deployment(namespace)
    assert actor_names(namespace) == []
    end_deployment(namespace)  # and again, which does nothing


def test_who_starts_one_that_another_has_just_started_otherwise_is_told(deployment: Start) -> None:
    there = deployment()
    sections = there.settings.model_dump(exclude={"e2b_api_key", "e2b_template_id"})
    otherwise = Settings.load(**sections | {"cache": {"enabled": False}})
    with pytest.raises(ConfigurationError, match="another configuration"):
        create_deployment(otherwise)
    assert ray.get(there.orchestrator.run.remote("1 + 1")).text == "2"
    assert create_deployment(there.settings)._actor_id == there.orchestrator._actor_id
