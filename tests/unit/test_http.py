"""The HTTP routes, spoken to in this process, with a deployment behind them that answers as it is told."""

from __future__ import annotations

import inspect
import json
import sys
from collections import Counter
from types import FrameType
from typing import Any

import httpx
import pytest

from actors.api.app import make_app
from actors.api.runs import encoded, status_of
from actors.config import Settings
from actors.errors import ActorUnavailable, ConfigurationError
from actors.schemas import ExecutionRequest, ExecutionResult, Outcome, Priority
from actors.schemas import request as request_schema


class Stub:
    """A deployment that answers as it is told."""

    def __init__(self, result: ExecutionResult) -> None:
        self.result = result
        self.asked: list[ExecutionRequest] = []

    async def run_request(self, request: ExecutionRequest) -> ExecutionResult:
        self.asked.append(request)
        return self.result

    async def metrics(self) -> dict[str, Any]:
        raise ActorUnavailable("Orchestrator", "is gone")

    async def health(self) -> dict[str, Any]:
        return {"status": "degraded"}


def rejected(code: str = "queue_full", retry_after_s: float | None = 1.2) -> ExecutionResult:
    return ExecutionResult(
        run_id="1", outcome=Outcome.REJECTED, error_code=code, retry_after_s=retry_after_s, may_have_run=False
    )


def in_process(
    max_body_bytes: int = 1000,
    stub: Stub | None = None,
    hosts: tuple[str, ...] = (),
    base_url: str = "http://localhost:8000",
) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(make_app(stub or Stub(rejected()), max_body_bytes, hosts))
    return httpx.AsyncClient(transport=transport, base_url=base_url)


BODY = {
    "code": "1",
    "env": {"NAME": "value"},
    "files": {"a.bin": {"base64": "Ynl0ZXM="}},
    "priority": "high",
    "context": "c",
    "session": "s",
}


async def test_a_request_arrives_as_python_callers_make_it() -> None:
    stub = Stub(rejected())
    async with in_process(stub=stub) as http:
        await http.post("/v1/run", json=BODY)
    same = BODY | {"files": {"a.bin": b"bytes"}, "priority": Priority.HIGH}
    assert stub.asked == [ExecutionRequest.checked(**same)]
    # Of that very class: who gets it needs to know nothing of HTTP.
    assert type(stub.asked[0]) is ExecutionRequest
    assert stub.asked[0].model_fields_set == BODY.keys()


async def test_a_request_is_validated_once() -> None:
    ran: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename == request_schema.__file__ and not code.co_flags & inspect.CO_GENERATOR:
            ran[code.co_name] += 1

    async with in_process() as http:
        sys.setprofile(note)
        try:
            await http.post("/v1/run", json=BODY)
        finally:
            sys.setprofile(None)
    # Each rule that is written in Python, of code, files, variables, priority and the request as a whole.
    assert len(ran) >= 6
    assert set(ran.values()) == {1}, ran


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        ({"code": "1", "seed": "5"}, "seed", "input should be a valid integer"),
        ({"code": "1", "fresh": "true"}, "fresh", "input should be a valid boolean"),
        ({"code": "1", "priority": "urgent"}, "priority", "must be 'high', 'normal' or 'low', or 0, 1 or 2"),
        ({"code": "1", "stdin": {"base64": "?"}}, "stdin.base64", "must be valid base64 (Only base64 data is allowed)"),
        ({"code": "1", "files": {"a": {"text": ""}}}, "files.a", 'must be text, bytes or {"base64": …}'),
        ({"code": "1", "context": "c"}, "context", "is a session's; name the session too"),
        ({"code": "1", "outputs": "*"}, "outputs", "input should be a valid tuple"),
        ({"code": "1", "timeout": 3}, "timeout", "is not permitted; did you mean timeout_s?"),
        ({"cod": "1"}, "cod", "is not permitted; did you mean code?"),
        ({"code": "1", "limits": {"memory": 64}}, "limits.memory", "is not permitted; did you mean limits.memory_mib?"),
    ],
)
async def test_what_is_wrong_is_told_by_field_and_rule(body: Any, field: str, rule: str) -> None:
    async with in_process() as http:
        answer = await http.post("/v1/run", json=body)
    message = f"{field}: {rule}"
    assert answer.status_code == 422
    assert answer.json() == {"error": {"code": "invalid_request", "message": message, "field": field, "rule": rule}}


@pytest.mark.parametrize("code", ["", "a\0b", "'\ud800'", "x" * 1_000_001])
async def test_any_text_is_a_program_to_be_judged_and_no_mistake_of_the_request(code: str) -> None:
    stub = Stub(rejected())
    async with in_process(2_000_000, stub) as http:
        await http.post("/v1/run", content=json.dumps({"code": code}), headers={"content-type": "application/json"})
    assert [request.code for request in stub.asked] == [code]


async def test_a_rejected_run_says_when_to_come_back_and_never_too_early() -> None:
    async with in_process() as http:
        answer = await http.post("/v1/run", json={"code": "1"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


async def test_a_body_beyond_the_bound_is_refused_whether_it_is_announced_or_not() -> None:
    async def pieces() -> Any:
        for _ in range(11):
            yield b" " * 100

    async with in_process() as http:
        announced = await http.post("/v1/run", json={"code": "1" * 1000})
        streamed = await http.post("/v1/run", content=pieces(), headers={"content-type": "application/json"})
    for answer in (announced, streamed):
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_a_deployment_that_is_away_or_unwell_is_503() -> None:
    async with in_process() as http:
        assert (await http.get("/v1/metrics")).status_code == 503
        assert (await http.get("/healthz")).status_code == 503


@pytest.mark.parametrize(
    ("outcome", "code", "status"),
    [
        (Outcome.TIMEOUT, None, 200),
        (Outcome.CRASHED, None, 200),
        (Outcome.REJECTED, "rate_limited", 429),
        (Outcome.REJECTED, "duplicate_run", 409),
        (Outcome.INFRA, "sandbox_lost", 502),
        (Outcome.INFRA, "actor_unavailable", 503),
        (Outcome.INFRA, None, 502),
        (Outcome.CANCELLED, None, 503),
    ],
)
def test_only_what_says_something_of_the_program_is_200(outcome: Outcome, code: str | None, status: int) -> None:
    result = rejected(code or "").model_copy(update={"outcome": outcome, "error_code": code})
    assert status_of(result) == status


def test_text_that_is_not_unicode_does_not_keep_a_result_from_its_client() -> None:
    result = ExecutionResult.model_construct(run_id="1", outcome=Outcome.OK, stdout="half a pair: \ud83d")
    assert ExecutionResult.model_validate_json(encoded(result)).stdout == "half a pair: ?"


EVIL = "rebound.evil.example"


@pytest.mark.parametrize("path", ["/v1/run", "/v1/metrics", "/healthz", "/docs", "/openapi.json", "/nowhere"])
@pytest.mark.parametrize(
    "host",
    [EVIL, f"{EVIL}:8000", "localhost.evil.example", "localhost@evil.example", "127.0.0.1.evil.example", "", "[::1"],
)
async def test_a_name_that_leads_here_and_is_not_this_servers_gets_nothing(path: str, host: str) -> None:
    stub = Stub(rejected())
    async with in_process(stub=stub) as http:
        answer = await http.request("POST" if path == "/v1/run" else "GET", path, headers={"host": host}, json=BODY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "misdirected")
    assert "http.hosts" in answer.json()["error"]["message"]
    assert not stub.asked


async def test_a_connection_that_came_by_such_a_name_gets_nothing_either() -> None:
    async with in_process(base_url=f"http://{EVIL}:8000") as http:
        assert (await http.post("/v1/run", json=BODY)).status_code == 421


async def test_two_hosts_are_none() -> None:
    async with in_process() as http:
        answer = await http.get("/v1/metrics", headers=[("host", "localhost"), ("host", EVIL)])
    assert answer.status_code == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8000", "[::1]:8000", "[::1]"])
async def test_this_machine_goes_by_its_own_names(host: str) -> None:
    async with in_process() as http:
        answer = await http.get("/v1/metrics", headers={"host": host})
    assert answer.json()["error"]["code"] == "actor_unavailable"


async def test_it_goes_by_the_address_that_it_was_reached_at_and_by_no_other() -> None:
    async with in_process(base_url="http://192.0.2.7:8000") as http:
        assert (await http.get("/v1/metrics")).status_code == 503
        assert (await http.get("/v1/metrics", headers={"host": "192.0.2.8:8000"})).status_code == 421


@pytest.mark.parametrize(
    ("hosts", "host", "passes"),
    [
        (("runs.example.org",), "Runs.Example.org", True),
        (("runs.example.org",), "runs.example.org:8443", True),
        (("runs.example.org",), "a.runs.example.org", False),
        (("*.example.org",), "a.b.example.org", True),
        (("*.example.org",), "example.org", False),
        (("*.example.org",), "evilexample.org", False),
        (("*",), EVIL, True),
        (("10.0.0.1",), "10.0.0.1:80", True),
    ],
)
async def test_settings_name_the_hosts_of_a_proxy(hosts: tuple[str, ...], host: str, passes: bool) -> None:
    async with in_process(hosts=hosts) as http:
        answer = await http.get("/v1/metrics", headers={"host": host})
    assert (answer.status_code != 421) == passes


@pytest.mark.parametrize(
    ("origin", "passes"),
    [
        ("http://localhost:8000", True),
        ("https://runs.example.org", True),
        (f"http://{EVIL}", False),
        (f"http://{EVIL}:8000", False),
        ("http://localhost:3000", False),
        ("http://localhost", False),
        ("http://localhost:8000.evil.example", False),
        ("http://localhost:8000@evil.example", False),
        ("http://[::", False),
        ("null", False),
        ("", False),
    ],
)
async def test_a_page_of_another_site_gets_nothing(origin: str, passes: bool) -> None:
    stub = Stub(rejected())
    async with in_process(stub=stub, hosts=("runs.example.org", "*")) as http:
        answer = await http.post("/v1/run", json=BODY, headers={"origin": origin})
    assert (answer.status_code, bool(stub.asked)) == ((503, True) if passes else (403, False))
    if not passes:
        assert answer.json()["error"]["code"] == "foreign_origin"


def test_hosts_are_names_and_no_patterns() -> None:
    with pytest.raises(ConfigurationError, match=r"http\.hosts"):
        Settings.load(http={"hosts": ["https://runs.example.org"]})
