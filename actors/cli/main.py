"""``e2b-orchestrator``: run programs in sandboxes from the command line."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from actors.cli import files, images, render, views
from actors.cli.connection import asked, batched, completed, connected, streamed
from actors.cli.failures import EXIT_CODES, SERVICE, USAGE, err, fail, out, reported
from actors.config import Settings
from actors.schemas import ExecutionRequest, Language, Outcome

app = typer.Typer(
    name="e2b-orchestrator",
    help="Run untrusted code in sandboxes: one program, thousands, or a deployment that others join.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
sessions = typer.Typer(help="Open and close interpreters that remember; they live in the deployment that `up` starts.")
app.add_typer(sessions, name="session", no_args_is_help=True)
app.add_typer(images.app, name="image", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output, nothing else.")]
User = Annotated[str, typer.Option(help="Whom limits, fairness and isolation apply to.")]
Timeout = Annotated[float, typer.Option(help="Seconds; then the program is interrupted, and killed.")]
Cache = Annotated[bool, typer.Option("--cache/--no-cache", help="Share results of deterministic programs.")]
Env = Annotated[list[str], typer.Option("--env", help="A variable; may be repeated.", metavar="NAME=VALUE")]
Get = Annotated[
    list[str], typer.Option("--get", help="Bring a file back, by name or pattern; may be repeated.", metavar="NAME")
]
Put = Annotated[
    list[str], typer.Option("--file", help="Put a file into the workspace; may be repeated.", metavar="LOCAL[:NAME]")
]


@app.command()
def run(
    file: Annotated[str | None, typer.Argument(help="A program's file; - is standard input.", metavar="FILE")] = None,
    code: Annotated[str | None, typer.Option("-c", help="The program itself.", metavar="CODE")] = None,
    timeout: Timeout = 30.0,
    user: User = "default",
    env: Env = [],  # noqa: B006  # typer makes a list of its own for each call
    put: Put = [],  # noqa: B006
    stdin: Annotated[Path | None, typer.Option(help="A file that the program reads as its standard input.")] = None,
    get: Get = [],  # noqa: B006
    language: Annotated[
        Language | None, typer.Option(help="Of the program; else told by its file's name, or Python.")
    ] = None,
    session: Annotated[str | None, typer.Option(help="Continue this open session.", metavar="ID")] = None,
    memory: Annotated[int | None, typer.Option(help="What the program may use.", metavar="MIB")] = None,
    cache: Cache = True,
    output_dir: Annotated[Path, typer.Option(help="Where pictures and files are saved.")] = Path(),
    as_json: Json = False,
) -> None:
    """Run one program; its output appears as it comes.

    Exits with 0 if it ended well, 1 if it raised or wrote too much, 124 if it was out of time, 137 out of memory,
    139 if it crashed, 2 for a mistake in the command, 3 if the service failed, 130 when interrupted.

    Example: [bold]e2b-orchestrator run -c "print('hi')"[/]
    """
    if (file is None) == (code is None):
        fail("give either a FILE (- for standard input) or -c CODE", USAGE, as_json=as_json)
    options: dict[str, Any] = {
        "timeout_s": timeout,
        "user": user,
        "env": dict(files.variable(item) for item in env),
        "files": dict(files.uploaded(item) for item in put),
        "outputs": get,
        "language": language or files.language(file),
        "stdin": None if stdin is None else files.read(stdin),
        "session": session,
        "limits": {} if memory is None else {"memory_mib": memory},
        "cache": "auto" if cache else "off",
    }
    source = code if code is not None else files.read_text(file or "")
    with reported(as_json):
        # Before Ray is loaded, so that a mistake is told at once.
        ExecutionRequest.checked(code=source, **options)
        orchestrator = connected(start=session is None, as_json=as_json)
        if as_json:
            # Not streamed: only then may the result come from the cache.
            result = completed(orchestrator, source, options)
            typer.echo(result.model_dump_json(by_alias=True))
        else:
            result = streamed(orchestrator, source, options)
            stem = "result" if file in (None, files.STDIN) else Path(file or "").stem
            saved = [*files.save(result, output_dir, stem), *files.save_files(result, output_dir)]
            render.show_result(out, err, result, saved)
            for name, reason in result.files_missing.items():
                err.print(Text(f"{name}: {reason}", style="yellow"))
    raise typer.Exit(EXIT_CODES[result.outcome])


@app.command()
def batch(
    file: Annotated[str, typer.Argument(help="A line a program: a JSON string, or an object with code and options.")],
    user: User = "default",
    timeout: Timeout = 30.0,
    output: Annotated[Path | None, typer.Option(help="Write results here instead of to standard output.")] = None,
    cache: Cache = True,
    as_json: Json = False,
) -> None:
    """Run many programs; results come as JSON lines in the order in which they finish, each with its line and id.

    A line that is no program is named before anything runs; one with a bad option gives a rejected result. Exits with 3
    if the service failed a run, whose result says nothing about its program; else with 0.

    Example: [bold]e2b-orchestrator batch programs.jsonl --output results.jsonl[/]
    """
    lines = files.parsed(file)
    options = {"user": user, "timeout_s": timeout, "cache": "auto" if cache else "off"}
    outcomes: Counter[str] = Counter()
    with reported(as_json), ExitStack() as stack:
        ExecutionRequest.checked(code="pass", **options)
        sink = stack.enter_context(files.sink(output))
        orchestrator = connected(as_json=as_json)
        since = time.perf_counter()
        progress = stack.enter_context(views.BatchProgress(err, len(lines), shown=not as_json))
        for index, result in batched(orchestrator, [line.program for line in lines], options):
            outcomes[result.outcome.value] += 1
            sink.write(json.dumps(lines[index].origin | result.model_dump(mode="json", by_alias=True)) + "\n")
            progress.advance(outcomes)
    if not as_json:
        err.print(render.summary(outcomes, time.perf_counter() - since))
    raise typer.Exit(SERVICE if any(Outcome(name).masked for name in outcomes) else 0)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where the chart is saved, as PNG.")] = Path("loan.png"),
    as_json: Json = False,
) -> None:
    """Start everything on this machine and run a real program in a jail: a loan, its table and its chart.

    Example: [bold]e2b-orchestrator demo --output chart.png[/]
    """
    from actors.cli.demo import LOAN, TIMEOUT_S

    options = {"timeout_s": TIMEOUT_S}
    with reported(as_json):
        orchestrator = connected(as_json=as_json)
        with err.status("Running the loan in a jail"):
            result = completed(orchestrator, LOAN, options)
        saved = files.save(result, output.parent, output.stem)
        again = completed(orchestrator, LOAN, options) if result.ok else result
        metrics = asked(orchestrator.get_metrics.remote())
    if as_json:
        shown = {"result": result, "again": again}
        dumped = {name: value.model_dump(mode="json", by_alias=True) for name, value in shown.items()}
        typer.echo(json.dumps(dumped | {"saved": [str(path) for path in saved], "metrics": metrics}, default=str))
    elif not result.ok:
        render.show_result(err, err, result, saved)
    else:
        views.show_demo(out, result, again, saved, metrics)
    raise typer.Exit(EXIT_CODES[result.outcome])


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say whether this machine can jail programs; if not, exactly why and what to do. Exits with 1 if it cannot.

    Example: [bold]e2b-orchestrator doctor[/]
    """
    from dataclasses import asdict

    from actors.backends.jail.host.diagnostics import diagnose
    from actors.cli import machine

    with reported(as_json):
        settings = Settings.load()
        facts = machine.facts(settings)
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


@sessions.command("open")
def open_session(user: User = "default", as_json: Json = False) -> None:
    """Open an interpreter that keeps its state and files between runs; prints its id.

    Example: [bold]e2b-orchestrator run -c "x = 1" --session $(e2b-orchestrator session open)[/]
    """
    with reported(as_json):
        orchestrator = connected(start=False, as_json=as_json)
        session = asked(orchestrator.open_session.remote(user=user))
    typer.echo(json.dumps({"session": session}) if as_json else session)


@sessions.command("list")
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


@sessions.command("close")
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
