"""Errors travel between actors whole."""

from __future__ import annotations

import inspect
import pickle

import pytest

from actors import errors
from actors.errors import ServiceError

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
