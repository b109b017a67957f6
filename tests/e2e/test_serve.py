"""The HTTP front door, spoken to as any client would: Ray Serve on a free port of the loopback interface."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import ray

from actors.deployment.creation import create_deployment, end_deployment
from actors.errors import InvalidRequest
from actors.schemas import ExecutionRequest, ExecutionResult, Outcome
from actors.testing import Deployment, deployed, eventually

# Ray Serve declares its own fields in a way that pydantic has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")
SLOTS = 2
"""How many programs the deployment runs at a time."""


@pytest.fixture(scope="module")
def deployment(orchestrator_cluster: None) -> Iterator[Deployment]:
    with deployed(
        pool={"min_size": 1, "target_size": SLOTS, "max_size": SLOTS},
        queue={"global_concurrency": SLOTS, "max_wait_s": 20.0},
    ) as running:
        yield running


@pytest.fixture(scope="module")
def http(deployment: Deployment) -> Iterator[httpx.Client]:
    # Here rather than above, where the mark does not reach.
    from ray import serve

    from serve_app import application

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        serve.run(application(deployment.settings), name=deployment.namespace, route_prefix="/")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            yield client
    finally:
        serve.shutdown()


def run(http: httpx.Client, code: str, **options: Any) -> ExecutionResult:
    answer = http.post("/v1/run", json={"code": code, **options})
    assert answer.status_code == 200, answer.text
    return ExecutionResult.model_validate_json(answer.content)


def test_a_program_runs_and_its_result_comes_back(http: httpx.Client) -> None:
    result = run(http, "print('hi')\n6 * 7")
    assert (result.outcome, result.stdout, result.text) == (Outcome.OK, "hi\n", "42")


def test_files_and_standard_input_come_as_text_or_base64(http: httpx.Client) -> None:
    files = {"a.txt": "text", "b.bin": {"base64": "Ynl0ZXM="}}
    code = "# fake: show=file:a.txt\n# fake: show=file:b.bin\n# fake: show=stdin"
    assert run(http, code, files=files, stdin="typed").stdout == "text\nbytes\ntyped\n"


def test_files_come_back_as_base64(http: httpx.Client) -> None:
    body = {"code": "# fake: write=a.txt:text", "outputs": ["*.txt", "none"], "seed": 1}
    told = http.post("/v1/run", json=body).json()
    assert (told["files"], told["files_missing"]) == ({"a.txt": "dGV4dA=="}, {"none": "no such file"})
    refused = http.post("/v1/run", json={"code": "1", "outputs": ["../x"]})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "outputs.0")


def test_a_program_that_fails_is_a_result_and_no_http_error(http: httpx.Client) -> None:
    result = run(http, "# fake: raise=ValueError:no", priority="high", limits={"memory_mib": 64})
    assert result.outcome is Outcome.ERROR
    assert result.error is not None
    assert (result.error.name, result.error.value) == ("ValueError", "no")
    assert run(http, "# fake: slow=9", timeout_s=0.2).outcome is Outcome.TIMEOUT


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({}, "code", "required"),
        ({"cod": "1"}, "cod", "did you mean code?"),
        ({"code": "1", "colour": "red"}, "colour", "not permitted"),
        ({"code": "1", "timeout_s": "9"}, "timeout_s", "number"),
        ({"code": "1", "timeout_s": -1}, "timeout_s", "greater than 0"),
        ({"code": "1", "limits": {"memory_mib": 1}}, "limits.memory_mib", "16"),
        ({"code": "1", "limits": {"memory_mib": 1_048_576}}, "limits.memory_mib", "max_limits.memory_mib"),
        ({"code": "1", "files": {"../a": ""}}, "files.../a", "relative path"),
        ({"code": "1", "files": {"a": {"base64": "?"}}}, "files.a.base64", "valid base64"),
        ({"code": 1}, "code", "string"),
        ([], "body", "object"),
    ],
)
def test_an_invalid_request_is_told_which_field_breaks_which_rule(
    http: httpx.Client, body: Any, field: str, rule: str
) -> None:
    answer = http.post("/v1/run", json=body)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == ("invalid_request", field)
    assert rule in error["rule"]


def test_a_web_page_cannot_post_a_program_to_its_visitors_machine(http: httpx.Client) -> None:
    # A browser sends this without asking, whatever page it comes from.
    answer = http.post("/v1/run", content=b'{"code": "1"}', headers={"content-type": "text/plain"})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "content-type"


def test_neither_a_page_of_another_site_nor_a_name_of_its_own_for_this_machine_gets_through(http: httpx.Client) -> None:
    for path in ("/v1/metrics", "/healthz"):
        assert http.get(path, headers={"host": "rebound.evil.example"}).status_code == 421
        assert http.get(path, headers={"origin": "http://evil.example"}).status_code == 403
    answer = http.post("/v1/run", json={"code": "1"}, headers={"host": f"rebound.evil.example:{http.base_url.port}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "misdirected")
    own = str(http.base_url).rstrip("/")
    assert http.post("/v1/run", json={"code": "print(1)"}, headers={"origin": own}).status_code == 200


def test_a_run_that_was_rejected_has_the_status_of_its_reason(http: httpx.Client) -> None:
    answer = http.post("/v1/run", json={"code": "1", "session": "never-opened"})
    assert answer.status_code == 404
    assert answer.json()["outcome"] == "rejected"
    assert answer.json()["error_code"] == "unknown_session"


def test_a_failure_of_the_service_is_no_200(http: httpx.Client) -> None:
    answer = http.post("/v1/run", json={"code": "# fake: infra\n1"})
    assert answer.status_code == 502
    assert answer.json()["outcome"] == "infra"


def test_metrics_have_a_section_for_every_component(http: httpx.Client) -> None:
    run(http, "1")
    sections = http.get("/v1/metrics").json()
    assert sections.keys() == {"orchestrator", "pool", "queue", "circuit_breaker", "cache", "rate_limiter"}
    assert sections["orchestrator"]["total_requests"] >= 1


def test_health_is_ok_while_programs_can_run(http: httpx.Client) -> None:
    answer = http.get("/healthz")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")


def test_what_a_front_door_validated_is_not_validated_again(deployment: Deployment) -> None:
    # Harmless, and against a rule: a user's name has no line breaks.
    request = ExecutionRequest.model_construct(code="1 + 1", user="a\nb")
    assert ray.get(deployment.orchestrator.run_request.remote(request)).text == "2"
    with pytest.raises(InvalidRequest, match="user"):
        ray.get(deployment.orchestrator.run.remote("1 + 1", user="a\nb"))


def test_a_client_that_goes_away_frees_its_slots(http: httpx.Client) -> None:
    for number in range(SLOTS):
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/run", json={"code": f"# fake: slow={20 + number}", "user": "ada"}, timeout=0.5)
    started_at = time.monotonic()
    assert run(http, "1", user="bob").ok
    assert time.monotonic() - started_at < 5
    eventually(lambda: http.get("/v1/metrics").json()["orchestrator"]["in_flight"] == 0, 5)


def test_the_replica_finds_a_deployment_that_was_started_anew(http: httpx.Client, deployment: Deployment) -> None:
    end_deployment(deployment.namespace)
    assert http.get("/healthz").status_code == 503
    answer = http.post("/v1/run", json={"code": "1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "actor_unavailable")
    create_deployment(deployment.settings)
    assert run(http, "1 + 1").text == "2"
