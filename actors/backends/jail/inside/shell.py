"""The shell: IPython without a terminal, which runs a program's code, displays its values and words its errors.

Runs in interpreters; with its first program it is as hostile as that is.
"""

from __future__ import annotations

import ast
import base64
import codeop
import contextlib
import ctypes
import importlib
import json
import linecache
import os
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

import IPython
from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.formatters import BaseFormatter
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from actors.backends.jail.inside import formats, hints, streams
from actors.backends.jail.kernel import bwrap

Send = Callable[[dict[str, Any]], None]
MAX_TEXT = 1_000_000
"""Most characters of a value in a textual format; the rest is cut."""
MAX_BINARY = 10_000_000
"""Most characters of base64 of an image; a larger one is dropped, for half an image is none."""
_FRAMES_SHOWN = 40
_PROGRAM = "<program>"
_CELL_EVENTS = ("pre_run_cell", "post_run_cell")
_OWN_FILES = (os.path.dirname(IPython.__file__), __file__, codeop.__file__, "<frozen runpy>")
_LIBC = ctypes.CDLL(None)
_BINARY = ("image/", "application/pdf")
_LAST = ("_", "__", "___")
_TEXT_DEPTH = 3
"""How many times the recursion limit CPython nests what it compiles; ``COMPILER_STACK_FRAME_SCALE`` in its source."""
_OWN_DEPTH = 100
"""More than the frames that lead here, which count too."""
_SEMICOLON_ENDS: Callable[[str], bool] = DisplayHook.semicolon_at_end_of_expression


def _discard(_: dict[str, Any]) -> None:
    """Send nothing: the sender of a shell that has none yet."""


class _Compiler(CachingCompiler):
    def get_code_name(self, *_: object) -> str:
        return _PROGRAM


class _DisplayHook(DisplayHook):
    """Sends the value of the last expression."""

    def __call__(self, result: object = None) -> None:
        if result is not None:
            Shell.instance().show_last(result)


class _Publisher(DisplayPublisher):
    """Sends what a program displays on the way."""

    def publish(self, data: dict[str, Any], *_: object, **__: object) -> None:
        Shell.instance().send_result(data, main=False)

    def clear_output(self, wait: bool = False) -> None:
        """Do nothing: what was sent cannot be taken back."""


class Shell(InteractiveShell):
    """The state of an interpreter, one in a process; ``make`` makes it."""

    displayhook_class = _DisplayHook
    display_pub_class = _Publisher
    compiler_class = _Compiler
    send: Send = staticmethod(_discard)
    add_package = ""
    """Words that say how to add a package to the image."""
    trivial: frozenset[type] = frozenset({int, bool, str})
    """Types whose values have no format but ``repr``, which saves asking each formatter, until one is given another."""
    _silent = False
    _last: dict[str, object] = {}  # noqa: RUF012 - replaced, never changed

    system = InteractiveShell.system_raw  # its pipes are ours: no terminal in between, which would add to the output

    def init_sys_modules(self) -> None:
        self._main_mod_cache: dict[str, Any] = {}
        sys.modules[self.user_module.__name__] = self.user_module

    def init_user_ns(self) -> None:
        super().init_user_ns()  # type: ignore[no-untyped-call]
        self.user_ns["exit"] = self.user_ns["quit"] = sys.exit  # IPython's own end a terminal session
        del self.user_ns["open"]  # IPython's own refuses standard streams

    def forget(self) -> None:
        """Remove what the first program, run unseen, has left."""
        self._last = {}
        self.home_dir = bwrap.HOME
        self.user_ns["_dh"] = [bwrap.HOME]
        for name in ("_", "__", "___", "_1", "_2", "_i", "_ii", "_iii", "_i1", "_i2"):
            self.user_ns.pop(name, None)
        linecache.cache.pop(_PROGRAM, None)

    def run_program(self, code: str) -> None:
        """Run one program; what it displays and how it fails is sent as it happens."""
        self._silent = ";" in code and _SEMICOLON_ENDS(code)
        with contextlib.suppress(KeyboardInterrupt):  # one that hits between the program's end and here
            try:
                plain = self._compile_plain(code)
                if plain is None:
                    self.run_cell(code, store_history=False)  # type: ignore[no-untyped-call]
                else:
                    self._run_plain(plain)
            except RecursionError as error:  # of the compiler; one of the program is shown where it is run
                self.send_error(error, None)
            return
        self.send({"kind": "error", "name": "KeyboardInterrupt", "value": "", "traceback": "KeyboardInterrupt"})

    def _compile_plain(self, code: str) -> list[types.CodeType] | None:
        """Compile what is plain Python; None for what needs IPython: magics, shell commands, ``await``, wrong syntax.

        IPython's own way does the same for plain Python, but takes ten times as long: it tokenizes every program in
        Python, and compiles each statement by itself.

        Raises:
            RecursionError: it is nested too deep for CPython.
        """
        if self.ast_transformers or any(self.events.callbacks[event] for event in _CELL_EVENTS):
            return None
        try:
            try:
                plain = self._compile_parts(code)
            except RecursionError:
                plain = self._compile_deep(code)
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 - whatever the compiler has against it, IPython says it
            return None
        self.compile.cache(code)
        return plain

    def _compile_deep(self, code: str) -> list[types.CodeType]:
        """Compile what CPython takes as text but not as a tree, which it lets be a third as deep."""
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(_TEXT_DEPTH * limit + _OWN_DEPTH)
        try:
            return self._compile_parts(code)
        except RecursionError:
            raise RecursionError("maximum recursion depth exceeded during compilation") from None
        finally:
            sys.setrecursionlimit(limit)

    def _compile_parts(self, code: str) -> list[types.CodeType]:
        """Compile the statements, and apart from them a last expression, which displays its value."""
        compile_node: Any = self.compile  # takes trees as well as text
        tree: Any = self.compile.ast_parse(code, _PROGRAM)
        last = [tree.body.pop()] if tree.body and isinstance(tree.body[-1], ast.Expr) else []
        parts = [compile_node(tree, _PROGRAM, "exec")] if tree.body else []
        return parts + [compile_node(ast.Interactive([node]), _PROGRAM, "single") for node in last]

    def _run_plain(self, codes: list[types.CodeType]) -> None:
        self.events.trigger("pre_execute")
        try:
            for code in codes:
                exec(code, self.user_global_ns, self.user_ns)  # noqa: S102 - what this is all about
        except BaseException:  # noqa: BLE001 - the program's own, and its result
            self.showtraceback()
        self.events.trigger("post_execute")

    def show_last(self, value: object) -> None:
        """Send the value of the last expression, unless a semicolon ends it, and keep it as ``_``."""
        if self._silent:
            return
        self.show(value)
        absent = object()
        # A program may use these names for something else.
        if all(self.user_ns.get(name, absent) is self._last.get(name, absent) for name in _LAST):
            self._last = dict(zip(_LAST, (value, *self._last.values()), strict=False))
            self.user_ns.update(self._last)

    def show(self, value: object) -> None:
        """Send the value of an expression in all its formats."""
        if type(value) in self.trivial:
            self.send_result({"text/plain": repr(value)}, main=True)
            return
        assert self.display_formatter is not None
        found, _ = self.display_formatter.format(value)  # type: ignore[no-untyped-call]
        if found:  # else it has displayed itself
            self.send_result({"text/plain": f"<{type(value).__qualname__}>"} | found, main=True)

    def flush(self) -> None:
        """Let everything printed reach the pipes, by Python or by C."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        _LIBC.fflush(None)

    def send_result(self, data: dict[str, Any], main: bool) -> None:
        """Send a value by its formats; ``main`` is the value of the program's last expression."""
        sent = {}
        for kind, value in data.items():
            if isinstance(value, bytes) and kind.startswith(_BINARY):
                value = base64.b64encode(value).decode()
            if isinstance(value, bytes):
                continue  # nothing that is known to be bytes
            if isinstance(value, str):
                if kind.startswith(_BINARY) and kind != "image/svg+xml":
                    if len(value) > MAX_BINARY:
                        continue
                elif len(value) > MAX_TEXT:
                    value = f"{value[:MAX_TEXT]}\n[… truncated: {len(value)} characters in all]"
            else:
                value = _as_json(value)
            sent[kind] = value
        self.flush()
        self.send({"kind": "result", "main": main, "formats": sent})

    def showtraceback(self, *_: object, **__: object) -> None:
        """Send the error with its traceback, without the frames of this machinery."""
        kind, value, trace = sys.exc_info()
        if kind is None or value is None:
            return
        self.send_error(value, trace)

    def showsyntaxerror(self, *_: object, running_compiled_code: bool = False) -> None:
        value, trace = sys.exc_info()[1:]
        if value is not None:
            self.send_error(value, trace if running_compiled_code else None)

    def send_error(self, value: BaseException, trace: types.TracebackType | None) -> None:
        """Send an error with its traceback and, where there is one, a hint; leaving without a status is no error."""
        if isinstance(value, SystemExit) and value.code in (None, 0):
            return  # a program that says it is done has done nothing wrong
        try:
            text = str(value)
        except BaseException as error:  # noqa: BLE001 - the program's own code, which may raise anything
            text = f"<str() failed: {type(error).__name__}>"
        if (note := hints.on(value, self.add_package)) is not None:
            value.add_note(note)
        report = traceback.TracebackException(type(value), value, _own_part(trace), limit=-_FRAMES_SHOWN, compact=True)
        _leave_out_internals(report)
        self.flush()
        self.send(
            {
                "kind": "error",
                "name": type(value).__name__,
                "value": text[:MAX_TEXT],
                "traceback": "".join(report.format())[:MAX_TEXT],
            }
        )


def _as_json(value: object) -> object:
    """Return data as JSON has it: the numbers of packages as Python's own, what JSON lacks as text."""

    def convert(part: Any) -> object:
        return part.tolist() if callable(getattr(part, "tolist", None)) else str(part)

    try:
        return json.loads(json.dumps(value, default=convert))
    except (TypeError, ValueError, RecursionError) as error:  # keys that are no text, or it contains itself
        return f"<not JSON: {error}>"


def _own_part(trace: types.TracebackType | None) -> types.TracebackType | None:
    """Skip the frames that led to the program."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
        trace = trace.tb_next
    return trace


def _leave_out_internals(report: traceback.TracebackException) -> None:
    """Remove the frames of IPython's magics, from every error of a chain."""
    left: list[traceback.TracebackException | None] = [report]
    while left:
        if (error := left.pop()) is not None:
            kept = [frame for frame in error.stack if not frame.filename.startswith(_OWN_FILES)]
            error.stack = traceback.StackSummary.from_list(kept)
            left += [error.__cause__, error.__context__, *(error.exceptions or ())]


def make(send: Send, add_package: str) -> Shell:
    """Make the shell, which gives ``send`` what programs display and how they fail, and import what most will."""
    streams.make()
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.cache_size = 0
    config.InteractiveShell.xmode = "Plain"
    shell: Shell = Shell.instance(config=config)
    shell.send, shell.add_package = send, add_package
    # For good, not for each program anew: here nothing but programs is run.
    shell.builtin_trap.__enter__()
    shell.display_trap.__enter__()
    assert shell.display_formatter is not None
    formats.register(shell.display_formatter)
    _notice_formatters(shell)
    shell.run_program(
        "import json, re, math, datetime, collections, itertools, functools, subprocess, asyncio, decimal"
    )
    return shell


def _notice_formatters(shell: Shell) -> None:
    """Have even trivial values formatted as soon as a formatter is told how to show their type, or one by its name."""
    ask = BaseFormatter.for_type

    def for_type(self: BaseFormatter, kind: type | str, printer: object = None) -> object:
        if printer is not None and (isinstance(kind, str) or kind in shell.trivial):
            shell.trivial = frozenset()
        return ask(self, kind, printer)  # type: ignore[no-untyped-call]

    BaseFormatter.for_type = for_type  # type: ignore[method-assign]


def load(packages: tuple[str, ...]) -> None:
    """Import packages on top, as far as they are installed."""
    for name in packages:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    shell = Shell.instance()
    if "matplotlib.pyplot" in sys.modules:
        from matplotlib_inline.backend_inline import configure_inline_support

        configure_inline_support(shell, os.environ["MPLBACKEND"])  # type: ignore[no-untyped-call]
