"""Results as a person likes to see them."""

from __future__ import annotations

import base64
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors.schemas import ExecutionResult, Outcome, RichResult

COLOURS = {
    Outcome.OK: "green",
    Outcome.ERROR: "red",
    Outcome.TIMEOUT: "yellow",
    Outcome.OUT_OF_MEMORY: "yellow",
    Outcome.OUTPUT_LIMIT: "yellow",
    Outcome.CRASHED: "red",
    Outcome.CANCELLED: "magenta",
    Outcome.REJECTED: "magenta",
    Outcome.INFRA: "magenta",
}
_BAR = 28
_IMAGES = (("png", "png"), ("jpeg", "jpg"), ("pdf", "pdf"), ("svg", "svg"))


def save_images(results: tuple[RichResult, ...], directory: Path, stem: str) -> list[Path]:
    """Write every picture among the results; returns where they are. The first is ``stem``, the next ``stem-2``, …"""
    saved: list[Path] = []
    for result in results:
        for field, suffix in _IMAGES:
            content = getattr(result, field)
            if content is None:
                continue
            number = f"-{len(saved) + 1}" if saved else ""
            path = directory / f"{stem}{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if field == "svg" else base64.b64decode(content))
            saved.append(path)
            break
    return saved


def verdict(result: ExecutionResult) -> Text:
    """One line: how it ended, and what to do about it."""
    text = Text()
    text.append(f"● {result.outcome.value}", style=f"bold {COLOURS[result.outcome]}")
    if result.message:
        text.append(f"  {result.message}")
    return text


def facts(result: ExecutionResult) -> Text:
    """One dim line: where, how isolated, how long, how much."""
    usage = result.usage
    parts = ["from the cache" if result.cached else f"{result.backend or '-'} · {result.isolation or 'nothing ran'}"]
    parts.append(f"{result.timings.total_s * 1e3:.1f} ms")
    if usage.cpu_s is not None and not result.cached:
        parts.append(f"{usage.cpu_s:.2f} s CPU")
    if usage.peak_memory_mib is not None and not result.cached:
        parts.append(f"{usage.peak_memory_mib:.0f} MiB")
    return Text("  ".join(parts), style="dim")


def timings_table(result: ExecutionResult) -> Table:
    """Seconds by stage, as bars."""
    stages = {name.removesuffix("_s"): seconds for name, seconds in dict(result.timings).items() if name != "total_s"}
    total = result.timings.total_s
    stages["calls between actors"] = max(0.0, total - sum(stages.values()))
    table = Table("stage", "ms", "", title="where the time went", title_justify="left", title_style="bold", box=None)
    table.columns[1].justify = "right"
    for name, seconds in stages.items():
        table.add_row(name, f"{seconds * 1e3:.2f}", Text("█" * round(_BAR * seconds / total), style="cyan"))
    table.add_row(Text("total", style="bold"), Text(f"{total * 1e3:.2f}", style="bold"))
    return table


def metrics_line(metrics: dict[str, Any]) -> Text:
    """Pool and cache, in a line."""
    pool, cache, queue = metrics["pool"], metrics["cache"], metrics["queue"]
    return Text(
        f"pool: {pool['pool_size']} sandboxes, {pool['created']} created, {pool['errors']} errors   "
        f"cache: {cache['hits']} hits, {cache['misses']} misses ({cache['hit_rate']:.0%})   "
        f"queue: {queue.get('completed', 0):.0f} grants, mean wait {queue.get('mean_wait_s', 0) * 1e3:.1f} ms",
        style="dim",
    )


def metrics_tables(metrics: dict[str, Any]) -> list[Table]:
    """A table a section; what is nested is left to ``--json``."""
    tables = []
    for section, values in metrics.items():
        table = Table(box=None, show_header=False, title=section.replace("_", " "), title_justify="left")
        table.title_style = "bold cyan"
        for name, value in values.items():
            if isinstance(value, float):
                value = f"{value:.4g}"
            if not isinstance(value, dict):
                table.add_row(name.replace("_", " "), str(value))
        tables.append(table)
    return tables


def summary(outcomes: Counter[str], seconds: float) -> Table:
    """Of a batch: how many ended how."""
    total = sum(outcomes.values())
    table = Table("outcome", "runs", "share", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, count in outcomes.most_common():
        table.add_row(Text(name, style=COLOURS[Outcome(name)]), str(count), f"{count / total:.1%}")
    table.caption = f"{total} programs in {seconds:.1f} s, {total / max(seconds, 1e-9):.0f} a second"
    table.caption_justify = "left"
    return table


def show_result(console: Console, result: ExecutionResult, saved: list[Path]) -> None:
    """What a run ended with, beside the output that was shown as it came."""
    # A figure's own text says nothing to somebody who has the picture.
    if result.text is not None and not (saved and result.text.startswith("<Figure")):
        console.print(Text(result.text))
    if result.error is not None:
        shown = result.error.traceback or f"{result.error.name}: {result.error.value}"
        console.print(Text(shown.rstrip(), style="red"))
