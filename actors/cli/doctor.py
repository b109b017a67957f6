"""``doctor``: whether this machine can jail programs, and what there is on it for running them."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import psutil
import typer

from actors.cli import views
from actors.cli.failures import err, out, reported
from actors.cli.options import Json
from actors.config import Settings

PACKAGE = "e2b-orchestrator"


def doctor(as_json: Json = False) -> None:
    """Say whether this machine can jail programs; if not, exactly why and what to do. Exits with 1 if it cannot.

    Example: [bold]e2b-orchestrator doctor[/]
    """
    from actors.backends.jail.host.diagnostics import diagnose

    with reported(as_json):
        settings = Settings.load()
        facts = machine_facts(settings)
        with err.status("Building a jail and attacking it"):
            checks = diagnose(settings.jail, settings.limits)
    # None is advice: jails work without, only less well.
    able = all(check.ok is not False for check in checks)
    if as_json:
        typer.echo(json.dumps({"able": able, "machine": facts, "checks": [asdict(check) for check in checks]}))
    else:
        marks = [(check.ok, check.name, check.detail, check.hint) for check in checks]
        views.show_diagnosis(out, able, facts, marks)
    raise typer.Exit(0 if able else 1)


def machine_facts(settings: Settings) -> dict[str, str]:
    """Versions, cores, memory and modules by name, looked up without Ray."""
    modules = settings.jail.preload
    found = [name for name in modules if find_spec(name.partition(".")[0]) is not None]
    return {
        PACKAGE: _installed(PACKAGE),
        "python": platform.python_version(),
        "ray": _installed("ray"),
        # Those that this process may use, which in a container are fewer than the machine has.
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
        "preloaded": ", ".join(found) or "nothing beside the standard library",
    }


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
