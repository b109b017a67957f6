"""``up``, ``down`` and ``status``: the deployment that stays on this machine, and how the running one is."""

from __future__ import annotations

import json

import typer
from rich.text import Text

from actors.cli import views
from actors.cli.connection import asked, connected
from actors.cli.failures import err, out, reported
from actors.cli.options import Json
from actors.config import Settings


def up(as_json: Json = False) -> None:
    """Start a deployment that stays until [bold]down[/]; run, batch and scripts of this account then join it.

    Example: [bold]e2b-orchestrator up[/]
    """
    with reported(as_json):
        settings = Settings.load()
        with err.status("Starting Ray and the first sandboxes"):
            from actors.deployment import up_down

            found, started = up_down.up(settings, lambda: err.print("another `up` is starting; waiting"))
    if as_json:
        typer.echo(json.dumps({"started": started, "pid": found.pid, "address": found.address}))
    else:
        what = "✓ it is up" if started else "✓ it was up already"
        out.print(Text.assemble((what, "green"), f"  process {found.pid}, log {up_down.log_path(settings.namespace)}"))
        out.print(Text("try: e2b-orchestrator status    end it with: e2b-orchestrator down", style="dim"))


def down(as_json: Json = False) -> None:
    """End the deployment that [bold]up[/] started, and wait until it is gone.

    Example: [bold]e2b-orchestrator down[/]
    """
    with reported(as_json):
        namespace = Settings.load().namespace
        with err.status("Ending the deployment"):
            from actors.deployment import up_down

            ended = up_down.down(namespace)
    if as_json:
        typer.echo(json.dumps({"ended": ended}))
    else:
        out.print(Text("✓ it is down" if ended else "nothing was up", style="green" if ended else "dim"))


def status(as_json: Json = False) -> None:
    """Show how the running deployment is: health and metrics.

    Example: [bold]e2b-orchestrator status --json[/]
    """
    with reported(as_json):
        orchestrator = connected(start=False, as_json=as_json)
        health, metrics = asked([orchestrator.health.remote(), orchestrator.get_metrics.remote()])
    if as_json:
        typer.echo(json.dumps({"health": health, "metrics": metrics}, default=str))
    else:
        views.show_status(out, health, metrics)
