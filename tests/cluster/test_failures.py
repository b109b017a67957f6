"""Actors are killed while programs run; each time the system says what it knows and works again within seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import actors
from actors.clients import registry
from actors.errors import SandboxStartFailed
from tests.cluster.system import System, eventually, pid_of, running

RECOVERY_S = 10.0
ROOT = Path(__file__).parents[2]
LONG = "# fake: slow=1.5\nprint('long')"


@pytest.fixture(scope="module")
def system(orchestrator_cluster: None) -> Iterator[System]:
    with running() as started:
        yield started


def kill(system: System, name: str) -> None:
    """End the process of an actor as a crash would; Ray restarts it."""
    ray.kill(system.actor(name), no_restart=False)


def sandbox_pids(system: System) -> dict[str, int]:
    return {name: pid_of(system, name) for name in registry.sandbox_names(system.settings.namespace)}


def works_again(system: System) -> None:
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


def test_a_sandbox_killed_in_mid_run_is_infra_and_is_replaced(system: System) -> None:
    pids = sandbox_pids(system)
    (ref,) = system.start("# fake: slow=20")
    eventually(lambda: bool(system.leased()), 10, "the program runs")
    leased = system.leased()
    for name in leased:
        os.kill(pids[name], signal.SIGKILL)
    result = ray.get(ref, timeout=10)
    assert (result.outcome, result.may_have_run, result.retryable) == ("infra", True, False)
    assert result.error_code == "sandbox_lost"
    works_again(system)
    eventually(lambda: not set(leased) & set(registry.sandbox_names(system.settings.namespace)), 10, "it is gone")


def test_an_idempotent_program_is_run_again_when_its_sandbox_dies(system: System) -> None:
    pids = sandbox_pids(system)
    (ref,) = system.start("# fake: slow=1\nprint(1)", idempotent=True)
    eventually(lambda: bool(system.leased()), 10, "the program runs")
    for name in system.leased():
        os.kill(pids[name], signal.SIGKILL)
    assert ray.get(ref, timeout=20).ok
    works_again(system)


def test_runs_survive_the_death_of_the_queue_and_others_wait_for_it(system: System) -> None:
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
def test_the_death_of_a_helper_stops_nobody_for_long(system: System, name: str) -> None:
    kill(system, name)
    deadline = time.monotonic() + RECOVERY_S
    while not (result := system.run("print(5)")).ok:
        assert result.mask, "what fails is said to be the service's failure"
        assert time.monotonic() < deadline, result.message
    works_again(system)


def test_runs_go_uncached_while_the_cache_is_away(system: System) -> None:
    kill(system, "ResultCache")
    assert system.run(f"print({uuid.uuid4().int})").ok


def test_a_supervisor_that_died_adopts_the_sandboxes(system: System) -> None:
    eventually(lambda: system.metrics("pool").get("states", {}).get("starting", 0) == 0, 10, "none is starting")
    before = set(registry.sandbox_names(system.settings.namespace))
    ref = system.orchestrator.run.remote(LONG, cache="off")
    kill(system, "PoolSupervisor")
    assert ray.get(ref, timeout=20).ok
    works_again(system)
    eventually(lambda: system.metrics("pool").get("pool_size", 0) >= 2, RECOVERY_S, "the pool is known again")
    assert before & set(registry.sandbox_names(system.settings.namespace))


def test_the_orchestrators_death_is_a_typed_outcome_and_no_key_starts_twice(system: System) -> None:
    key = uuid.uuid4().hex
    eventually(lambda: not system.leased(), 10, "nothing else runs")
    ref = system.orchestrator.run.remote(LONG, idempotency_key=key)
    eventually(lambda: bool(system.leased()), 10, "the program runs")
    kill(system, "Orchestrator")
    with pytest.raises(ray.exceptions.RayActorError) as raised:
        ray.get(ref, timeout=20)
    outcome = actors.outcome_of(raised.value)
    assert (outcome.outcome, outcome.may_have_run) == ("infra", True)
    works_again(system)
    again = system.run(LONG, idempotency_key=key)
    assert (again.outcome, again.may_have_run, again.retryable) == ("infra", True, False)
    eventually(lambda: system.metrics("queue")["running"] == 0, 5, "nothing is leased to the life before")


def test_a_finished_key_answers_again_and_for_one_request_only(system: System) -> None:
    key, code = uuid.uuid4().hex, "print(1)"
    first = system.run(code, idempotency_key=key)
    assert first.ok
    kill(system, "Orchestrator")
    works_again(system)
    assert system.run(code, idempotency_key=key).run_id == first.run_id
    other = system.run("print(2)", idempotency_key=key)
    assert (other.outcome, other.error_code) == ("rejected", "duplicate_run")


def test_a_sandbox_of_a_wrong_build_is_replaced(system: System) -> None:
    wrong = system.run("# fake: wrong-tag\nprint(1)", cache="off")
    assert wrong.sandbox_id
    handle = ray.get_actor(wrong.sandbox_id, namespace=system.settings.namespace)
    eventually(
        lambda: ray.get(handle.status.remote(), timeout=10).generation > (wrong.generation or 0), 10, "it is replaced"
    )
    works_again(system)


def test_a_deployment_whose_template_is_wrong_does_not_start(orchestrator_cluster: None) -> None:
    with pytest.raises(SandboxStartFailed, match="build 'old'"), running(fake={"build_tag": "old"}):
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


def test_a_cluster_without_room_is_a_clear_error() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", NO_ROOM]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("PoolExhausted all 2 of the cluster's sandbox_slot are taken"), done.stderr[-2000:]


def test_too_long_a_queue_and_too_near_a_deadline_are_typed_rejections(orchestrator_cluster: None) -> None:
    pool = {"min_size": 1, "target_size": 1, "max_size": 1}
    with running(pool=pool, queue={"max_depth": 3, "max_wait_s": 1.0}) as small:
        (busy,) = small.start("# fake: slow=3")
        eventually(lambda: bool(small.leased()), 10, "the program runs")
        others = ray.get(small.start(*["1"] * 8), timeout=30)
        assert {result.outcome for result in others} == {"rejected"}
        assert {result.error_code for result in others} == {"queue_full", "deadline"}
        assert not any(result.may_have_run for result in others)
        assert ray.get(busy, timeout=20).ok


def test_draining_finishes_what_runs_and_refuses_the_rest(orchestrator_cluster: None) -> None:
    with running() as draining:
        (going,) = draining.start("# fake: slow=1\nprint(1)")
        eventually(lambda: bool(draining.leased()), 10, "the program runs")
        drained = draining.orchestrator.drain.remote(20.0)
        refused = draining.run("print(2)")
        assert (refused.outcome, refused.error_code) == ("rejected", "draining")
        batch = ray.get(draining.orchestrator.run_many.remote(["1", "2"]), timeout=10)
        assert [result.error_code for result in batch] == ["draining", "draining"]
        assert ray.get(going, timeout=10).ok
        assert ray.get(drained, timeout=10)
