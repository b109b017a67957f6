"""Faults that a fake program asks for in its comments: ``# fake: slow=0.5``."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DIRECTIVE = re.compile(r"#\s*fake:\s*([a-z-]+)(?:=([0-9.]+))?")
_FLAGS = ("infra", "lost", "hang", "wrong-tag", "oom", "crash")
_NUMBERS = ("slow", "output")


@dataclass(frozen=True, slots=True)
class Faults:
    """What shall go wrong, in the order in which it does."""

    wrong_tag: bool = False
    """From now on the sandbox reads another BUILD_TAG."""
    infra: bool = False
    """The service fails before the program starts."""
    lost: bool = False
    """The sandbox vanishes under the program, for good."""
    slow: float = 0.0
    """Seconds before the program starts."""
    output: int = 0
    """Bytes put on stdout before the program starts."""
    hang: bool = False
    """The program cannot be interrupted, only killed."""
    oom: bool = False
    crash: bool = False


def read_faults(code: str) -> Faults:
    """Find the directives.

    Raises:
        ValueError: there is no such directive, so that a typing error is not a run that passes.
    """
    if "fake:" not in code:
        return Faults()
    faults: dict[str, bool | float | int] = {}
    for name, number in _DIRECTIVE.findall(code):
        if name not in (_NUMBERS if number else _FLAGS):
            raise ValueError(f"no directive {name!r}; there are {', '.join(_FLAGS)}, slow=SECONDS and output=BYTES")
        faults[name.replace("-", "_")] = (int(number) if name == "output" else float(number)) if number else True
    return Faults(**faults)  # type: ignore[arg-type]
