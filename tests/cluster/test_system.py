"""The whole system on a real Ray, when nothing goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray

import actors
from actors.deployment import connect
from actors.errors import ConfigurationError
from actors.schemas import ExecutionRequest, OutputEvent
from actors.testing import Deployment, eventually


def test_a_program_runs_and_its_result_says_where(system: Deployment) -> None:
    result = system.run("print('hi')\n1 + 1", cache="off")
    assert (result.outcome, result.stdout, result.text) == ("ok", "hi\n", "2")
    assert result.backend == "fake"
    assert result.timings.total_s > 0


def test_a_failing_program_is_a_result(system: Deployment) -> None:
    result = system.run("1 / 0", cache="off")
    assert (result.outcome, result.error.name if result.error else "") == ("error", "ZeroDivisionError")


def test_only_an_invalid_request_raises(system: Deployment) -> None:
    with pytest.raises(actors.InvalidRequest, match="timeout_s"):
        system.run("1", timeout_s=-1)


TOO_MUCH = {"limits": {"memory_mib": 1_048_576, "processes": 4096}}


@pytest.mark.parametrize("options", [TOO_MUCH, {"timeout_s": 86_400.0}, {"limits": {"disk_mib": 65_536}}])
def test_more_than_the_deployment_allows_is_refused_at_every_door(system: Deployment, options: dict[str, Any]) -> None:
    door = system.orchestrator
    ran = system.metrics("orchestrator")["total_requests"]
    case = {"expected": "1"}
    for ask in (
        lambda: system.run("1", **options),
        lambda: list(actors.stream(door, "1", **options)),
        lambda: ray.get(door.run_request.remote(ExecutionRequest.checked(code="1", **options)), timeout=30),
        lambda: ray.get(door.run_many.remote(["1", {"code": "1", **options}]), timeout=30),
        lambda: ray.get(door.run_many.remote([], **options), timeout=30),
        lambda: list(actors.stream_many(door, [{"code": "1", **options}])),
        lambda: ray.get(door.score.remote("1", [case], **options), timeout=30),
        lambda: ray.get(door.score_many.remote([{"code": "1", "cases": [case]}], **options), timeout=30),
        lambda: ray.get(door.open_session.remote(**options), timeout=30),
    ):
        with pytest.raises(actors.InvalidRequest, match=r"must be at most .* in this deployment, .*max_limits\."):
            ask()
    session = ray.get(door.open_session.remote(), timeout=30)
    with pytest.raises(actors.InvalidRequest, match=r"max_limits\."):
        system.run("1", session=session, **options)
    ray.get(door.close_session.remote(session), timeout=30)
    assert system.metrics("orchestrator")["total_requests"] == ran


def test_a_batch_keeps_its_order_and_every_item_has_a_result(system: Deployment) -> None:
    programs: list[Any] = [f"print({number})" for number in range(60)]
    programs[7] = ""
    programs[8] = "print(8)\0"
    programs[9] = "1 / 0"
    results = ray.get(system.orchestrator.run_many.remote(programs, cache="off"), timeout=60)
    outcomes = {index: result.outcome for index, result in enumerate(results) if result.outcome != "ok"}
    assert outcomes == {8: "error", 9: "error"}
    assert [result.stdout for index, result in enumerate(results) if index > 9] == [f"{n}\n" for n in range(10, 60)]
    assert results[7].stdout == ""


NO_SOURCE = ["a\0b", "'\ud800'", "x" * 1_000_001]


@pytest.mark.parametrize("code", NO_SOURCE)
def test_what_is_no_source_is_the_program_s_own_failure(system: Deployment, code: str) -> None:
    streamed = list(actors.stream(system.orchestrator, code))
    [in_batch] = ray.get(system.orchestrator.run_many.remote([code]), timeout=30)
    for result in (system.run(code), in_batch, streamed[-1]):
        assert isinstance(result, actors.ExecutionResult)
        assert (result.outcome, result.mask, result.may_have_run, result.retryable) == ("error", False, False, False)
        assert result.error is not None
        assert result.error.name == "SyntaxError"
    assert [item.kind for item in streamed[:-1] if isinstance(item, OutputEvent)] == ["error"]


@pytest.mark.parametrize("code", ["", " \n"])
def test_a_blank_program_does_nothing_well(system: Deployment, code: str) -> None:
    result = system.run(code)
    assert (result.outcome, result.stdout, result.results, result.mask) == ("ok", "", (), False)


@pytest.mark.parametrize(
    ("programs", "options", "field"),
    [
        (["print(1)"] * 100, {"timeout": 3}, "timeout"),
        (["print(1)"] * 100, {"backend": "e2b"}, "programs.0.backend"),
        (["print(1)", {"code": "print(2)", "timeout": 3}], {}, "programs.1.timeout"),
        (["print(1)", {"code": "print(2)", "backend": "e2b"}], {}, "programs.1.backend"),
        (["print(1)", "print(2)"], {"idempotency_key": "k"}, "idempotency_key"),
    ],
)
def test_a_wrong_option_of_a_batch_raises_before_anything_runs(
    system: Deployment, programs: list[Any], options: dict[str, Any], field: str
) -> None:
    before = system.metrics("orchestrator")
    with pytest.raises(actors.InvalidRequest) as refused:
        ray.get(system.orchestrator.run_many.remote(programs, **options), timeout=30)
    assert refused.value.field == field
    with pytest.raises(actors.InvalidRequest):
        next(
            ray.get(ref)
            for ref in system.orchestrator.stream_many.options(num_returns="streaming").remote(programs, **options)
        )
    after = system.metrics("orchestrator")
    assert (after["total_requests"], after["in_flight"]) == (before["total_requests"], 0)


def test_a_batch_of_keyed_and_fresh_programs_works_too(system: Deployment) -> None:
    programs = [{"code": "print(1)", "idempotency_key": f"batch-{n}"} for n in range(5)]
    programs += [{"code": "print(1)", "fresh": True} for _ in range(2)]  # type: ignore[dict-item]
    results = ray.get(system.orchestrator.run_many.remote(programs), timeout=60)
    assert [result.outcome for result in results] == ["ok"] * 7


def test_a_stream_gives_output_while_the_program_runs(system: Deployment) -> None:
    code = "print('first')\n# fake: slow=0.5\nprint('second')"
    seen = [(time.monotonic(), item) for item in actors.stream(system.orchestrator, code)]
    texts = "".join(item.text or "" for _, item in seen[:-1])
    assert texts == "first\nsecond\n"
    assert isinstance(seen[-1][1], actors.ExecutionResult)
    assert seen[-1][0] - seen[0][0] > 0.3


def test_a_streamed_batch_gives_every_index_once(system: Deployment) -> None:
    items = list(actors.stream_many(system.orchestrator, [f"print({n})" for n in range(20)], cache="off"))
    assert sorted(index for index, _ in items) == list(range(20))


def test_a_session_keeps_state_until_it_is_closed(system: Deployment) -> None:
    session = ray.get(system.orchestrator.open_session.remote(user="sam"), timeout=30)
    assert system.run("x = 41", user="sam", session=session).ok
    assert system.run("print(x + 1)", user="sam", session=session).stdout == "42\n"
    stranger = system.run("print(x)", user="eve", session=session)
    assert (stranger.outcome, stranger.error_code) == ("rejected", "unknown_session")
    ray.get(system.orchestrator.close_session.remote(session, user="sam"), timeout=30)
    assert system.run("print(x)", user="sam", session=session).error_code == "unknown_session"


def test_ten_identical_programs_at_once_are_run_once(system: Deployment) -> None:
    code = f"# fake: slow=0.5\nprint({time.time_ns()})"
    results = ray.get([system.orchestrator.run.remote(code) for _ in range(10)], timeout=60)
    assert {result.outcome for result in results} == {"ok"}
    assert sum(not result.cached for result in results) == 1


def test_a_result_that_shows_an_address_is_not_shared(system: Deployment) -> None:
    code = f"print('<object at 0x7f{time.time_ns() % 10**8:08d}>')"
    assert not system.run(code).cached
    assert not system.run(code).cached


def test_a_flood_of_one_user_does_not_starve_another(system: Deployment) -> None:
    run = system.orchestrator.run
    flood = [run.remote("# fake: slow=0.05\nprint(1)", user="flood", cache="off") for _ in range(200)]
    time.sleep(0.3)
    few = [run.remote("# fake: slow=0.05\nprint(2)", user="few", cache="off") for _ in range(10)]
    assert {result.outcome for result in ray.get(few, timeout=60)} == {"ok"}
    ended, _ = ray.wait(flood, num_returns=len(flood), timeout=0)
    assert len(ended) < 150, "the ten did not wait for the flood"
    assert {result.outcome for result in ray.get(flood, timeout=60)} == {"ok"}


def test_cancelling_a_call_frees_its_sandbox(system: Deployment) -> None:
    refs = [
        system.orchestrator.run.remote("# fake: slow=30", timeout_s=60.0, cache="off", user="quitter") for _ in range(8)
    ]
    eventually(lambda: system.metrics("queue")["running"] >= 2, 10, "the programs run")
    for ref in refs:
        ray.cancel(ref)
    for ref in refs:
        with pytest.raises(ray.exceptions.RayError):
            ray.get(ref, timeout=10)
    assert system.run("print(1)", user="quitter", cache="off").ok
    eventually(lambda: system.metrics("queue")["running"] == 0, 5, "every slot is free")
    assert system.metrics("queue")["waiting"] == 0
    assert system.metrics("orchestrator")["in_flight"] == 0


def test_leaving_a_batch_early_leaves_nothing_in_flight(system: Deployment) -> None:
    results = actors.stream_many(system.orchestrator, ["# fake: slow=0.3"] * 40, cache="off")
    next(results)
    assert system.metrics("orchestrator")["in_flight"] > 0
    results.close()
    eventually(lambda: system.metrics("orchestrator")["in_flight"] == 0, 10, "nothing is in flight")
    eventually(lambda: system.metrics("queue")["running"] == 0, 10, "every slot is free")


def test_metrics_have_every_section_and_health_is_ok(system: Deployment) -> None:
    system.run("print(1)")
    assert set(ray.get(system.orchestrator.get_metrics.remote(), timeout=30)) == {
        "orchestrator",
        "pool",
        "queue",
        "circuit_breaker",
        "cache",
        "rate_limiter",
    }
    eventually(lambda: ray.get(system.orchestrator.health.remote(), timeout=10)["status"] == "ok", 10, "health is ok")


def test_another_configuration_is_refused_and_the_same_is_joined(system: Deployment) -> None:
    other = system.settings.model_copy(update={"cache": system.settings.cache.model_copy(update={"ttl_s": 1})})
    with pytest.raises(ConfigurationError, match="another configuration"):
        connect.connect(other)
    assert connect.connect(system.settings) == system.orchestrator


DRIVER = """
import os, signal, sys, ray, actors
from actors.deployment import connect
connect.join_ray(sys.argv[1])
orchestrator = connect.join_deployment(sys.argv[1])
print(ray.get(orchestrator.run.remote("print('from afar')", cache="off")).stdout.strip(), flush=True)
refs = [orchestrator.run.remote("# fake: slow=2", cache="off") for _ in range(3)]
print("running", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_death_of_another_driver_does_no_harm(system: Deployment) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": path}
    command = [sys.executable, "-c", DRIVER, system.settings.namespace]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr
    assert done.stdout == "from afar\nrunning\n"
    assert system.run("print(1)", cache="off").ok
