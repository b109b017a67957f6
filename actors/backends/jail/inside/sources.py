"""The sources of programs, kept under a name for each, so that tracebacks and ``inspect`` find those of earlier runs.

Runs in interpreters.
"""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Callable
from typing import Any

from IPython.core.compilerop import CachingCompiler

_FIRST = "<program>"


def is_program(name: str | None) -> bool:
    """Whether a file's name is that of a program of this interpreter."""
    return name is not None and (name == _FIRST or name.startswith("<program "))


class Compiler(CachingCompiler):
    """Names a program by its number among those of its interpreter."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._number = 1

    @property
    def name(self) -> str:
        """The name of the program that is run now, as if it were a file."""
        return _FIRST if self._number == 1 else f"<program {self._number}>"

    def get_code_name(self, *_: object) -> str:
        return self.name

    def next(self) -> None:
        """Let another program follow, unless this one has left no source to keep."""
        if self.name in linecache.cache:
            self._number += 1

    def forget(self) -> None:
        """Forget every program, and begin with the first again."""
        while self._number > 1:
            linecache.cache.pop(self.name, None)
            self._number -= 1
        linecache.cache.pop(_FIRST, None)


def find_classes() -> None:
    """Have ``inspect`` find the sources of classes that programs define, which have no file to be looked up in."""
    find_file: Callable[[Any], str] = inspect.getfile

    def getfile(thing: Any) -> str:
        try:
            return find_file(thing)
        except (OSError, TypeError):
            if not inspect.isclass(thing) or thing.__module__ != "__main__":
                raise
            if (name := _defining(thing.__qualname__)) is None:
                raise
            return name

    inspect.getfile = getfile  # type: ignore[assignment]


def _defining(qualname: str) -> str | None:
    """Return the name of the last program that defines a class."""
    path = [part for part in qualname.split(".") if part != "<locals>"]
    for name in reversed([name for name in linecache.cache if is_program(name)]):
        try:
            tree = ast.parse("".join(linecache.getlines(name)))
        except SyntaxError:
            continue
        if _defines(tree, path):
            return name
    return None


def _defines(tree: ast.AST, path: list[str]) -> bool:
    if not path:
        return True
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name == path[0] and _defines(node, path[1:]):
                return True
        elif _defines(node, path):  # within an if, a try or a with
            return True
    return False
