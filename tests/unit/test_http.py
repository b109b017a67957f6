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
from actors.errors import ActorUnavailable
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


def in_process(max_body_bytes: int = 1000, stub: Stub | None = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(make_app(stub or Stub(rejected()), max_body_bytes))
    return httpx.AsyncClient(transport=transport, base_url="http://stub")


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
