"""``e2b-orchestrator``: run programs in sandboxes from the command line."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from actors import render
from actors.config import Settings
from actors.errors import ConfigurationError, InvalidRequest, ServiceError
from actors.schemas import ExecutionRequest, ExecutionResult, Outcome, OutputEvent

app = typer.Typer(
    name="e2b-orchestrator",
    help="Run untrusted code in sandboxes: one program, thousands, or a deployment that others join.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)

USAGE, SERVICE, INTERRUPTED = 2, 3, 130
EXIT_CODES = {
    Outcome.OK: 0, Outcome.ERROR: 1, Outcome.OUTPUT_LIMIT: 1, Outcome.TIMEOUT: 124, Outcome.OUT_OF_MEMORY: 137,
    Outcome.CRASHED: 139, Outcome.CANCELLED: INTERRUPTED, Outcome.REJECTED: SERVICE, Outcome.INFRA: SERVICE,
}  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output, nothing else.")]
User = Annotated[str, typer.Option(help="Whom limits, fairness and isolation apply to.")]
Timeout = Annotated[float, typer.Option(help="Seconds; then the program is interrupted, and killed.")]


@app.command()
def run(
    file: Annotated[
        str | None, typer.Argument(help="A program's file, or - for standard input.", metavar="FILE")
    ] = None,
    code: Annotated[str | None, typer.Option("-c", help="The program itself.", metavar="CODE")] = None,
    timeout: Timeout = 30.0,
    user: User = "default",
    env: Annotated[list[str], typer.Option("--env", help="NAME=VALUE, may be repeated.", metavar="NAME=VALUE")] = [],  # noqa: B006
    put: Annotated[
        list[str], typer.Option("--file", help="Put a file into the workspace.", metavar="LOCAL[:NAME]")
    ] = [],  # noqa: B006
    stdin: Annotated[Path | None, typer.Option(help="A file that the program reads as its standard input.")] = None,
    memory: Annotated[int | None, typer.Option(help="MiB that the program may use.")] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Share results of deterministic programs.")] = True,
    output_dir: Annotated[Path, typer.Option(help="Where pictures are saved.")] = Path(),
    as_json: Json = False,
) -> None:
    """Run one program; its output appears as it comes.

    Exits with 0 if it ended well, 1 if it raised, 124 if it was out of time, 137 out of memory, 139 crashed, and
    3 if the service failed.

    Example: [bold]e2b-orchestrator run -c "print('hi')"[/]
    """
    if (file is None) == (code is None):
        fail("give either a FILE (or - for standard input) or -c CODE", USAGE)
    options: dict[str, Any] = {
        "timeout_s": timeout,
        "user": user,
        "env": dict(pair(item, "--env") for item in env),
        "files": dict(uploaded(item) for item in put),
        "cache": "auto" if cache else "off",
    }
    if stdin is not None:
        options["stdin"] = read(stdin)
    if memory is not None:
        options["limits"] = {"memory_mib": memory}
    source = code if code is not None else sys.stdin.read() if file == "-" else read(Path(file or "")).decode()
    with reported():
        ExecutionRequest.checked(code=source, **options)
        result = streamed(source, options, quiet=as_json)
    if as_json:
        typer.echo(result.model_dump_json(by_alias=True))
    else:
        saved = render.save_images(result.results, output_dir, Path(file).stem if file not in (None, "-") else "result")
        render.show_result(out, result, saved)
        for path in saved:
            err.print(Text(f"saved {path}", style="green"))
        if not result.ok:
            err.print(render.verdict(result))
        err.print(render.facts(result))
    raise typer.Exit(EXIT_CODES[result.outcome])


@app.command()
def batch(
    file: Annotated[Path, typer.Argument(help="A line a program: a JSON string, or an object with code and options.")],
    user: User = "default",
    timeout: Timeout = 30.0,
    output: Annotated[Path | None, typer.Option(help="Write results here instead of to standard output.")] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Share results of deterministic programs.")] = True,
    as_json: Json = False,
) -> None:
    """Run many programs; results come as JSON lines, in the order in which they finish, with their line number.

    Example: [bold]e2b-orchestrator batch programs.jsonl --output results.jsonl[/]
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    programs, names = parsed(file)
    outcomes: Counter[str] = Counter()
    since = time.perf_counter()
    sink = output.open("w") if output else sys.stdout
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with reported(), Progress(*columns, console=err, disable=as_json, transient=True) as progress:
        task = progress.add_task("connecting", total=len(programs))
        orchestrator = connected(quiet=True)
        since = time.perf_counter()
        for index, result in batched(
            orchestrator, programs, {"user": user, "timeout_s": timeout, "cache": "auto" if cache else "off"}
        ):
            outcomes[result.outcome.value] += 1
            entry = {"line": index + 1, **({"id": names[index]} if names[index] is not None else {})}
            sink.write(json.dumps(entry | result.model_dump(mode="json", by_alias=True)) + "\n")
            progress.update(
                task, advance=1, description=" ".join(f"{name} {count}" for name, count in outcomes.most_common())
            )
    if output:
        sink.close()
    if not as_json:
        err.print(render.summary(outcomes, time.perf_counter() - since))
    masked = sum(count for name, count in outcomes.items() if Outcome(name).masked)
    raise typer.Exit(SERVICE if masked else 0)


@app.command()
def demo(output: Annotated[Path, typer.Option(help="Where the chart is saved.")] = Path("loan.png")) -> None:
    """Start everything on this machine and run a real program in a jail: a loan, its table and its chart."""
    import ray

    from actors.demo import LOAN

    with reported():
        orchestrator = connected()
        result: ExecutionResult = ray.get(orchestrator.run.remote(LOAN, timeout_s=60))
        if not result.ok:
            err.print(render.verdict(result))
            render.show_result(err, result, [])
            raise typer.Exit(EXIT_CODES[result.outcome])
        out.print(Text(result.stdout.rstrip()))
        out.print(Text(result.text or ""))
        saved = render.save_images(result.results, output.parent, output.stem)
        out.print()
        out.print(Text(f"✓ the chart is in {saved[0]}" if saved else "the program drew no chart", style="green"))
        out.print(Text(f"✓ ran in: {result.isolation}", style="green"))
        out.print()
        out.print(render.timings_table(result))
        again: ExecutionResult = ray.get(orchestrator.run.remote(LOAN, timeout_s=60))
        how = "from the cache" if again.cached else "again"
        out.print(f"\nthe same program {how}: {again.timings.total_s * 1e3:.1f} ms")
        out.print(render.metrics_line(ray.get(orchestrator.get_metrics.remote())))
    out.print(
        Text(
            "\nnext: e2b-orchestrator run -c \"print('hi')\"   e2b-orchestrator up   e2b-orchestrator --help",
            style="bold",
        )
    )


@app.command()
def status(as_json: Json = False) -> None:
    """Show how the running deployment is: health and metrics."""
    import ray

    with reported():
        orchestrator = connected(start=False)
        health, metrics = ray.get([orchestrator.health.remote(), orchestrator.get_metrics.remote()], timeout=30)
    if as_json:
        typer.echo(json.dumps({"health": health, "metrics": metrics}, default=str))
        return
    colour = {"ok": "green", "starting": "yellow"}.get(health["status"], "red")
    out.print(
        Text.assemble(
            (f"● {health['status']}", f"bold {colour}"), f"  {health['namespace']}  {health['pool']['detail']}"
        )
    )
    for table in render.metrics_tables(metrics):
        out.print(table)


@app.command()
def up(as_json: Json = False) -> None:
    """Start a deployment that stays until [bold]down[/]; run, batch and scripts of this account then join it."""
    from actors import service

    with reported():
        settings = Settings.load()
        found = service.running(settings.namespace)
        started = found is None
        if found is None:
            with err.status("starting Ray and the first sandboxes"):
                found = service.up(settings)
    if as_json:
        typer.echo(json.dumps({"started": started, "pid": found["pid"], "address": found["address"]}))
    else:
        out.print(Text("✓ it is up" if started else "✓ it was up already", style="green"), f"(process {found['pid']})")
        out.print(Text("end it with: e2b-orchestrator down", style="dim"))


@app.command()
def down() -> None:
    """End the deployment that [bold]up[/] started."""
    from actors import service

    with reported():
        namespace = Settings.load().namespace
        with err.status("ending it"):
            ended = service.down(namespace)
    out.print(Text("✓ it is down" if ended else "nothing was up", style="green" if ended else "dim"))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say whether this machine can jail programs; if not, exactly why and what to do."""
    from dataclasses import asdict

    from rich.table import Table

    from actors.backends.jail.doctor import diagnose

    with reported():
        checks = diagnose(Settings.load().jail)
    able = all(check.ok for check in checks)
    if as_json:
        typer.echo(json.dumps({"able": able, "checks": [asdict(check) for check in checks]}))
    else:
        table = Table("", "check", "found", "what to do", box=None)
        for check in checks:
            mark = Text("✓", style="green") if check.ok else Text("✗", style="red")
            table.add_row(mark, check.name, Text(check.detail), Text(check.remedy, style="yellow"))
        out.print(table)
        out.print(
            Text("This machine can jail programs." if able else "This machine cannot jail programs.", style="bold")
        )
    raise typer.Exit(0 if able else 1)


class reported:  # used like a function
    """Turn the errors that a user can do something about into a line and an exit code."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        cause = getattr(error, "cause", None)
        known = error if isinstance(error, ServiceError) else cause
        if isinstance(known, (InvalidRequest, ConfigurationError)):
            fail(str(known), USAGE)
        if isinstance(known, ServiceError):
            fail(str(known), SERVICE)
        if isinstance(error, KeyboardInterrupt):
            fail("interrupted", INTERRUPTED)


def fail(message: str, code: int) -> NoReturn:
    err.print(Text.assemble(("error: ", "bold red"), message))
    raise typer.Exit(code)


def connected(start: bool = True, quiet: bool = False) -> Any:
    """The deployment to talk to: the running one, else one that lasts as long as this command."""
    settings = Settings.load()
    with err.status("starting Ray and the first sandboxes" if start else "connecting", spinner="dots") as spinner:
        if quiet:
            spinner.stop()
        from actors import wiring

        wiring.attach(settings.namespace, start_local=start)
        joined = wiring.join(settings.namespace)
        return joined or (
            wiring.start(settings)
            if start
            else fail("no deployment is running; start one with: e2b-orchestrator up", SERVICE)
        )


def streamed(code: str, options: dict[str, Any], quiet: bool) -> ExecutionResult:
    """Run one program, showing its output as it comes."""
    from actors.outcomes import stream

    for item in stream(connected(), code, **options):
        if isinstance(item, ExecutionResult):
            return item
        if not quiet:
            show_event(item)
    raise ServiceError("the deployment ended the stream without a result")


def show_event(event: OutputEvent) -> None:
    if event.kind in ("stdout", "stderr"):
        stream = sys.stdout if event.kind == "stdout" else sys.stderr
        stream.write(event.text)
        stream.flush()


def batched(orchestrator: Any, programs: list[Any], options: dict[str, Any]) -> Any:
    import ray

    generator = orchestrator.stream_many.options(num_returns="streaming").remote(programs, **options)
    try:
        for ref in generator:
            yield ray.get(ref)
    finally:
        ray.cancel(generator)


def parsed(file: Path) -> tuple[list[Any], list[Any]]:
    """Programs and their ids; a line that is no program is named before anything runs."""
    programs, names = [], []
    for number, line in enumerate(read(file).decode().splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            fail(f"{file}:{number}: not JSON ({error})", USAGE)
        if not isinstance(entry, (str, dict)) or (isinstance(entry, dict) and "code" not in entry):
            fail(f'{file}:{number}: must be a string, or an object with "code"', USAGE)
        names.append(entry.pop("id", None) if isinstance(entry, dict) else None)
        programs.append(entry)
    if not programs:
        fail(f"{file} holds no program", USAGE)
    return programs, names


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"{path}: {error.strerror}", USAGE)


def pair(item: str, option: str) -> tuple[str, str]:
    name, separator, value = item.partition("=")
    if not separator:
        fail(f"{option} takes NAME=VALUE, not {item!r}", USAGE)
    return name, value


def uploaded(item: str) -> tuple[str, bytes]:
    place, _, name = item.partition(":")
    return name or Path(place).name, read(Path(place))


if __name__ == "__main__":
    app()
