"""The IPython interpreter in a jail: runs one program at a time and says, in frames, what it displayed.

Text goes straight to the pipes; only results, the error and the end of a program are frames.
"""

from __future__ import annotations

import base64
import gc
import json
import os
import signal
import socket
import sys
import traceback
import types
from pathlib import Path
from typing import Any

import IPython.core.interactiveshell
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from . import frames

MAX_TEXT = 2**20
MAX_BINARY = 10 * 2**20
MAX_FRAMES = 15
"""Of a traceback."""
_BINARY = ("image/png", "image/jpeg", "application/pdf")
_control = -1
_nonce = ""


def _send_result(data: dict[str, Any], main: bool) -> None:
    kept: dict[str, Any] = {}
    for mime, value in data.items():
        if isinstance(value, bytes):
            value = base64.b64encode(value).decode()
        limit = MAX_BINARY if mime in _BINARY else MAX_TEXT
        if isinstance(value, str):
            if len(value) > limit:
                if mime in _BINARY:
                    continue
                value = value[:limit] + f"\n[… truncated: {len(value)} characters in all]"
        elif len(json.dumps(value)) > limit:
            continue
        kept[mime] = value
    if kept:
        sys.stdout.flush()
        sys.stderr.flush()
        frames.write(_control, {"kind": "result", "main": main, "data": kept})


class Hook(DisplayHook):
    """Of the last expression's value."""

    def write_output_prompt(self) -> None: ...

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        _send_result(format_dict, main=True)

    def finish_displayhook(self) -> None: ...


class Publisher(DisplayPublisher):
    def publish(
        self, data: dict[str, Any], metadata: Any = None, *, transient: Any = None, update: bool = False, **_: Any
    ) -> None:
        _send_result(data, main=False)

    def clear_output(self, wait: bool = False) -> None: ...


class Shell(InteractiveShell):
    """IPython without a terminal, a history or threads."""

    displayhook_class = Hook
    display_pub_class = Publisher

    def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None: ...

    def enable_gui(self, gui: Any = None) -> None: ...

    def system(self, cmd: str) -> None:
        import subprocess

        sys.stdout.flush()
        self.user_ns["_exit_code"] = subprocess.call(cmd, shell=True)  # noqa: S602

    def init_virtualenv(self) -> None: ...


def make_shell() -> Shell:
    """Build the shell and warm up what every program touches; called once, in the zygote."""
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.xmode = "Context"
    config.InteractiveShell.autoindent = False
    config.InteractiveShell.logstart = False
    config.InteractiveShell.cache_size = 0
    shell = Shell.instance(config=config)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    shell.user_module = module
    shell.user_ns = module.__dict__
    shell.init_user_ns()
    formatter = shell.display_formatter
    if "matplotlib" in sys.modules:
        from matplotlib_inline.backend_inline import configure_inline_support, flush_figures

        shell.enable_matplotlib("inline")
        configure_inline_support(shell, "module://matplotlib_inline.backend_inline")
        del flush_figures
    formatter.ipython_display_formatter.enabled = True
    return shell


def warm_up(shell: Shell) -> None:
    """Run what imports lazily, with the output thrown away."""
    global _control
    _control = os.open(os.devnull, os.O_WRONLY)
    programs = ["1+1", "print(1)", "1/0", "x = [1]\nx"]
    if "pandas" in sys.modules:
        programs.append("import pandas as _pd\n_pd.DataFrame({'a': [1, 2]}).groupby('a').size()\ndel _pd")
    if "matplotlib" in sys.modules:
        programs.append("import matplotlib.pyplot as _p\n_p.figure(); _p.plot([1]); _p.show(); del _p")
    stdout, stderr = sys.stdout, sys.stderr
    with open(os.devnull, "w") as sink:
        sys.stdout = sys.stderr = sink
        try:
            for program in programs:
                result = shell.run_cell(program, store_history=False)
                if result.error_in_exec is not None:
                    _describe(result.error_in_exec)
        finally:
            sys.stdout, sys.stderr = stdout, stderr
    for name in ("x", "_", "__", "___"):
        shell.user_ns.pop(name, None)
    os.close(_control)
    gc.collect()
    gc.freeze()


_shell: Shell | None = None


def prepare() -> None:
    """In the zygote: make the shell that every interpreter is a fork of."""
    global _shell
    _shell = make_shell()
    warm_up(_shell)


def main(control: int) -> None:
    """Serve programs until the control channel closes."""
    global _control, _nonce
    _control = control
    assert _shell is not None
    # The pipes of this fork, not the streams of the zygote.
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1 << 13, closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Writes to the pages that every program writes to, now rather than when one waits.
    _shell.run_cell("None", store_history=False, silent=True)
    frames.write(control, {"kind": "ready"})
    channel = socket.socket(fileno=control)
    while True:
        message, fds = frames.read(channel)
        if message is None:
            return
        if message["kind"] == "tag":
            frames.write(control, {"kind": "tag", "tag": Path("/etc/build-tag").read_text()})
            continue
        _nonce = message["nonce"]
        _take_stdin(fds)
        error = _run(message)
        sys.stdout.flush()
        sys.stderr.flush()
        frames.write(control, {"kind": "done", "nonce": _nonce, "error": error})


def _take_stdin(fds: list[int]) -> None:
    for fd in fds:
        os.dup2(fd, 0)
        os.close(fd)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)


def _run(message: dict[str, Any]) -> dict[str, str] | None:
    shell = _shell
    assert shell is not None
    for name, content in message["files"].items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))
    before = dict(os.environ)
    os.environ.update(message["env"])
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        result = shell.run_cell(message["code"], store_history=False)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for name in message["env"]:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)
    error = result.error_before_exec or result.error_in_exec
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return None
    return _describe(error)


def _describe(error: BaseException) -> dict[str, str]:
    """Name, value and a traceback of the program's own frames."""
    hidden = (IPython.core.interactiveshell.__file__, __file__)
    try:
        value = str(error)[:MAX_TEXT]
    except BaseException as broken:  # noqa: BLE001  # a program's own __str__
        value = f"<{type(broken).__name__} in __str__>"
    try:
        steps = [step for step in traceback.extract_tb(error.__traceback__) if step.filename not in hidden]
        shown = steps if len(steps) <= 2 * MAX_FRAMES else steps[:MAX_FRAMES] + steps[-MAX_FRAMES:]
        lines = ["Traceback (most recent call last):\n", *traceback.format_list(shown)] if shown else []
        if len(steps) > len(shown):
            lines.insert(1 + MAX_FRAMES, f"  [… {len(steps) - len(shown)} more frames]\n")
        only = traceback.TracebackException(type(error), error, None, compact=True)
        text = "".join([*lines, *only.format_exception_only()])
    except BaseException as broken:  # noqa: BLE001
        text = f"{type(error).__name__} (its traceback could not be made: {type(broken).__name__})"
    return {"name": type(error).__name__, "value": value, "traceback": text[:MAX_TEXT]}
