"""What whole commands show: the progress of a batch, the demo, the state of a deployment, the doctor's findings."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.columns import Columns
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from actors.cli import render
from actors.cli.terminal import SafeConsole
from actors.schemas import ExecutionResult, Outcome
from actors.schemas.action import SessionInfo

NEXT = {
    "e2b-orchestrator run -c \"print('hi')\"": "run a program of your own",
    "e2b-orchestrator up": "keep a deployment running: the next run takes milliseconds",
    "e2b-orchestrator batch programs.jsonl": "run thousands",
    "e2b-orchestrator --help": "all there is",
}
_WIDTH = 100
Finding = tuple[bool | None, str, str, str]
"""Whether it is as it must be (None is advice), its name, what was found, and what to do."""


def show_sessions(console: Console, sessions: Sequence[SessionInfo]) -> None:
    if not sessions:
        console.print(Text("no session is open", style="dim"))
        return
    table = Table("session", "user", "sandbox", "open for", "idle for", "", box=None, pad_edge=False)
    for info in sessions:
        state = Text("" if info.state == "running" else info.state, style="yellow")
        times = render.duration(info.open_s), render.duration(info.idle_s)
        table.add_row(Text(info.session, style="bold"), Text(info.user), Text(info.sandbox_id), *times, state)
    console.print(table)


class BatchProgress:
    """A line that moves while a batch runs, and is gone when it is over; nothing where nobody looks."""

    def __init__(self, console: Console, total: int, shown: bool) -> None:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[outcomes]}"),
        )
        disabled = not (shown and console.is_terminal)
        self._progress = Progress(*columns, console=console, disable=disabled, transient=True)
        self._task = self._progress.add_task("", total=total, rate="", outcomes="")

    def __enter__(self) -> BatchProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self, outcomes: Counter[str]) -> None:
        counts = " ".join(f"[{render.COLOURS[Outcome(name)]}]{name} {n:,}[/]" for name, n in outcomes.most_common())
        speed = self._progress.tasks[0].speed
        rate = f"{speed:,.0f}/s" if speed else ""
        self._progress.update(self._task, advance=1, outcomes=counts, rate=rate)


def show_demo(
    out: SafeConsole, result: ExecutionResult, again: ExecutionResult, saved: list[Path], metrics: Mapping[str, Any]
) -> None:
    """The demo's story: what the program printed, where its chart is, where the time went, what a second run costs."""
    _heading(out, "The program's output")
    out.print(out.words(result.stdout.rstrip()))
    out.print()
    for value in render.shown_text(result):
        out.print(out.words(value))
    out.print()
    for path in saved:
        out.print(Text(f"✓ its chart is in {path}", style="green"))
    behind = textwrap.fill(f"✓ it ran behind {result.isolation}", _WIDTH, subsequent_indent="  ")
    out.print(Text(behind, style="green"))
    _heading(out, "Where the time went" + (" (it was in the cache already)" if result.cached else ""))
    out.print(render.timings_table(result))
    _heading(out, "Once more")
    how = "the result comes from the cache" if again.cached else "it ran once more"
    times = result.timings.total_s / max(again.timings.total_s, 1e-9)
    faster = f", {times:.0f} times as fast" if again.cached and times >= 2 else ""
    out.print(Text(f"{how}: {render.duration(again.timings.total_s)}{faster}"))
    out.print(render.metrics_line(metrics))
    _heading(out, "Next")
    table = Table(box=None, show_header=False, pad_edge=False)
    for command, purpose in NEXT.items():
        table.add_row(Text(command, style="bold"), purpose)
    out.print(table)


def show_status(out: Console, health: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Health in a line, then the figures of every component, side by side where there is room."""
    colour = {"ok": "green", "starting": "yellow"}.get(health["status"], "red")
    line = Text.assemble((f"● {health['status']}", f"bold {colour}"), f"  {health['namespace']}")
    line.append(f"  {health['pool'].get('sandboxes', 0)} sandboxes serve, {health['in_flight']} runs in flight")
    if detail := health["pool"].get("detail"):
        line.append(f"  {detail}", style=colour)
    out.print(line)
    out.print()
    tables = []
    for section, values in metrics.items():
        tables.append(render.metrics_table(section, values))
        for name, figures in values.get("backends", {}).items():
            if isinstance(figures, dict):
                tables.append(render.metrics_table(f"{section} of {name}", figures))
    out.print(Columns(tables, padding=(1, 4)))


def show_diagnosis(out: Console, able: bool, facts: Mapping[str, str], findings: Sequence[Finding]) -> None:
    """The machine, every requirement with its hint, and the verdict last, where the eye ends."""
    machine = Table(box=None, show_header=False, pad_edge=False)
    machine.add_column(style="dim")
    machine.add_column(overflow="fold")
    for name, value in facts.items():
        machine.add_row(name, value)
    out.print(machine)
    out.print()
    table = Table(box=None, show_header=False, pad_edge=False)
    for column in range(3):
        table.add_column(overflow="fold", no_wrap=column < 2)
    for ok, name, detail, hint in findings:
        mark = {True: ("✓", "green"), False: ("✗", "red"), None: ("•", "yellow")}[ok]
        said = Text(detail)
        if hint:
            said.append(f"\n→ {hint}", style="yellow")
        table.add_row(Text(*mark), name, said)
    out.print(table)
    out.print()
    can = ("✓ This machine can jail programs.", "bold green")
    out.print(Text(*can) if able else Text("✗ This machine cannot jail programs.", style="bold red"))


def _heading(out: Console, text: str) -> None:
    out.print()
    out.print(Text(text, style="bold cyan"))
