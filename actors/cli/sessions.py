"""``session``: interpreters that remember, in the deployment that ``up`` starts."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from actors.cli import views
from actors.cli.connection import asked, connected
from actors.cli.failures import out, reported
from actors.cli.options import Image, Json, User

app = typer.Typer(help="Open and close interpreters that remember; they live in the deployment that `up` starts.")


@app.command("open")
def open_session(user: User = "default", image: Image = None, as_json: Json = False) -> None:
    """Open an interpreter that keeps its state and files between runs; prints its id.

    Example: [bold]e2b-orchestrator run -c "x = 1" --session $(e2b-orchestrator session open)[/]
    """
    with reported(as_json):
        orchestrator = connected(start=False, as_json=as_json)
        session = asked(orchestrator.open_session.remote(user=user, image=image))
    typer.echo(json.dumps({"session": session}) if as_json else session)


@app.command("list")
def list_sessions(
    user: Annotated[str | None, typer.Option(help="Those of one user; else of all.")] = None, as_json: Json = False
) -> None:
    """Show the open sessions: whose they are, where they run, how long nobody has used them.

    Example: [bold]e2b-orchestrator session list[/]
    """
    with reported(as_json):
        orchestrator = connected(start=False, as_json=as_json)
        found = asked(orchestrator.list_sessions.remote(user=user))
    if as_json:
        typer.echo(json.dumps([info.model_dump() for info in found]))
    else:
        views.show_sessions(out, found)


@app.command("close")
def close_session(
    session: Annotated[str, typer.Argument(help="What open printed.", metavar="ID")],
    user: User = "default",
    as_json: Json = False,
) -> None:
    """End a session; one that is gone already is no error.

    Example: [bold]e2b-orchestrator session close 1f0c…[/]
    """
    with reported(as_json):
        orchestrator = connected(start=False, as_json=as_json)
        asked(orchestrator.close_session.remote(session, user=user))
    if as_json:
        typer.echo(json.dumps({"closed": session}))
