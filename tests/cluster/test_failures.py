"""Actors are killed while programs run; each time the system says what it knows and works again within seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import ObjectRef

import actors
from actors.clients import registry
from actors.errors import SandboxStartFailed
from actors.testing import Deployment, deployed, eventually, pid_of

RECOVERY_S = 10.0
ROOT = Path(__file__).parents[2]
LONG = "# fake: slow=1.5\nprint('long')"


def kill(system: Deployment, name: str) -> None:
    """End an actor as a crash would; Ray restarts it."""
    ray.kill(ray.get_actor(name, namespace=system.namespace), no_restart=False)


def kill_sandbox_of(system: Deployment, user: str) -> str:
    """End the process of the sandbox that serves a user; returns its name."""
    for name in registry.sandbox_names(system.namespace):
        handle = ray.get_actor(name, namespace=system.namespace)
        pid = pid_of(system.namespace, name)
        if ray.get(handle.status.remote(), timeout=10).user == user and pid is not None:
            os.kill(pid, signal.SIGKILL)
            return name
    raise AssertionError(f"no sandbox serves {user}")


def start(system: Deployment, *programs: str, **options: Any) -> list[ObjectRef[actors.ExecutionResult]]:
    """Start runs that share nothing, and wait until one of them is running."""
    refs = [system.orchestrator.run.remote(code, cache="off", **options) for code in programs]
    eventually(lambda: system.metrics("queue")["running"], 10, "a program runs")
    return refs


def works_again(system: Deployment) -> None:
    """Everything runs, for several users, and what they hold is known to the queue."""

    def answers() -> bool:
        try:
            return system.run("print(1)", cache="off", user="probe").ok
        except ray.exceptions.RayError:
            return False  # the Orchestrator itself is not back yet

    eventually(answers, RECOVERY_S, "a program runs")
    results = ray.get(
        [system.orchestrator.run.remote("print(2)", cache="off", user=f"u{n % 3}") for n in range(12)], timeout=30
    )
    assert {result.outcome for result in results} == {"ok"}


def test_a_sandbox_killed_in_mid_run_is_infra_and_is_replaced(system: Deployment) -> None:
    (ref,) = start(system, "# fake: slow=20", user="ann")
    killed = kill_sandbox_of(system, "ann")
    result = ray.get(ref, timeout=10)
    assert (result.outcome, result.may_have_run, result.retryable) == ("infra", True, False)
    assert result.error_code == "sandbox_lost"
    works_again(system)
    assert result.sandbox_id == killed
    eventually(lambda: killed not in registry.sandbox_names(system.namespace), 10, "it is gone")


def test_an_idempotent_program_is_run_again_when_its_sandbox_dies(system: Deployment) -> None:
    (ref,) = start(system, "# fake: slow=1\nprint(1)", idempotent=True, user="bob")
    kill_sandbox_of(system, "bob")
    assert ray.get(ref, timeout=20).ok
    works_again(system)


def test_runs_survive_the_death_of_the_queue_and_others_wait_for_it(system: Deployment) -> None:
    session = ray.get(system.orchestrator.open_session.remote(user="sam"), timeout=30)
    assert system.run("x = 1", user="sam", session=session).ok
    running = [system.orchestrator.run.remote(LONG, cache="off", user=f"a{n}") for n in range(2)]
    waiting = [system.orchestrator.run.remote("print(3)", cache="off", user="b") for _ in range(30)]
    eventually(lambda: system.metrics("queue")["running"] > 1, 10, "the programs run")
    epoch = system.metrics("queue")["epoch"]
    since = time.monotonic()
    kill(system, "FairQueue")
    late = [system.orchestrator.run.remote("print(4)", cache="off", user="c") for _ in range(5)]
    assert {result.outcome for result in ray.get(running + waiting + late, timeout=30)} == {"ok"}
    assert time.monotonic() - since < RECOVERY_S
    works_again(system)
    assert system.metrics("queue")["epoch"] > epoch
    assert system.run("print(x)", user="sam", session=session).stdout == "1\n", "the session is still pinned"
    ray.get(system.orchestrator.close_session.remote(session, user="sam"), timeout=10)
    eventually(lambda: system.metrics("queue")["running"] == 0, 5, "no lease is left behind")


@pytest.mark.parametrize("name", ["ResultCache", "CircuitBreaker", "RateLimiter"])
def test_the_death_of_a_helper_stops_nobody_for_long(system: Deployment, name: str) -> None:
    kill(system, name)
    deadline = time.monotonic() + RECOVERY_S
    while not (result := system.run("print(5)")).ok:
        assert result.mask, "what fails is said to be the service's failure"
        assert time.monotonic() < deadline, result.message
    works_again(system)


def test_runs_go_uncached_while_the_cache_is_away(system: Deployment) -> None:
    kill(system, "ResultCache")
    assert system.run(f"print({uuid.uuid4().int})").ok


def test_a_supervisor_that_died_adopts_the_sandboxes(system: Deployment) -> None:
    eventually(lambda: system.metrics("pool").get("states", {}).get("starting", 0) == 0, 10, "none is starting")
    before = set(registry.sandbox_names(system.namespace))
    ref = system.orchestrator.run.remote(LONG, cache="off")
    kill(system, "PoolSupervisor")
    assert ray.get(ref, timeout=20).ok
    works_again(system)
    eventually(lambda: system.metrics("pool").get("pool_size", 0) >= 2, RECOVERY_S, "the pool is known again")
    assert before & set(registry.sandbox_names(system.namespace))


def test_the_orchestrators_death_is_a_typed_outcome_and_no_key_starts_twice(system: Deployment) -> None:
    key = uuid.uuid4().hex
    eventually(lambda: system.metrics("queue")["running"] == 0, 10, "nothing else runs")
    ref = system.orchestrator.run.remote(LONG, idempotency_key=key)
    eventually(lambda: system.metrics("queue")["running"] > 0, 10, "the program runs")
    kill(system, "Orchestrator")
    with pytest.raises(ray.exceptions.RayActorError) as raised:
        ray.get(ref, timeout=20)
    outcome = actors.outcome_of(raised.value)
    assert (outcome.outcome, outcome.may_have_run) == ("infra", True)
    works_again(system)
    again = system.run(LONG, idempotency_key=key)
    assert (again.outcome, again.may_have_run, again.retryable) == ("infra", True, False)
    eventually(lambda: system.metrics("queue")["running"] == 0, 5, "nothing is leased to the life before")


def test_a_finished_key_answers_again_and_for_one_request_only(system: Deployment) -> None:
    key, code = uuid.uuid4().hex, "print(1)"
    first = system.run(code, idempotency_key=key)
    assert first.ok
    kill(system, "Orchestrator")
    works_again(system)
    assert system.run(code, idempotency_key=key).run_id == first.run_id
    other = system.run("print(2)", idempotency_key=key)
    assert (other.outcome, other.error_code) == ("rejected", "duplicate_run")


def test_a_sandbox_of_a_wrong_build_is_replaced(system: Deployment) -> None:
    wrong = system.run("# fake: wrong-tag\nprint(1)", cache="off")
    assert wrong.sandbox_id
    handle = ray.get_actor(wrong.sandbox_id, namespace=system.namespace)
    eventually(
        lambda: ray.get(handle.status.remote(), timeout=10).generation > (wrong.generation or 0), 10, "it is replaced"
    )
    works_again(system)


def test_a_deployment_whose_template_is_wrong_does_not_start(orchestrator_cluster: None) -> None:
    with pytest.raises(SandboxStartFailed, match="build 'old'"), deployed(fake={"build_tag": "old"}):
        pass


NO_ROOM = """
import ray, actors
ray.init(num_cpus=2, resources={"sandbox_slot": 2}, include_dashboard=False, log_to_driver=False)
pool = {"min_size": 1, "target_size": 1, "max_size": 2, "start_timeout_s": 2.0}
taken = ray.remote(num_cpus=0, resources={"sandbox_slot": 2})(type("Taken", (), {"here": lambda self: 1})).remote()
ray.get(taken.here.remote())
try:
    actors.connect(actors.Settings.load(router={"local": "fake"}, pool=pool))
except actors.ServiceError as error:
    print(type(error).__name__, error)
"""


def test_a_cluster_without_room_is_a_clear_error(ray_environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", NO_ROOM]
    done = subprocess.run(command, env=ray_environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("PoolExhausted all 2 of the cluster's sandbox_slot are taken"), done.stderr[-2000:]


def test_too_long_a_queue_and_too_near_a_deadline_are_typed_rejections(orchestrator_cluster: None) -> None:
    pool = {"min_size": 1, "target_size": 1, "max_size": 1}
    with deployed(pool=pool, queue={"max_depth": 3, "max_wait_s": 1.0}) as small:
        (busy,) = start(small, "# fake: slow=3")
        others = ray.get(start(small, *["1"] * 8), timeout=30)
        assert {result.outcome for result in others} == {"rejected"}
        assert {result.error_code for result in others} == {"queue_full", "deadline"}
        assert not any(result.may_have_run for result in others)
        assert ray.get(busy, timeout=20).ok


def test_draining_finishes_what_runs_and_refuses_the_rest(orchestrator_cluster: None) -> None:
    with deployed() as draining:
        (going,) = start(draining, "# fake: slow=1\nprint(1)")
        drained = draining.orchestrator.drain.remote(20.0)
        refused = draining.run("print(2)")
        assert (refused.outcome, refused.error_code) == ("rejected", "draining")
        batch = ray.get(draining.orchestrator.run_many.remote(["1", "2"]), timeout=10)
        assert [result.error_code for result in batch] == ["draining", "draining"]
        assert ray.get(going, timeout=10).ok
        assert ray.get(drained, timeout=10)
