"""``e2b-orchestrator``, and every command of it.

What a command needs of Ray it imports when it runs: help and mistakes are answered at once.
"""

from __future__ import annotations

import typer

from actors.cli import deployment, doctor, images, programs, sessions, settings

app = typer.Typer(
    name="e2b-orchestrator",
    help="Run untrusted code in sandboxes: one program, thousands, or a deployment that others join.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
PROGRAMS, DEPLOYMENT, MACHINE = "Programs", "Deployment", "Machine"  # how the help groups them

app.command("run", rich_help_panel=PROGRAMS)(programs.run_program)
app.command("batch", rich_help_panel=PROGRAMS)(programs.run_batch)
app.command("demo", rich_help_panel=PROGRAMS)(programs.run_demo)
app.add_typer(sessions.app, name="session", no_args_is_help=True, rich_help_panel=PROGRAMS)

app.command("up", rich_help_panel=DEPLOYMENT)(deployment.up)
app.command("down", rich_help_panel=DEPLOYMENT)(deployment.down)
app.command("status", rich_help_panel=DEPLOYMENT)(deployment.status)

app.command("doctor", rich_help_panel=MACHINE)(doctor.doctor)
app.add_typer(images.app, name="image", no_args_is_help=True, rich_help_panel=MACHINE)
app.add_typer(settings.app, name="config", no_args_is_help=True, rich_help_panel=MACHINE)
