"""``e2b-orchestrator image``: build, list and verify what sandboxes contain."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from actors.backends.images import catalogue, store
from actors.cli.failures import err, out, reported
from actors.cli.options import Json
from actors.config import Settings

app = typer.Typer(help="Build, list and verify images: what sandboxes contain.")

_WIDTH = 100


@app.command("build")
def build(
    name: Annotated[str, typer.Argument(help="One of the list's.")] = "science",
    tag: Annotated[str | None, typer.Option(help="The BUILD_TAG; else derived from what the image contains.")] = None,
    python: Annotated[str | None, typer.Option(help="The Python to build with; else the one that runs this.")] = None,
    as_json: Json = False,
) -> None:
    """Build an image in an environment of its own, and try every package of it in a jail.

    Deployments that use it go over to it by themselves.

    Example: [bold]e2b-orchestrator image build science[/]
    """
    from actors.backends.images import builder

    with reported(as_json):
        settings = Settings.load()
        image = catalogue.find(name, settings.images.file)
        since = time.monotonic()
        with err.status(f"Building {name}: {len(image.packages)} packages") as status:

            def tell(line: str) -> None:
                if line:
                    status.update(Text(f"Building {name}, {time.monotonic() - since:.0f} s: {line[:_WIDTH]}"))

            manifest = builder.build(image, settings.images, tag=tag, python=python, tell=tell)
        findings = _tried(settings, name)
    if as_json:
        typer.echo(json.dumps({"name": name, "tag": manifest.tag, "mib": round(manifest.mib), "modules": findings}))
    else:
        took = f"{time.monotonic() - since:.0f} s, {manifest.mib:,.0f} MiB, BUILD_TAG {manifest.tag}"
        out.print(Text.assemble((f"✓ {name} is built", "green"), f"  {took}"))
        _show_failures(findings)
        out.print(Text(f"use it: ORCHESTRATOR_JAIL__IMAGE={name} e2b-orchestrator up", style="dim"))
    raise typer.Exit(1 if any(findings.values()) else 0)


@app.command("list")
def show(as_json: Json = False) -> None:
    """Show the images that there are, and which of them are built here.

    Example: [bold]e2b-orchestrator image list[/]
    """
    with reported(as_json):
        settings = Settings.load()
        images = catalogue.read(settings.images.file)
        built = {name: store.built(settings.images, name) for name in images}
    used = {row.image for row in settings.backends.values()}
    rows = [_row(image, built[name], name in used) for name, image in images.items()]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("image", "packages", "BUILD_TAG", "size", "", box=None, pad_edge=False)
    for row in rows:
        state = Text("in use", style="green") if row["used"] else Text("" if row["tag"] else "not built", style="dim")
        if row["tag"] and row["outdated"]:
            state = Text.assemble(state, (" the list has changed since: build it again", "yellow"))
        size = f"{row['mib']:,} MiB" if row["tag"] else ""
        table.add_row(Text(row["name"], style="bold"), str(len(row["packages"])), row["tag"] or "", size, state)
        table.add_row("", Text(row["description"], style="dim"))
    out.print(table)
    if used == {None}:
        out.print(Text("Sandboxes hold what this environment does; ORCHESTRATOR_JAIL__IMAGE chooses an image.", "dim"))


@app.command("verify")
def verify(
    name: Annotated[str | None, typer.Argument(help="A built image; else what sandboxes hold now.")] = None,
    as_json: Json = False,
) -> None:
    """Import every package of an image in a jail made from it, and see that the jail reads its BUILD_TAG.

    Exits with 1 if something is missing.

    Example: [bold]e2b-orchestrator image verify science[/]
    """
    with reported(as_json):
        settings = Settings.load()
        name = name or settings.jail.image
        with err.status("Importing every package in a jail"):
            findings = _tried(settings, name)
    able = not any(findings.values())
    if as_json:
        typer.echo(json.dumps({"name": name, "able": able, "modules": findings}))
    else:
        _show_failures(findings)
        if able:
            out.print(Text(f"✓ all {len(findings)} packages of {name or 'this environment'} work", style="green"))
    raise typer.Exit(0 if able else 1)


def _tried(settings: Settings, name: str | None) -> dict[str, str | None]:
    """What is wrong with each package of an image, as a jail finds it."""
    from actors.backends.jail.host.image_trial import trial

    used = settings.jail.model_copy(update={"image": name})
    return asyncio.run(trial(used, settings.limits, settings.images))


def _row(image: catalogue.Image, manifest: store.Manifest | None, used: bool) -> dict[str, Any]:
    return {
        "name": image.name,
        "description": image.description,
        "packages": list(image.packages),
        "tag": manifest.tag if manifest else None,
        "mib": round(manifest.mib) if manifest else None,
        "outdated": manifest is not None and manifest.requirements != image.packages,
        "python": manifest.layout.python if manifest else None,
        "used": used,
    }


def _show_failures(findings: dict[str, str | None]) -> None:
    for package, problem in findings.items():
        if problem:
            out.print(Text.assemble(("✗ ", "red"), (package, "bold"), f"  {problem}"))
