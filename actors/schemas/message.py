"""What everything that is sent has in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from actors.errors import InvalidRequest, Validation, invalid


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
            raise cls.refusal_of(error, within=place) from None

    @classmethod
    def refusal_of(
        cls, error: Validation, *, within: tuple[str, ...] = (), skip: int = 0, whole: str = "request"
    ) -> InvalidRequest:
        """Return ``errors.invalid`` of the same; for an unknown field it names the one most like it."""
        unknown = [each["loc"][skip:] for each in error.errors() if each["type"] == "extra_forbidden"]
        if not unknown:
            return invalid(error, within=within, skip=skip, whole=whole)
        # Told before what is missing, which may be what was meant.
        *owner, name = map(str, unknown[0])
        names = dict(cls._names(owner))
        like = get_close_matches(name, names, n=1)
        rule = f"is not permitted; did you mean {names[like[0]]}?" if like else "is not permitted"
        return InvalidRequest(".".join((*within, *owner, name)), rule)

    @classmethod
    def _names(cls, owner: list[str]) -> Iterator[tuple[str, str]]:
        """Names that could have been meant, with their places: those of the owner's fields, and of what is in these."""
        part: type[BaseModel] = cls
        for name in owner:
            if name in part.model_fields:  # else it is a number in a list
                inner = _message_in(part.model_fields[name].annotation)
                if inner is None:
                    return
                part = inner
        for name, field in part.model_fields.items():
            if (inner := _message_in(field.annotation)) is not None:
                yield from ((deeper, ".".join((*owner, name, deeper))) for deeper in inner.model_fields)
            yield name, ".".join((*owner, name))


def _message_in(annotation: Any) -> type[BaseModel] | None:
    """The kind of message that a field holds, or a list of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_message_in, get_args(annotation))), None)
