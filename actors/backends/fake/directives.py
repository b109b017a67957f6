"""What a fake program says in its comments: ``# fake: slow=0.5``.

A directive takes effect in its place. In a statement's line it stands for the statement, so that a program for a real
backend can say what the fake one is to do instead: ``time.sleep(0.5)  # fake: slow=0.5``. What the program does itself:

* ``output=BYTES`` fills stdout, ``stderr=TEXT`` writes a line,
* ``show=stdin``, ``show=env:NAME`` and ``show=file:NAME`` print what it was given,
* ``write=NAME:TEXT`` makes a file of the workspace, ``raise=NAME:VALUE`` raises an exception.

What befalls it:

* ``slow=SECONDS`` has it wait; ``hang`` does so for ever, and it can only be killed,
* ``oom`` and ``crash`` end its interpreter, ``lost`` ends its sandbox,
* ``infra`` has it fail as if it had never started, ``throttled`` as if too many had been asked for,
* ``wrong-tag`` has its sandbox read another BUILD_TAG from now on.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from operator import attrgetter

from actors.errors import InvalidRequest

_COMMENT = re.compile(r"# *fake: *([a-z-]+)(?:=(.*))?")
_FLAGS = ("hang", "oom", "crash", "lost", "infra", "throttled", "wrong-tag")
_ARGUMENTS = {
    "output": ("BYTES", r"\d+"),
    "stderr": ("TEXT", r".+"),
    "show": ("stdin|env:NAME|file:NAME", r"stdin|(env|file):.+"),
    "write": ("NAME:TEXT", r"[^:]+:.*"),
    "raise": ("NAME:VALUE", r"\w+:.*"),
    "slow": ("SECONDS", r"\d+(\.\d+)?"),
}
"""The other directives: what each takes, and the pattern of it."""


@dataclass(frozen=True, slots=True)
class Directive:
    """One directive, and the line that it is in."""

    name: str
    argument: str
    lineno: int


def read_steps(code: str) -> list[Directive | ast.stmt]:
    """Return the directives of a program and its other statements, in order.

    Raises:
        InvalidRequest: there is no such directive, so that a typing error is not a run that passes.
        SyntaxError: it is not Python.
    """
    statements = ast.parse(code).body
    if "fake:" not in code:
        return [*statements]
    directives = [
        _directive(found[1], (found[2] or "").strip(), code.count("\n", 0, found.start()) + 1)
        for found in _COMMENT.finditer(code)
    ]
    told = {directive.lineno for directive in directives}
    others = [each for each in statements if told.isdisjoint(range(each.lineno, (each.end_lineno or each.lineno) + 1))]
    return sorted([*directives, *others], key=attrgetter("lineno"))


def _directive(name: str, argument: str, lineno: int) -> Directive:
    pattern = "" if name in _FLAGS else _ARGUMENTS[name][1] if name in _ARGUMENTS else None
    if pattern is None or not re.fullmatch(pattern, argument):
        known = [*_FLAGS, *(f"{name}={takes}" for name, (takes, _) in _ARGUMENTS.items())]
        raise InvalidRequest("code", f"no directive {name!r} as in line {lineno}; there are {', '.join(known)}")
    return Directive(name, argument, lineno)
