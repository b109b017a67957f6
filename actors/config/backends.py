"""The rows of the table of backends: what can be said of one, and what it takes over from the deployment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PositiveInt

from actors.config.sections import FakeSettings, JailSettings, Name, PoolSettings, QuotaSettings, RunLimits, Section
from actors.errors import InvalidRequest


class BackendRow(Section):
    """One backend: a pool of sandboxes of one kind, made from one image."""

    kind: str
    """What serves it."""
    image: Name | None = None
    """What its sandboxes are made from, and what a run asks for it by."""
    concurrency: PositiveInt | None = None
    """Grants at a time; None is ``queue.global_concurrency``."""
    pool: PoolSettings = PoolSettings()
    """How many sandboxes it has; what is not said here is as in ``pool``."""
    limits: RunLimits = RunLimits()
    """What its runs may use; what is not said here is as in ``limits``."""
    rate_limit: QuotaSettings = QuotaSettings()
    """What may be asked of it; what is not said here is as in ``rate_limit``."""


class JailRow(BackendRow, JailSettings):
    """A backend of jails on the machines of the cluster."""

    kind: Literal["jail"]
    """Must be said, unless the row is named so."""


class FakeRow(BackendRow, FakeSettings):
    """A backend that runs nothing."""

    kind: Literal["fake"]
    """Must be said, unless the row is named so."""


Row = Annotated[JailRow | FakeRow, Field(discriminator="kind")]
KINDS = ("jail", "fake")
"""What a row can be of; each is a section of the deployment too, which rows of it take over."""
TAKEN_OVER = ("router", "queue", "pool", "limits", "rate_limit", *KINDS)
"""The sections that rows are completed with."""


def completed(rows: Mapping[str, Any], deployment: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what rows leave out, and the row that ``router.local`` names by its kind alone.

    ``deployment`` has the sections that were found to be right; what is wrong in a row is left for validation.

    Raises:
        InvalidRequest: a row does not say of which kind it is.
    """
    local = deployment["router"].local
    implied: dict[str, Any] = {local: {}} if local in KINDS else {}
    return {name: _completed(name, _said(row), deployment) for name, row in {**implied, **rows}.items()}


def said(rows: Mapping[str, BackendRow], deployment: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """What rows say that the deployment does not: what ``completed`` makes the same rows of."""
    found: dict[str, Any] = {}
    for name, row in rows.items():
        bare = type(row).model_validate(_completed(name, {"kind": row.kind}, deployment))
        own = {"kind": row.kind} | _difference(row.model_dump(mode=mode), bare.model_dump(mode=mode))
        if own != {"kind": name} or name != deployment["router"].local:
            found[name] = own
    return found


def _difference(own: dict[str, Any], bare: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _difference(value, bare[name]) if isinstance(value, dict) else value
        for name, value in own.items()
        if value != bare[name]
    }


def _completed(name: str, row: Any, deployment: Mapping[str, Any]) -> Any:
    if not isinstance(row, dict):
        return row
    kind = row.get("kind", name)
    if kind not in KINDS:
        raise InvalidRequest(f"{name}.kind", f"must be one of {', '.join(KINDS)}")
    own = deployment[kind].model_dump() | {"concurrency": deployment["queue"].global_concurrency} | row | {"kind": kind}
    for section, taken in (("pool", PoolSettings), ("limits", RunLimits), ("rate_limit", QuotaSettings)):
        said = _said(row.get(section, {}))
        found = deployment[section].model_dump(include=set(taken.model_fields))
        own[section] = found | said if isinstance(said, dict) else said
    return own


def _said(given: Any) -> Any:
    """What was said, by whichever means, and not left to a default."""
    if isinstance(given, BaseModel):
        return given.model_dump(exclude_unset=True)
    return dict(given) if isinstance(given, Mapping) else given
