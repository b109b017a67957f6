"""Several backends in one deployment, each with a pool of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import actors
from actors.clients import registry
from actors.testing import Deployment, deployed, eventually

ROOT = Path(__file__).parents[2]
SMALL = {"min_size": 1, "target_size": 1, "max_size": 2, "maintenance_interval_s": 1.0}
BLUE = {"kind": "fake", "image": "blue", "concurrency": 3}
GREEN = {"kind": "fake", "image": "green", "pool": {"max_size": 1}}
CLOUD = {"kind": "fake", "image": "blue", "plan": "pro"}


@pytest.fixture(scope="module")
def system(orchestrator_cluster: None) -> Iterator[Deployment]:
    backends = {"blue": BLUE, "green-1": GREEN, "cloud": CLOUD}
    with deployed(pool=SMALL, backends=backends, router={"local": "fake", "cloud": "cloud"}) as started:
        yield started


@pytest.mark.parametrize(
    ("options", "backend"),
    [
        ({}, "fake"),
        ({"backend": "local"}, "fake"),
        ({"backend": "green-1"}, "green-1"),
        ({"image": "green"}, "green-1"),
        ({"image": "blue"}, "blue"),
        ({"image": "blue", "backend": "cloud"}, "cloud"),
    ],
)
def test_a_run_names_its_backend_or_its_image(system: Deployment, options: dict[str, str], backend: str) -> None:
    result = system.run("print(1)", cache="off", **options)
    assert (result.outcome, result.backend) == ("ok", backend)
    assert result.sandbox_id
    assert result.sandbox_id.startswith(f"{backend}-")
    results = ray.get(system.orchestrator.run_many.remote(["print(1)"] * 3, cache="off", **options), timeout=30)
    assert [each.backend for each in results] == [backend] * 3


def test_what_is_not_there_is_refused_with_what_there_is(system: Deployment) -> None:
    with pytest.raises(actors.InvalidRequest, match="there are blue, cloud, fake, green-1"):
        system.run("1", backend="moon")
    with pytest.raises(actors.InvalidRequest, match="'red'; there are blue, green"):
        system.run("1", image="red")


def test_a_session_lives_on_the_backend_of_its_image(system: Deployment) -> None:
    # Of two sandboxes at the most, one may be kept for sessions.
    with actors.Session.open(system.orchestrator, image="blue", timeout_s=20.0) as session:
        assert session.run("x = 41").backend == "blue"
        assert session.run("print(x + 1)").stdout == "42\n"
    with pytest.raises(actors.InvalidRequest, match="there are blue, green"):
        actors.Session.open(system.orchestrator, image="red")


def test_every_backend_has_a_pool_of_its_own(system: Deployment) -> None:
    pools = system.metrics("pool")["backends"]
    assert {name: pool["concurrency"] for name, pool in pools.items()} == {
        "fake": 2 * _cpus(),
        "blue": 3,
        "green-1": 2 * _cpus(),
        "cloud": 6,
    }
    assert system.metrics("pool")["pool_size"] == sum(pool["pool_size"] for pool in pools.values())
    queues = system.metrics("queue")["backends"]
    assert {name: queue["concurrency"] for name, queue in queues.items()} == {
        name: pool["concurrency"] for name, pool in pools.items()
    }

    def every_sandbox_has_its_place() -> bool:
        places = system.metrics("rate_limiter")["semaphores"]
        held = system.metrics("pool")["backends"]["cloud"]["pool_size"]
        return bool(places == {"cloud/sandboxes": {"permits": 100, "held": held}})

    eventually(every_sandbox_has_its_place, 10)
    assert set(system.metrics("rate_limiter")["limits"]) == {"cloud/creation", "cloud/operations"}


def test_a_supervisor_that_died_hands_every_sandbox_to_its_own_pool(system: Deployment) -> None:
    before = set(registry.sandbox_names(system.namespace))
    created = system.metrics("pool")["created"]
    ray.kill(ray.get_actor("PoolSupervisor", namespace=system.namespace), no_restart=False)

    def adopted() -> bool:
        found = system.metrics("pool")  # of the old one, of nobody while that is gone, or of the new one
        pools = found.get("backends", {})
        return found.get("created", created) < created and all(pool["pool_size"] >= 1 for pool in pools.values())

    eventually(adopted, 20, "every pool has its sandboxes again")
    assert before & set(registry.sandbox_names(system.namespace))
    for backend in ("fake", "blue", "green-1", "cloud"):
        assert system.run("print(1)", cache="off", backend=backend).backend == backend


class Alien:
    """An actor under a sandbox's name that is none."""

    def check(self) -> str:
        return "I am well"


def test_a_supervisor_that_cannot_adopt_one_actor_supervises_all_the_same(orchestrator_cluster: None) -> None:
    with deployed(pool=SMALL) as system:
        namespace = system.namespace
        ray.remote(Alien).options(name="fake-alien", namespace=namespace, lifetime="detached", num_cpus=0).remote()
        eventually(lambda: "fake-alien" in registry.sandbox_names(namespace), 10, "it is there")
        ray.kill(ray.get_actor("PoolSupervisor", namespace=system.namespace), no_restart=False)
        eventually(lambda: "fake-alien" not in registry.sandbox_names(namespace), 20, "it is gone")
        eventually(lambda: system.metrics("pool").get("pool_size", 0) >= 1, 20, "the pool is kept")
        assert system.run("print(1)", cache="off").ok


def test_a_sandbox_that_served_its_runs_is_renewed_while_nobody_uses_it(orchestrator_cluster: None) -> None:
    with deployed(pool=SMALL | {"max_size": 1, "max_executions": 3}) as system:
        results = [system.run("print(1)", cache="off") for _ in range(3)]
        assert {result.generation for result in results} == {1}
        handle = ray.get_actor(results[0].sandbox_id or "", namespace=system.namespace)
        eventually(
            lambda: ray.get(handle.status.remote(), timeout=10).generation == 2, 20, "there is a new sandbox inside"
        )
        assert system.run("print(1)", cache="off").generation == 2


def test_a_backend_that_cannot_start_leaves_the_others_alone_and_its_health_shows_it(
    orchestrator_cluster: None,
) -> None:
    broken = {"kind": "fake", "image": "broken", "build_tag": "another"}
    with deployed(pool=SMALL, backends={"broken": broken}) as half:
        assert half.run("print(1)", cache="off").backend == "fake"
        refused = half.run("print(1)", backend="broken")
        assert (refused.outcome, refused.retryable, refused.retry_after_s > 0) == ("rejected", True, True)
        eventually(lambda: half.metrics("rate_limiter")["health"].get("broken", 1.0) < 0.95, 20, "starts have failed")
        assert half.metrics("rate_limiter")["health_score"] < 0.95
        assert half.metrics("rate_limiter")["health"].get("fake", 1.0) > 0.99
        eventually(lambda: half.metrics("pool")["backends"]["broken"]["health_score"] < 0.95, 20, "its pool heeds it")
        health = ray.get(half.orchestrator.health.remote(), timeout=10)
        assert health["status"] == "degraded"
        assert "broken: a new sandbox is of build 'another'" in health["pool"]["detail"]


def test_failing_runs_lower_the_health_of_their_backend(orchestrator_cluster: None) -> None:
    with deployed(pool=SMALL) as system:
        assert system.run("print(1)", cache="off").ok
        for _ in range(4):
            assert system.run("# fake: lost", cache="off").outcome == "infra"
        eventually(lambda: system.metrics("rate_limiter")["health"]["fake"] < 0.9, 10, "the limiter has heard of it")


def test_a_backend_that_throttles_is_asked_less(orchestrator_cluster: None) -> None:
    with deployed(pool=SMALL, fake={"plan": "pro"}, retry={"max_attempts": 1}) as system:
        assert system.run("# fake: throttled", cache="off").error_code == "throttled"

        def halved() -> bool:
            limits = system.metrics("rate_limiter")["limits"]
            return limits["fake/operations"]["throttled"] == 1 and limits["fake/operations"]["rate_per_s"] < 400

        eventually(halved, 10, "the limiter has halved the rate")
        assert system.metrics("circuit_breaker")["failure_rate"] == 0, "a throttled call is no failure of the service"


GROWING = """
import sys, time, ray, actors
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
ray.init(address=cluster.address, log_to_driver=False)
orchestrator = actors.connect(actors.Settings.load(router={"local": "fake"}, namespace="growing"))

def wait_for(figure):
    deadline = time.monotonic() + 30
    while True:
        metrics = ray.get(orchestrator.get_metrics.remote(), timeout=30)
        seen = metrics["queue"]["concurrency"], metrics["pool"]["concurrency"]
        if seen == (figure, figure):
            print(figure, flush=True)
            return
        assert time.monotonic() < deadline, seen
        time.sleep(0.2)

wait_for(6)
node = cluster.add_node(num_cpus=5)
wait_for(16)
cluster.remove_node(node)
wait_for(6)
actors.shutdown("growing", timeout_s=0.5)
ray.shutdown()
cluster.shutdown()
"""


def test_more_run_at_a_time_when_a_node_joins_and_fewer_when_it_leaves(ray_environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", GROWING]
    done = subprocess.run(command, env=ray_environment, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.stdout.split() == ["6", "16", "6"], done.stderr[-2000:]


def _cpus() -> int:
    return int(ray.cluster_resources()["CPU"])
