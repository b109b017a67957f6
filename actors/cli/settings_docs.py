"""``docs/configuration.md``, made from the settings themselves, so that it says what is so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from actors.config import Settings

COMMAND = "e2b-orchestrator config docs"
INTRODUCTION = f"""# Configuration

<!-- Made by `{COMMAND} > docs/configuration.md`: change the docstrings in actors/config instead. -->

Whoever starts a deployment reads its settings; who joins one later gets those that it was started with. They come from,
the strongest first:

1. arguments of `Settings.load(pool={{"max_size": 20}})`, in Python;
2. variables of the environment: `ORCHESTRATOR_POOL__MAX_SIZE=20`, lists and objects as JSON;
3. one YAML file, which `ORCHESTRATOR_CONFIG` names: `pool: {{max_size: 20}}`;
4. the defaults below.

A setting or variable that is not listed here is an error, which names it, and so is a value out of its bounds.
`e2b-orchestrator config show` prints what holds in this shell. `None` is written `null` in YAML and JSON.
"""
PREFIX = "ORCHESTRATOR_"
_HEADER = "| setting | variable | type | default | meaning |\n|---|---|---|---|---|"


def markdown() -> str:
    """Every setting: its variable, type, default and meaning, by section."""
    schema = Settings.model_json_schema()
    sections = schema["$defs"]
    single = {name: found for name, found in schema["properties"].items() if "$ref" not in found}
    nested = {name: found for name, found in schema["properties"].items() if "$ref" in found}
    parts = [INTRODUCTION, "## The deployment", _table(single, "")]
    for name in nested:
        section = _section(nested, name, sections)
        described = (f"## `{name}`", _text(section.get("description", "")))
        parts += [*filter(None, described), _table(section["properties"], f"{name}.")]
    parts += [
        part
        for name, found in single.items()
        for kind, reference in _kinds(found).items()
        for part in _row(name, kind, sections[reference.rpartition("/")[2]], _section(nested, kind, sections))
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _section(nested: dict[str, Any], name: str, sections: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = sections[nested[name]["$ref"].rpartition("/")[2]]
    return found


def _row(name: str, kind: str, row: dict[str, Any], section: dict[str, Any]) -> Iterator[str]:
    """One kind of an object that there may be several of, by names of the user's own; ``section`` has its defaults."""
    yield f"## `{name}.NAME` of kind `{kind}`"
    also = f"It takes all that [`{kind}`](#{kind}) does too, which holds where it says nothing."
    yield f"{_text(row['description'])} {also}"
    own = {key: found for key, found in row["properties"].items() if found != section["properties"].get(key)}
    yield _table(own, f"{name}.NAME.")


def _kinds(found: dict[str, Any]) -> dict[str, str]:
    # Names that must be like a pattern have a schema for each pattern.
    values = next(iter(found.get("patternProperties", {}).values()), found.get("additionalProperties", {}))
    kinds: dict[str, str] = values.get("discriminator", {}).get("mapping", {})
    return kinds


def _table(properties: dict[str, Any], prefix: str) -> str:
    lines = []
    for name, found in properties.items():
        path = f"{prefix}{name}"
        # Names that are other programs' too stand for themselves.
        variable = name if name.isupper() else PREFIX + path.upper().replace(".", "__")
        cells = (
            f"`{path}`",
            f"`{variable}`",
            # A row's section is called as the deployment's that it is completed with.
            f"as [`{name}`](#{name})" if "$ref" in found else _type(found),
            _default(found),
            _text(found.get("description", "")),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([_HEADER, *lines])


def _type(found: dict[str, Any]) -> str:
    match found:
        case {"anyOf": choices}:
            return " or ".join(_type(choice) for choice in choices)
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"const": value}:
            return f"`{value}`"
        case {"type": "array", "items": items}:
            return f"list of {_type(items)}"
        case {"type": "object"}:
            inner = found.get("additionalProperties", {})
            return "objects by name" if _kinds(found) else f"{_type(inner)} by name"
        case {"type": "null"}:
            return "None"
        case {"format": "path"}:
            return "path"
        case {"format": "password"}:
            return "secret"
        case {"type": "string", "pattern": pattern}:
            return f"text like `{pattern}`"
    kind = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false"}[found["type"]]
    bounds = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    said = [f"{sign} {found[name]:g}" for name, sign in bounds.items() if name in found]
    return " ".join([kind, ", ".join(said)]).strip()


def _default(found: dict[str, Any]) -> str:
    if "$ref" in found:
        return "the deployment's"
    if "default" not in found:
        return "none"
    default = found["default"]
    return "None" if default is None else f"`{json.dumps(default, ensure_ascii=False)}`"


def _text(docstring: str) -> str:
    return " ".join(docstring.split()).replace("``", "`")
