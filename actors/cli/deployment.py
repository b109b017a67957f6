"""``up``, ``down`` and ``status``: the deployment that stays, on this machine or on a cluster, and how it is."""

from __future__ import annotations

import json
from typing import Any

import typer
from rich.text import Text

from actors.cli import views
from actors.cli.connection import asked, cluster_address, connected, joined, started
from actors.cli.failures import err, out, reported
from actors.cli.options import Json
from actors.config import Settings


def up(as_json: Json = False) -> None:
    """Start a deployment that stays until [bold]down[/]; run, batch and scripts of this account then join it.

    It has a Ray of its own on this machine. Where RAY_ADDRESS names a cluster, it is started there, for all who join.

    Example: [bold]e2b-orchestrator up[/]
    """
    with reported(as_json):
        settings = Settings.load()
        told, where = _up_on_cluster(settings) if cluster_address() else _up_here(settings)
    if as_json:
        typer.echo(json.dumps(told))
    else:
        what = "✓ it is up" if told["started"] else "✓ it was up already"
        out.print(Text.assemble((what, "green"), f"  {where}"))
        out.print(Text("try: e2b-orchestrator status    end it with: e2b-orchestrator down", style="dim"))


def _up_here(settings: Settings) -> tuple[dict[str, Any], str]:
    with err.status("Starting Ray and the first sandboxes"):
        from actors.deployment import up_down

        found, is_new = up_down.up(settings, lambda: err.print("another `up` is starting; waiting"))
    told = {"started": is_new, "pid": found.pid, "address": found.address, "token_path": found.token_path}
    return told, f"process {found.pid}, log {up_down.log_path(settings.namespace)}"


def _up_on_cluster(settings: Settings) -> tuple[dict[str, Any], str]:
    is_new = joined(settings, start_ray=False) is None
    if is_new:
        started(settings)
    return {"started": is_new, "address": cluster_address()}, f"on the cluster at {cluster_address()}"


def down(as_json: Json = False) -> None:
    """End the deployment that [bold]up[/] started, and wait until it is gone.

    Example: [bold]e2b-orchestrator down[/]
    """
    with reported(as_json):
        settings = Settings.load()
        ended = _down_here(settings) if _is_here(settings) else _down_on_cluster(settings)
    if as_json:
        typer.echo(json.dumps({"ended": ended}))
    else:
        out.print(Text("✓ it is down" if ended else "nothing was up", style="green" if ended else "dim"))


def _is_here(settings: Settings) -> bool:
    """Whether it is what `up` started on this machine, by whichever way this shell would join it."""
    from actors.deployment import join_file

    found = join_file.read(settings.namespace)
    return not cluster_address() or (found is not None and found.address == cluster_address())


def _down_here(settings: Settings) -> bool:
    with err.status("Ending the deployment"):
        from actors.deployment import up_down

        return up_down.down(settings.namespace)


def _down_on_cluster(settings: Settings) -> bool:
    there = joined(settings, start_ray=False) is not None
    with err.status("Ending the deployment"):
        from actors.deployment.creation import end_deployment

        end_deployment(settings.namespace)
    return there


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
