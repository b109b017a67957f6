"""The exit of a script: the status that its process ends with, and what it writes when an exception ends it.

Runs in interpreters, when a program ends by an exception.
"""

from __future__ import annotations

import signal
import sys
import types

from IPython.core.interactiveshell import InteractiveShell

from actors.backends.jail.inside import ending


def status(error: BaseException) -> int:
    """Return the exit status of a script that this ends; minus the signal's number if CPython ends it by a signal."""
    match error:
        case SystemExit(code=None):
            return 0
        case SystemExit(code=int(code)):
            return code & 255 if abs(code) < 2**63 else 255
        case KeyboardInterrupt():
            return -signal.SIGINT
    return 1


def tell(error: BaseException, trace: types.TracebackType | None) -> None:
    """Write what a script writes beside its traceback: the last words of ``sys.exit``, or what its own hook does."""
    if isinstance(error, SystemExit):
        if not isinstance(error.code, int):
            with ending.unraisable("the exit"):
                print(error.code, file=sys.stderr)
        return
    hook = sys.excepthook
    if hook is not sys.__excepthook__ and not isinstance(getattr(hook, "__self__", None), InteractiveShell):
        with ending.unraisable("sys.excepthook"):
            hook(type(error), error, trace)
