"""Whether a program certainly prints the same every time, judged from its syntax alone.

A verdict and no score: one reason for doubt is enough, since a repeated run costs less than a wrong answer, and doubts
of different kinds have no order that a threshold could be drawn through. The judgement is by allow-list: what is not
known to be pure is a reason. Names are followed wherever they are bound, without regard to order or scope: one that is
*anywhere* bound to ``time.time`` is the clock *everywhere*. What syntax cannot show (a hash order hidden in a data
structure) is left to ``shows_address`` and to the cache's verification.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from actors.core.determinism.judgement import Judgement

MAX_CHARACTERS, MAX_NODES = 50_000, 20_000
_TOO_LONG = f"more than {MAX_CHARACTERS:,} characters"
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{4,}")


@dataclass(frozen=True, slots=True)
class Determinism:
    """What can be said of a program: that it is deterministic, or each reason why it may not be."""

    reasons: tuple[str, ...] = ()

    @property
    def certain(self) -> bool:
        """Whether its result may be served again."""
        return not self.reasons


def judge(code: str, files: Iterable[str] = ()) -> Determinism:
    """Judge a program, and whether ``files`` beside it could replace a module that it imports.

    Never raises, and works on a bounded number of syntax nodes: what is too large or too deep is not certain.
    """
    if any(name.endswith((".py", ".pyc", ".so", ".pth")) for name in files):
        return Determinism(("its files may replace modules",))
    if len(code) > MAX_CHARACTERS:  # asked here, so that no such text is kept in a cache
        return Determinism((_TOO_LONG,))
    return _judge(code)


def shows_address(text: str) -> bool:
    """Whether a program's output holds a memory address, as in ``<object at 0x7f…>``, that differs in every run."""
    return _ADDRESS.search(text) is not None


def parse(code: str) -> ast.Module | str:
    """The program's syntax tree, or why there is none. The tree is shared: do not change it."""
    return _TOO_LONG if len(code) > MAX_CHARACTERS else _parse(code)


@lru_cache(maxsize=1)  # the router has just asked for the same program
def _parse(code: str) -> ast.Module | str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a program is no concern of this process
            tree = ast.parse(code)
        if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
            return f"more than {MAX_NODES:,} syntax nodes"
    except (SyntaxError, ValueError):
        return "not plain Python"
    except (RecursionError, MemoryError):
        return "nested too deeply"
    return tree


@lru_cache(maxsize=256)
def _judge(code: str) -> Determinism:
    tree = parse(code)
    if isinstance(tree, str):
        return Determinism((tree,))
    try:
        return Determinism(tuple(dict.fromkeys(Judgement(tree).reasons())))
    except RecursionError:
        return Determinism(("nested too deeply",))
