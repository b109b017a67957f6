"""The warm-up of a zygote: it imports and rehearses what programs are likely to need, so that forks begin with it.

Runs once in each zygote, with the rights of the jail server, before any program is there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib import machinery
from typing import Any

from actors.backends.jail.inside import main_module
from actors.backends.jail.inside.interpreter import Interpreter
from actors.backends.jail.kernel import bwrap

_STANDARD = ("/usr/local/bin", "/usr/bin", "/bin")
_OPTIONS = {
    "isolated": 0,
    "no_site": 0,
    "no_user_site": 0,
    "ignore_environment": 0,
    "safe_path": False,
    "dont_write_bytecode": 1,  # by the environment of programs
}
_HOMES = ("HOME", "TMPDIR", "MPLCONFIGDIR", "IPYTHONDIR", "XDG_CACHE_HOME")


def environment(config: dict[str, Any]) -> dict[str, str]:
    """Return what every program finds in its environment, before its own variables."""
    return {
        "HOME": bwrap.HOME,
        "USER": bwrap.USER,
        "PATH": ":".join(_program_directories(config)),
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",  # noqa: S108 - the jail's own
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MPLCONFIGDIR": "/tmp/matplotlib",  # noqa: S108
        # A page that fetches the script, where the default brings 4 MB of it along.
        "PLOTLY_RENDERER": "plotly_mimetype+colab",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": _installed("purelib", config["python"]),
        "PIP_PREFIX": bwrap.INSTALLED,
        # There is no network to try again on.
        "PIP_RETRIES": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "NPM_CONFIG_FETCH_RETRIES": "0",
        "NPM_CONFIG_UPDATE_NOTIFIER": "false",
        "NPM_CONFIG_CACHE": "/tmp/npm",  # noqa: S108
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "BUILD_TAG": config["build_tag"],
        # The plugin of this very package, where an environment has both: it is for tests outside.
        "PYTEST_ADDOPTS": "-p no:e2b_orchestrator",
    }


def _program_directories(config: dict[str, Any]) -> list[str]:
    programs = (config["python"], *config["links"], *config["languages"].values())
    own = [os.path.dirname(program) for program in programs]
    return [
        _installed("scripts", config["python"]),
        *dict.fromkeys(path for path in own if path not in _STANDARD),
        *_STANDARD,
    ]


def _installed(what: str, python: str) -> str:
    """Return where the pip of this Python puts ``purelib`` or ``scripts`` of the packages that a program installs.

    This process does not know whether that Python is of a virtual environment, and Debian's has other places if not.
    """
    virtual = os.path.exists(os.path.join(os.path.dirname(os.path.dirname(python)), "pyvenv.cfg"))
    scheme = "venv" if virtual else sysconfig.get_preferred_scheme("prefix")
    prefix = dict.fromkeys(("base", "platbase", "installed_base", "installed_platbase"), bwrap.INSTALLED)
    return sysconfig.get_path(what, scheme, prefix)


def interpreter(config: dict[str, Any], packages: tuple[str, ...]) -> Interpreter:
    """Make an interpreter with the standard modules that most programs use, and those packages that are installed."""
    _seem_started_without_options(config["python"])
    with _scratch(config):
        made = Interpreter(config["languages"], config["add_package"])
        made.load(packages)
        made.practise()
        return made


def _seem_started_without_options(python: str) -> None:
    """Have ``sys`` say nothing of this process's options, which programs would hand on to Pythons that they start."""
    sys.executable, sys.argv[:], sys.orig_argv[:] = python, [main_module.NAME], [python, main_module.NAME]
    sys.dont_write_bytecode = True
    names = type(sys.flags).__match_args__
    for name, value in _OPTIONS.items():
        # No part of Python changes these; a tuple's items are set like this before anybody sees it.
        held = ctypes.py_object(value)
        ctypes.pythonapi.Py_IncRef(held)
        ctypes.pythonapi.PyStructSequence_SetItem(
            ctypes.py_object(sys.flags), ctypes.c_ssize_t(names.index(name)), held
        )


def finish(config: dict[str, Any]) -> None:
    """Hide the service's own modules; let programs import from their home, and what they install once it is there."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "actors"]:
        del sys.modules[name]
    sys.path.insert(0, bwrap.HOME)
    sys.path_importer_cache.pop(bwrap.HOME, None)
    installed = _installed("purelib", config["python"])
    sys.path.insert(1, installed)
    # Made here, since for a directory that is not there Python notes that nothing will ever be.
    sys.path_importer_cache[installed] = machinery.FileFinder(
        installed,
        (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
        (machinery.SourceFileLoader, machinery.SOURCE_SUFFIXES),
        (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
    )


@contextlib.contextmanager
def _scratch(config: dict[str, Any]) -> Iterator[None]:
    """Give modules that write files when imported a home that is removed afterwards."""
    os.environ.update(environment(config))
    with tempfile.TemporaryDirectory(prefix="e2b-jail-") as scratch:
        os.environ.update(dict.fromkeys(_HOMES, scratch))
        yield
    for name in _HOMES:
        del os.environ[name]
    tempfile.tempdir = None
    os.environ.update(environment(config))
