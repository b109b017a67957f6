"""Errors travel between actors whole."""

from __future__ import annotations

import inspect
import pickle

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from actors import errors
from actors.errors import InvalidRequest, ServiceError, faults, invalid

CLASSES = [found for _, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, ServiceError)]


def example(cls: type[ServiceError]) -> ServiceError:
    """One with a value of its own for every argument."""
    values = {"retry_after_s": 1.5, "may_have_run": True}
    own = cls.__init__ is not Exception.__init__
    return cls(*(values.get(name, f"the {name}") for name in inspect.signature(cls).parameters)) if own else cls("why")


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_survives_pickling_with_all_its_values(cls: type[ServiceError]) -> None:
    error = example(cls)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert (copy.args, vars(copy), str(copy)) == (error.args, vars(error), str(error))


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_says_something(cls: type[ServiceError]) -> None:
    assert str(example(cls)).strip()


def test_codes_tell_errors_apart() -> None:
    codes = [cls.code for cls in CLASSES]
    assert len(set(codes)) == len(codes)


class Inner(BaseModel):
    number: int
    text: str = ""

    @field_validator("text")
    @classmethod
    def _is_short(cls, text: str) -> str:
        if text == "finer":
            raise InvalidRequest("word.0", "must be shorter")
        if text:
            raise ValueError("Must be shorter")
        return text


class Outer(BaseModel):
    inner: dict[int, Inner]


def refusal(**fields: object) -> ValidationError:
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate(fields)
    return raised.value


def test_what_pydantic_found_is_told_by_place_and_rule_and_never_by_value() -> None:
    found = faults(refusal(inner={1: {"number": "secret", "text": "secret"}, "secret": {"number": 1}}))
    assert [fault.place for fault in found] == [("inner", "1", "number"), ("inner", "1", "text"), ("inner", "secret")]
    assert found[1].rule == "must be shorter"
    assert not any("secret" in fault.rule for fault in found)


def test_the_first_fault_is_our_error_in_the_callers_terms() -> None:
    error = refusal(inner={1: {"number": 1, "text": "long"}})
    assert invalid(error).args == ("inner.1.text", "must be shorter")
    assert invalid(error, skip=1, within=("cases", "2")).args == ("cases.2.1.text", "must be shorter")
    assert invalid(error, skip=3).args == ("request", "must be shorter")
    assert invalid(error, skip=3, whole="body").args == ("body", "must be shorter")


def test_a_validator_may_know_the_place_better() -> None:
    error = refusal(inner={1: {"number": 1, "text": "finer"}})
    assert invalid(error).args == ("inner.1.text.word.0", "must be shorter")
