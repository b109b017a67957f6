"""The main module of programs: ``__main__`` as a script has it, though no program comes from a file."""

from __future__ import annotations

import builtins
import os
import sys
import types
from typing import Any

NAME = "program.py"
"""What a program is called that wants to know."""
_ELSEWHERE = "/tmp"  # noqa: S108 - the jail's own


class MainModule(types.ModuleType):
    """A ``__main__`` whose ``source`` is written to a file as soon as somebody asks for ``__file__``.

    So do ``multiprocessing``, whose processes import it, and ``inspect``; other programs leave no file. In a session
    there is no ``source``, and no file, as in a notebook.
    """

    __slots__ = ("source",)
    source: str | None

    def __init__(self) -> None:
        super().__init__("__main__")
        self.source = None
        self.__dict__.update(attributes())

    def __getattr__(self, name: str) -> Any:
        if name == "__file__" and self.source is not None:
            self.__file__ = _written(self.source)
            return self.__file__
        raise AttributeError(f"module '__main__' has no attribute {name!r}")

    def begin(self, source: str) -> None:
        """Take the program that is about to run; one that speaks of its file has it."""
        self.source = source
        if "__file__" in source or ("argv" in source and "executable" in source):
            self.__dict__["__file__"] = self.__file__


def attributes() -> dict[str, Any]:
    """Return what a main module has beside its names."""
    absent = dict.fromkeys(("__doc__", "__package__", "__loader__", "__spec__", "__cached__"))
    return {"__name__": "__main__", **absent, "__annotations__": {}, "__builtins__": builtins}


def _written(source: str) -> str:
    """Return the path of a file that holds the program, beside what it reads unless the name is taken."""
    for directory in (sys.path[0], _ELSEWHERE):
        path = os.path.join(directory, NAME)
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(source)
        except FileExistsError:
            continue
        except OSError as error:
            raise AttributeError(f"the program's file cannot be written: {error}") from None
        return path
    raise AttributeError(f"the program has no file: there are others of the name {NAME}")
