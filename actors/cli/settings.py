"""``config``: the settings that hold here, and what there is to set."""

from __future__ import annotations

import json

import typer
import yaml

from actors.cli.failures import reported
from actors.cli.options import Json
from actors.config import Settings

ACCOUNT = {"e2b_api_key", "e2b_template_id"}
"""What is only ever read from variables of E2B's own."""
app = typer.Typer(help="Show the settings that a deployment started here would have, or all that there are.")


@app.command("show")
def show(as_json: Json = False) -> None:
    """Print the settings that this shell gives a deployment, as the YAML file that would; E2B's account is left out.

    Example: [bold]e2b-orchestrator config show > orchestrator.yaml[/]
    """
    with reported(as_json):
        settings = Settings.load().model_dump(mode="json", exclude=ACCOUNT)
    if as_json:
        typer.echo(json.dumps(settings))
    else:
        typer.echo(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).rstrip())


@app.command("docs")
def document() -> None:
    """Print every setting with its variable, type, default and meaning, as Markdown.

    Example: [bold]e2b-orchestrator config docs > docs/configuration.md[/]
    """
    from actors.cli.settings_docs import markdown

    typer.echo(markdown(), nl=False)
