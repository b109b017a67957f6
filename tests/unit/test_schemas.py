"""What a request may be; everything else is refused by the field's name."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import InvalidRequest
from actors.runs.ledger import request_hash
from actors.schemas import ExecutionRequest, ExecutionResult, Outcome, Priority, RichResult
from actors.schemas.request import checked_batch

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("code", {"code": 1}, "string"),
    ("code", {}, "required"),
    ("timeout_s", {"timeout_s": 0}, "greater than 0"),
    ("timeout_s", {"timeout_s": -1}, "greater than 0"),
    ("timeout_s", {"timeout_s": float("nan")}, "finite"),
    ("timeout_s", {"timeout_s": float("inf")}, "finite|less than"),
    ("timeout_s", {"timeout_s": 1e9}, "less than"),
    ("timeout_s", {"timeout_s": "10"}, "number"),
    ("language", {"language": "cobol"}, "python"),
    ("user", {"user": ""}, "at least 1"),
    ("user", {"user": "a\nb"}, "pattern"),
    ("user", {"user": "x" * 257}, "at most 256"),
    ("priority", {"priority": 7}, "0, 1 or 2"),
    ("backend", {"backend": "Über"}, "pattern"),
    ("image", {"image": ""}, "pattern"),
    ("cache", {"cache": "maybe"}, "auto"),
    ("env", {"env": {"1X": "a"}}, "not a variable name"),
    ("env", {"env": {"X": "a\0"}}, "NUL"),
    ("env.X", {"env": {"X": 1}}, "string"),
    ("files", {"files": {"../x": b""}}, "relative path"),
    ("files", {"files": {"/etc/passwd": b""}}, "relative path"),
    ("files", {"files": {"": b""}}, "non-empty"),
    ("files", {"files": {"a\nb": b""}}, "control characters"),
    ("files", {"files": {"a": b"", "a/b": b""}}, "itself a file"),
    ("limits.memory_mib", {"limits": {"memory_mib": 0}}, "greater than or equal to 16"),
    ("limits.colour", {"limits": {"colour": 1}}, "not permitted"),
    ("idempotency_key", {"idempotency_key": ""}, "at least 1"),
    ("nonsense", {"nonsense": 1}, "not permitted$"),
    ("timeout", {"timeout": 3}, r"did you mean timeout_s\?"),
    ("cpu_s", {"cpu_s": 3}, r"did you mean limits\.cpu_s\?"),
    ("limits.memory_mb", {"limits": {"memory_mb": 64}}, r"did you mean limits\.memory_mib\?"),
    ("place", {"place": 1}, "not permitted"),
]


@pytest.mark.parametrize(("field", "fields", "rule"), BAD)
def test_a_bad_request_names_the_field_and_the_rule(field: str, fields: dict[str, Any], rule: str) -> None:
    given_fields = fields if "code" in fields or not fields else {"code": "1"} | fields
    with pytest.raises(InvalidRequest, match=rule) as raised:
        ExecutionRequest.checked(**given_fields)
    assert raised.value.field.startswith(field)


@pytest.mark.parametrize("code", ["", " \n", "a\0b", "'\ud800'", "é" * 600_000])
def test_any_text_may_be_code_since_a_model_wrote_it(code: str) -> None:
    assert ExecutionRequest.checked(code=code).code == code


def test_none_is_the_default() -> None:
    assert ExecutionRequest.checked(code="1", session=None, timeout_s=None, files=None).timeout_s == 30.0


def test_texts_become_bytes() -> None:
    request = ExecutionRequest.checked(code="1", files={"a.txt": "é"}, stdin="in")
    assert (request.files, request.stdin) == ({"a.txt": "é".encode()}, b"in")


def test_what_json_has_no_form_for_has_one_here() -> None:
    told = json.loads('{"code": "1", "priority": "low", "files": {"a": {"base64": "/wA="}}, "outputs": ["a"]}')
    request = ExecutionRequest.checked(**told, stdin={"base64": ""})
    assert (request.priority, request.files, request.stdin) == (Priority.LOW, {"a": b"\xff\x00"}, b"")
    for wrong in ({"base64": "/wA"}, {"base64": 1}, {"base64": "", "more": 1}, 1):
        with pytest.raises(InvalidRequest, match="base64"):
            ExecutionRequest.checked(code="1", stdin=wrong)


def test_a_batch_is_checked_as_a_whole() -> None:
    requests = checked_batch(["1", {"code": "2", "timeout_s": 5.0}, ""], {"timeout_s": 3.0, "user": "ann"})
    assert [(request.code, request.timeout_s, request.user) for request in requests] == [
        ("1", 3.0, "ann"), ("2", 5.0, "ann"), ("", 3.0, "ann"),
    ]  # fmt: skip
    assert checked_batch((), {}) == []


@pytest.mark.parametrize(
    ("programs", "options", "field", "rule"),
    [
        (["1", "2"], {"timeout": 3}, "timeout", "timeout_s"),
        ([], {"timeout": 3}, "timeout", "timeout_s"),
        (["1"], {"timeout_s": -1}, "timeout_s", "greater than 0"),
        (["1", {"code": "2"}], {"limits": {"memory_mb": 1}}, "limits.memory_mb", "limits.memory_mib"),
        (["1", {"code": "2", "timeout": 3}], {}, "programs.1.timeout", "timeout_s"),
        (["1", {"code": "2", "timeout_s": "3"}], {"timeout_s": 3.0}, "programs.1.timeout_s", "number"),
        (["1", {"timeout_s": 3.0}], {}, "programs.1.code", "required"),
        (["1", {"code": None}], {}, "programs.1.code", "required"),
        (["1", {"code": 2}], {}, "programs.1.code", "string"),
        (["1", {"code": "2", 3: 4}], {}, "programs.1.3", "string"),
        (["1", None], {}, "programs.1", "not NoneType"),
        (["1", b"2"], {}, "programs.1", "not bytes"),
        (["1", {"code": "2", "context": "c"}], {}, "programs.1.context", "session"),
        ("12", {}, "programs", "list"),
        (None, {}, "programs", "list"),
        (["1", "2"], {"idempotency_key": "k"}, "idempotency_key", "of one program"),
    ],
)
def test_what_is_wrong_with_a_batch_is_named(programs: Any, options: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(InvalidRequest, match=rule) as raised:
        checked_batch(programs, options)
    assert raised.value.field == field


@given(st.text(), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_any_text_is_taken_or_refused_and_nothing_else(code: str, files: dict[str, str]) -> None:
    try:
        request = ExecutionRequest.checked(code=code, files=files)
    except InvalidRequest:
        return
    assert not any(name.startswith("/") or ".." in name.split("/") for name in request.files)


def test_a_result_survives_json() -> None:
    shown = (RichResult(is_main_result=True, text="1", json={"a": [1]}),)
    result = ExecutionResult(run_id="r", outcome=Outcome.OK, results=shown)
    assert ExecutionResult.model_validate_json(result.model_dump_json(by_alias=True)) == result


def test_a_trainer_masks_exactly_what_says_nothing_of_the_program() -> None:
    assert {outcome for outcome in Outcome if outcome.masked} == {"cancelled", "rejected", "infra"}


def test_files_of_a_result_are_base64_in_json_and_come_back_from_it() -> None:
    result = ExecutionResult(run_id="r", outcome=Outcome.OK, files={"a": b"\xff\x00?>"})
    told = result.model_dump_json()
    assert json.loads(told)["files"] == {"a": "/wA/Pg=="}
    assert ExecutionResult.model_validate_json(told) == result
    assert pickle.loads(pickle.dumps(result)).files == {"a": b"\xff\x00?>"}


def test_a_request_with_binary_files_has_a_hash() -> None:
    one, other = (ExecutionRequest.checked(code="1", files={"a": data}) for data in (b"\xff", b"\xfe"))
    assert request_hash(one) != request_hash(other)


def test_a_context_is_of_a_session() -> None:
    with pytest.raises(InvalidRequest, match="session"):
        ExecutionRequest.checked(code="1", context="c")
    assert ExecutionRequest.checked(code="1", context="c", session="s").context == "c"
