"""What everything that is sent has in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from actors.errors import InvalidRequest, invalid


class Message(BaseModel):
    """Base of what is sent: immutable, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_bytes="base64")

    @classmethod
    def of(cls, fields: Mapping[str, Any], place: tuple[str, ...] = ()) -> Self:
        """Build a message from what a caller gives, which is at ``place`` of a larger whole.

        Raises:
            InvalidRequest: names the field and the rule that it breaks; for an unknown field, the one most like it.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            fault, first = invalid(error, within=place), error.errors(include_url=False, include_input=False)[0]
            if first["type"] == "extra_forbidden":
                *owner, name = map(str, first["loc"])
                like = get_close_matches(name, names := dict(cls._names(owner)), n=1)
                rule = f"is not permitted; did you mean {names[like[0]]}?" if like else "is not permitted"
                raise InvalidRequest(fault.field, rule) from None
            raise fault from None

    @classmethod
    def _names(cls, owner: list[str]) -> Iterator[tuple[str, str]]:
        """Names that could have been meant, with their places: those of the owner's fields, and of what is in these."""
        part: type[BaseModel] = cls
        for name in owner:
            inner = part.model_fields[name].annotation if name in part.model_fields else None
            if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
                return
            part = inner
        for name, field in part.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from ((deeper, ".".join((*owner, name, deeper))) for deeper in field.annotation.model_fields)
            yield name, ".".join((*owner, name))
