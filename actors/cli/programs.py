"""``run``, ``batch`` and ``demo``: commands that run programs."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from actors.cli import files, render, views
from actors.cli.connection import asked, batched, completed, connected, streamed
from actors.cli.failures import EXIT_CODES, SERVICE, USAGE, err, fail, out, reported
from actors.cli.options import Cache, Image, Json, Timeout, User
from actors.schemas import ExecutionRequest, Language, Outcome

Env = Annotated[list[str], typer.Option("--env", help="A variable; may be repeated.", metavar="NAME=VALUE")]
Get = Annotated[
    list[str], typer.Option("--get", help="Bring a file back, by name or pattern; may be repeated.", metavar="NAME")
]
Put = Annotated[
    list[str], typer.Option("--file", help="Put a file into the workspace; may be repeated.", metavar="LOCAL[:NAME]")
]


def run_program(
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
    image: Image = None,
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
        "image": image,
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
            typer.echo(json.dumps(result.model_dump(mode="json", by_alias=True)))
        else:
            result = streamed(orchestrator, source, options)
            stem = "result" if file in (None, files.STDIN) else Path(file or "").stem
            saved = [*files.save(result, output_dir, stem), *files.save_files(result, output_dir)]
            render.show_result(out, err, result, saved)
            for name, reason in result.files_missing.items():
                err.print(Text(f"{name}: {reason}", style="yellow"))
    raise typer.Exit(EXIT_CODES[result.outcome])


def run_batch(
    file: Annotated[str, typer.Argument(help="A line a program: a JSON string, or an object with code and options.")],
    user: User = "default",
    timeout: Timeout = 30.0,
    output: Annotated[Path | None, typer.Option(help="Write results here instead of to standard output.")] = None,
    cache: Cache = True,
    as_json: Json = False,
) -> None:
    """Run many programs; results come as JSON lines in the order in which they finish, each with its line and id.

    A line that is no program, or has a wrong option, is named before anything runs. Exits with 3 if the service failed
    a run, whose result says nothing about its program; else with 0.

    Example: [bold]e2b-orchestrator batch programs.jsonl --output results.jsonl[/]
    """
    lines = files.parsed(file)
    options = {"user": user, "timeout_s": timeout, "cache": "auto" if cache else "off"}
    outcomes: Counter[str] = Counter()
    with reported(as_json), ExitStack() as stack:
        ExecutionRequest.checked(code="", **options)
        files.check(file, lines, options, as_json)
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


def run_demo(
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
