"""The shell: IPython without a terminal, which runs a program's code, displays its values and words its errors.

Runs in interpreters; with its first program it is as hostile as that is.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import site
import sys
import types
from collections.abc import Callable
from typing import Any

from IPython.core import async_helpers
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.formatters import BaseFormatter, DisplayFormatter
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from traitlets.config import Config

from actors.backends.jail.inside import ending, exits, formats, magics, main_module, sources, streams, tracebacks
from actors.backends.jail.inside.displays import Displays
from actors.backends.jail.kernel import bwrap

Send = Callable[[dict[str, Any]], None]
_SHELL = "/bin/sh"
_IPYTHONS_OWN = ("open", "exit", "quit")
"""Names that are to mean what they mean in Python: IPython's ``open`` refuses standard streams."""
_LAST = ("_", "__", "___")
_NO_VALUES = ("", "", "")
_TEXT_DEPTH = 3
"""How many times the recursion limit CPython nests what it compiles; ``COMPILER_STACK_FRAME_SCALE`` in its source."""
_OWN_DEPTH = 100
"""More than the frames that lead here, which count too."""
_SEMICOLON_ENDS: Callable[[str], bool] = DisplayHook.semicolon_at_end_of_expression


def _discard(_: dict[str, Any]) -> None:
    """Send nothing: the sender of a shell that has none yet."""


class _DisplayHook(DisplayHook):
    """Sends the value of the last expression."""

    def __call__(self, result: object = None) -> None:
        if result is not None:
            Shell.instance().show_last(result)


class _Publisher(DisplayPublisher):
    """Sends what a program displays on the way."""

    def publish(
        self,
        data: dict[str, Any],
        *_: object,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **__: object,
    ) -> None:
        display_id = (transient or {}).get("display_id")
        Shell.instance().displays.show(data, display_id=display_id, update=update)

    def clear_output(self, wait: bool = False) -> None:
        Shell.instance().displays.clear(wait)


class _Formatter(DisplayFormatter):
    """Knows when it formats: a form that fails is missing, and says why on stderr; the program goes on."""

    formatting = 0

    def format(self, *args: Any, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        self.formatting += 1
        try:
            forms: tuple[dict[str, Any], dict[str, Any]] = super().format(*args, **options)  # type: ignore[no-untyped-call]
            return forms
        finally:
            self.formatting -= 1


class Shell(InteractiveShell):
    """The state of an interpreter, one in a process; ``make`` makes it."""

    displayhook_class = _DisplayHook
    display_pub_class = _Publisher
    compiler_class = sources.Compiler
    compile: sources.Compiler
    displays: Displays
    send: Send = staticmethod(_discard)
    add_package = ""
    """Words that say how to add a package to the image."""
    trivial: frozenset[type] = frozenset({int, bool, str})
    """Types whose values have no format but ``repr``, which saves asking each formatter, until one is given another."""
    execution_count = 1  # IPython's is observed, and so is slow
    names = 0
    """How many names the main module had before the program."""
    _main: main_module.MainModule | None = None
    _inputs: tuple[list[str], ...] = ()
    """Where programs are kept, if they and their values have the names of notebooks: ``In``, ``Out``, ``_1``."""
    _alone = _silent = _failed = False
    _status = _pid = 0
    _recent: tuple[object, ...] = _NO_VALUES
    """The last values, the newest first."""
    _last: dict[str, object] = {}  # noqa: RUF012 - replaced, never changed
    """What ``_``, ``__`` and ``___`` were made to mean."""

    system = InteractiveShell.system_raw  # its pipes are ours: no terminal in between, which would add to the output

    def init_display_formatter(self) -> None:
        self.display_formatter: _Formatter = _Formatter(parent=self)
        self.configurables.append(self.display_formatter)  # type: ignore[arg-type]

    set_next_input = staticmethod(magics.print_next_input)

    def enable_gui(self, gui: str | None = None) -> None:
        magics.explain_gui(gui)

    def enable_matplotlib(self, gui: str | None = None) -> Any:
        return super().enable_matplotlib(magics.shown_as(gui))  # type: ignore[no-untyped-call]

    def del_var(self, varname: str, by_name: bool = False) -> None:
        self.last_execution_result = ExecutionResult(None)  # type: ignore[no-untyped-call] # it looks into the last
        super().del_var(varname, by_name)  # type: ignore[no-untyped-call]

    def reset(self, new_session: bool = True, aggressive: bool = False) -> None:
        super().reset(new_session, aggressive)  # type: ignore[no-untyped-call]
        self._recent = _NO_VALUES

    def init_sys_modules(self) -> None:
        self._main_mod_cache: dict[str, Any] = {}
        sys.modules[self.user_module.__name__] = self.user_module

    def init_user_ns(self) -> None:
        super().init_user_ns()  # type: ignore[no-untyped-call]
        self.user_ns.update(main_module.attributes())
        for name in _IPYTHONS_OWN:
            del self.user_ns[name]

    def begin_main(self) -> None:
        """Make another main module for the programs to come, and forget the last one."""
        self._main = main = main_module.MainModule()
        self.user_module, self.user_ns = main, main.__dict__
        self.ns_table["user_global"] = self.ns_table["user_local"] = main.__dict__
        self.Completer.namespace = self.Completer.global_namespace = main.__dict__
        self.last_execution_result = None
        self._last = {}
        self.init_sys_modules()
        self.init_user_ns()

    def forget(self) -> None:
        """Remove what the first program, run unseen, has left."""
        self._last = {}
        for name in ("last_type", "last_value", "last_traceback"):
            vars(sys).pop(name, None)
        self.home_dir = bwrap.HOME
        self.user_ns["_dh"] = [bwrap.HOME]
        for name in ("_", "__", "___", "_1", "_2", "_i", "_ii", "_iii", "_i1", "_i2"):
            self.user_ns.pop(name, None)
        self.compile.forget()

    def forget_threads(self) -> None:
        """Go on in a fork, which has neither the threads of its origin nor what those waited on."""
        self.displays.forget_threads()
        async_helpers._asyncio_event_loop = None  # IPython's, for what is awaited at the top level; it makes another

    def run_program(self, code: str, *, alone: bool = False) -> int:
        """Run one program; what it displays and how it fails is sent as it happens. Return its exit status.

        One that is ``alone`` is a script: it has a file, and its end is told as that of a script.
        """
        self._alone, self._status, self._pid = alone, 0, os.getpid()
        self.names = len(self.user_ns)
        if alone and self._main is not None:
            self._main.begin(code)
        self._silent = ";" in code and _SEMICOLON_ENDS(code)
        self._failed = False
        self.compile.next()
        self.displays.begin()
        if self._inputs:
            self._keep_input(code)
        try:
            plain = self._compile_plain(code)
            if plain is None:
                self.run_cell(code, store_history=False)  # type: ignore[no-untyped-call]
            else:
                self._run_plain(plain)
        except RecursionError as error:  # of the compiler; one of the program is shown where it is run
            self.send_error(error, None)
        except KeyboardInterrupt:  # one that hits between the program's end and here
            self.send_error(KeyboardInterrupt(), None)
        return self._status

    def keep_history(self) -> None:
        """From now on keep what notebooks keep, as a session does."""
        assert self.history_manager is not None
        self._inputs = self.history_manager.input_hist_parsed, self.history_manager.input_hist_raw
        self._last = dict.fromkeys(_LAST, "")
        self.user_ns.update(self._last, _i="", _ii="", _iii="")

    def _keep_input(self, code: str) -> None:
        names = self.user_ns
        names["_iii"], names["_ii"], names["_i"] = names.get("_ii"), names.get("_i"), self._inputs[0][-1]
        for inputs in self._inputs:
            inputs.append(code)
        self.execution_count = len(inputs) - 1
        names[f"_i{self.execution_count}"] = code

    def _compile_plain(self, code: str) -> list[types.CodeType] | None:
        """Compile what is plain Python; None for what needs IPython: magics, shell commands, ``await``, wrong syntax.

        IPython's own way does the same for plain Python, but takes ten times as long: it tokenizes every program in
        Python, and compiles each statement by itself.

        Raises:
            RecursionError: it is nested too deep for CPython.
        """
        callbacks = self.events.callbacks
        if self.ast_transformers or callbacks["pre_run_cell"] or callbacks["post_run_cell"]:
            return None
        if self.logger.log_active or magics.is_automagic(self, code):
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
        tree: Any = self.compile.ast_parse(code, self.compile.name)
        last = [tree.body.pop()] if tree.body and isinstance(tree.body[-1], ast.Expr) else []
        parts = [compile_node(tree, self.compile.name, "exec")] if tree.body else []
        return parts + [compile_node(ast.Interactive([node]), self.compile.name, "single") for node in last]

    def _run_plain(self, codes: list[types.CodeType]) -> None:
        callbacks, names = self.events.callbacks, self.user_ns
        if callbacks["pre_execute"]:
            self.events.trigger("pre_execute")
        try:
            for code in codes:
                exec(code, names)  # noqa: S102 - what this is all about
        except BaseException:  # noqa: BLE001 - the program's own, and its result
            self.showtraceback()
        if callbacks["post_execute"]:
            self.events.trigger("post_execute")

    def show_last(self, value: object) -> None:
        """Send the value of the last expression, unless a semicolon ends it, and keep it as ``_``."""
        if self._silent or os.getpid() != self._pid:
            return
        self.show(value)
        if not self._inputs:
            return
        names, last, absent = self.user_ns, self._last, object()
        self._recent = (value, *self._recent)[: len(_LAST)]
        if value is not names["_oh"]:
            names["_oh"][self.execution_count] = names[f"_{self.execution_count}"] = value
        # A program may use these names for something else.
        if all(name not in names or names[name] is last.get(name, absent) for name in _LAST):
            self._last = dict(zip(_LAST, self._recent, strict=True))
            names.update(self._last)

    def show(self, value: object) -> None:
        """Send the value of an expression in all its formats."""
        if type(value) in self.trivial:
            with contextlib.suppress(ValueError):  # of a number with more digits than Python writes
                self.displays.show({"text/plain": repr(value)}, main=True)
                return
        found, _ = self.display_formatter.format(value)
        if found:  # else it has displayed itself
            self.displays.show({"text/plain": f"<{type(value).__qualname__}>"} | found, main=True)

    def showtraceback(self, exc_tuple: Any = None, *_: Any, **__: Any) -> None:
        """Send the error that is being handled; the last one, which ``%tb`` asks for, is printed."""
        value, trace = (exc_tuple or sys.exc_info())[1:]
        if value is None:
            value = getattr(sys, "last_value", None)
            if value is None:
                sys.stderr.write("No traceback available to show.\n")
            else:
                sys.stderr.write(tracebacks.report(value, sys.last_traceback, "")["traceback"])
        elif self.display_formatter.formatting:
            sys.stderr.write(tracebacks.report(value, trace, self.add_package)["traceback"])
        else:
            self.send_error(value, trace)

    def showsyntaxerror(self, *_: object, running_compiled_code: bool = False) -> None:
        value, trace = sys.exc_info()[1:]
        if value is not None:
            self.send_error(value, trace if running_compiled_code else None)

    def send_error(self, value: BaseException, trace: types.TracebackType | None) -> None:
        """Send an error with its traceback and, where there is one, a hint; leaving with status 0 is no error.

        A program fails once: a later error, as of figures that are shown at its end, is printed.
        """
        status = exits.status(value)
        if status == 0:
            return  # a program that says it is done has done nothing wrong
        own = tracebacks.own_part(trace)
        if self._alone:
            exits.tell(value, own)
        if os.getpid() != self._pid:  # the program has forked this process
            self._status = status
            if not isinstance(value, SystemExit):
                sys.__excepthook__(type(value), value, own)
            return
        report = tracebacks.report(value, trace, self.add_package)
        ending.flush()
        if self._failed:
            sys.stderr.write(report["traceback"])
            return
        self._failed, self._status = True, status
        sys.last_type, sys.last_value, sys.last_traceback = type(value), value, own
        self.send(report)


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
    shell.displays = Displays(send, ending.flush)
    os.system = _system
    # For good, not for each program anew: here nothing but programs is run.
    shell.builtin_trap.__enter__()
    _add_builtins()
    shell.display_trap.__enter__()
    formats.register(shell.display_formatter)
    sources.find_classes()
    magics.add_to(shell)
    _notice_formatters(shell)
    shell.run_program(
        "import json, re, math, datetime, collections, itertools, functools, subprocess, asyncio, decimal"
    )
    return shell


def _system(command: Any) -> int:
    """Run a shell command and return its wait status, as ``os.system`` does.

    That one has interrupts ignored meanwhile: a program out of time that calls it in a loop would never hear of it.
    """
    sys.audit("os.system", os.fsencode(command))
    pid = os.posix_spawn(_SHELL, ["sh", "-c", command], os.environ)
    return os.waitpid(pid, 0)[1]


def _add_builtins() -> None:
    """Add what ``site`` adds, without all else that it does."""
    site.setquit()
    site.setcopyright()
    site.sethelper()


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
