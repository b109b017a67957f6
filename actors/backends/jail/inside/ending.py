"""The end of a program as CPython ends a script: it waits for what runs, calls what is registered, frees what is left.

Finalizing a whole interpreter takes milliseconds, most of them for what no program can notice. Here happens what one
can, in CPython's order, and only if there is something: threads are joined, ``atexit`` is obeyed, streams are flushed,
and the objects of the program are freed, so that their finalizers run and their files are written.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import logging
import os
import re
import socket
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from actors.backends.jail.kernel import bwrap

_STREAMS = ("stdin", "stdout", "stderr")
_LAST_ERROR = ("last_type", "last_value", "last_traceback", "last_exc")
_PROCESSES = "multiprocessing.util"
_TELLING = ("__del__", "yield", "open", "async", "exec", "eval", "compile", "__import__", "importlib")
_IMPORT = re.compile(r"\b(?:import|from)\s+([^\n;#]*)")
_PLAIN_MODULES = {
    *("abc", "bisect", "calendar", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum"),
    *("fractions", "functools", "heapq", "itertools", "json", "math", "numbers", "operator", "random", "re"),
    *("statistics", "string", "sys", "textwrap", "time", "types", "typing"),
}
_flush_c_streams = ctypes.CDLL(None).fflush
_threading: Any = threading  # what the interpreter itself calls at its end has no public name


class Ending:
    """Ends programs, by what was there before any; ``harmless`` types need not be looked at."""

    def __init__(self, harmless: frozenset[type]) -> None:
        _disregard_what_is_registered()
        # Where it is loaded it may have processes to wait for, whatever else is registered.
        self._callbacks = -1 if _PROCESSES in sys.modules else atexit._ncallbacks()
        self._thread_callbacks = len(_threading._threading_atexits)
        self._handlers = len(logging._handlerList)  # type: ignore[attr-defined]
        self._last_module = next(reversed(sys.modules))
        self._harmless = harmless
        self._aged: list[int] = []

    def begin(self) -> None:
        """Take note that what is old by now is no program's."""
        self._aged = _aged()

    def end(self, code: str, namespace: dict[str, Any], names: int, release: Callable[[], None]) -> None:
        """End a program of this ``code`` that has run in ``namespace``, which had so many ``names`` before it.

        ``release`` drops every reference to the namespace that is not the program's own.
        """
        if len(_threading._active) > 1 or len(_threading._threading_atexits) > self._thread_callbacks:
            with unraisable("threading._shutdown"):
                _threading._shutdown()
        if atexit._ncallbacks() > self._callbacks or len(logging._handlerList) > self._handlers:  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
        if len(namespace) == names and next(reversed(sys.modules)) == self._last_module:
            return
        if _is_plain(code) or not self._finds_finalizers():
            return
        flush()
        _restore_streams()
        for name in _LAST_ERROR:
            sys.__dict__.pop(name, None)
        # While all is still reachable: it puts objects in the order in which they refer to each other, so that later
        # a file is closed before what it writes by.
        gc.collect()
        for name in list(self._modules_of_the_program()):
            del sys.modules[name]
        del namespace
        release()
        gc.collect()

    def _finds_finalizers(self) -> bool:
        """Whether an object that has come since does something when it is freed."""
        objects = gc.get_objects(generation=0) + gc.get_objects(generation=1)
        if _aged() != self._aged:
            objects += gc.get_objects(generation=2)
        return any(map(_finalizes, set(map(type, objects)) - self._harmless))

    def _modules_of_the_program(self) -> Iterator[str]:
        """Yield the modules that were imported from the workspace since."""
        for name in reversed(sys.modules):
            if name == self._last_module:
                return
            file = getattr(sys.modules[name], "__file__", None)
            if isinstance(file, str) and file.startswith(bwrap.PRIVATE):
                yield name


def _is_plain(code: str) -> bool:
    """Whether a program's text alone shows that it makes no object whose freeing somebody could notice."""
    if any(word in code for word in _TELLING):
        return False
    imported = (part for found in _IMPORT.finditer(code) for part in found[1].partition(" import ")[0].split(","))
    return all(part.split(maxsplit=1)[0].partition(".")[0] in _PLAIN_MODULES for part in imported if part.strip())


def harmless_types() -> frozenset[type]:
    """Return all types that there are, but for those whose objects' freeing somebody could notice.

    To look into a type costs each fork copies of its pages, so that it is done here, before there are forks.
    """
    found: set[type] = {object}
    fresh: set[type] = {object}
    while fresh:
        fresh = set[type]().union(*map(type.__subclasses__, fresh)) - found
        found |= fresh
    return frozenset(kind for kind in found if not _finalizes(kind)) | {socket.socket}


def _aged() -> list[int]:
    """Return how often objects have become old, as they do when they outlast more than one collection."""
    return [generation["collections"] for generation in gc.get_stats()[1:]]


def _finalizes(kind: type) -> bool:
    return any("__del__" in vars(base) for base in type.mro(kind))


def flush() -> None:
    """Let everything printed reach the pipes, by Python or by C."""
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105 - a fork pays for each function that it calls, and this is called by every program
            stream.flush()
        except Exception:  # noqa: BLE001, S110 - the program's own stream, or none
            pass
    _flush_c_streams(None)


def _disregard_what_is_registered() -> None:
    """Have nothing called at a program's end that the machinery or a package has registered for its own."""
    atexit._clear()
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined]
        finalizer.atexit = False
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    atexit.register(logging.shutdown)
    if _PROCESSES in sys.modules:
        atexit.register(sys.modules[_PROCESSES]._exit_function)


def _restore_streams() -> None:
    for name in _STREAMS:
        setattr(sys, name, getattr(sys, f"__{name}__"))


class unraisable:
    """Go on after an error, which is written to standard error; an interrupt has its reason elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is not None and not isinstance(error, KeyboardInterrupt):
            report = "".join(traceback.format_exception(error, limit=-3))
            with contextlib.suppress(OSError):  # of a stream that the program has closed
                os.write(2, f"Exception ignored in {self._what}:\n{report}".encode(errors="replace"))
        return True
