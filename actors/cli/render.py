"""Results as a person likes to see them: pieces of text, tables and saved pictures, each from values alone."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from actors.cli.terminal import SafeConsole, harmless
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
_BAR = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_IMAGES = (("png", "png"), ("jpeg", "jpg"), ("pdf", "pdf"), ("svg", "svg"))


def save_images(results: tuple[RichResult, ...], directory: Path, stem: str) -> list[Path]:
    """Write every picture among the results; returns where they are. The first is ``stem``, the next ``stem-2``, …

    Raises:
        OSError: a file or its directory cannot be written.
    """
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


def duration(seconds: float) -> str:
    """Three figures, in the unit that suits."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    milliseconds = seconds * 1e3
    return f"{milliseconds:.0f} ms" if milliseconds >= 100 else f"{milliseconds:.1f} ms"


def bar(share: float, width: int = _BAR) -> str:
    """A bar of at most ``width`` characters, true to an eighth of one; what is not nothing is not invisible."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def verdict(result: ExecutionResult) -> Text:
    """One line: how it ended, and what to do about it."""
    text = Text()
    text.append(f"● {result.outcome.value}", style=f"bold {COLOURS[result.outcome]}")
    if result.message:
        text.append(f"  {result.message}")
    if result.retry_after_s:
        text.append(f"  (retry in {result.retry_after_s:.1f} s)")
    return text


def facts(result: ExecutionResult) -> Text:
    """One dim line: where, how isolated, how long, how much."""
    usage = result.usage
    parts = ["from the cache" if result.cached else f"{result.backend or '-'}: {result.isolation or 'nothing ran'}"]
    parts.append(duration(result.timings.total_s))
    if usage.cpu_s is not None and not result.cached:
        parts.append(f"{duration(usage.cpu_s)} CPU")
    if usage.peak_memory_mib is not None and not result.cached:
        parts.append(f"{usage.peak_memory_mib:.0f} MiB")
    return Text(" · ".join(parts), style="dim")


def shown_text(result: ExecutionResult) -> list[str]:
    """What the program displayed, as text; a picture's own text says nothing to somebody who has the picture."""
    return [
        shown.text
        for shown in result.results
        if shown.text is not None and not any(getattr(shown, field) for field, _ in _IMAGES)
    ]


def show_result(out: SafeConsole, err: SafeConsole, result: ExecutionResult, saved: list[Path]) -> None:
    """What a run ended with, beside the output that was shown as it came: values on ``out``, all else on ``err``."""
    values = shown_text(result)
    if values and result.stdout and not result.stdout.endswith("\n"):
        out.print()
    for value in values:
        out.print(out.words(value))
    if result.error is not None:
        error = result.error.traceback or f"{result.error.name}: {result.error.value}"
        # The interpreter colours its tracebacks.
        err.print(Text.from_ansi(harmless(error.rstrip())))
    for path in saved:
        err.print(Text(f"✓ saved {path}", style="green"))
    if not result.ok:
        err.print(verdict(result))
    err.print(facts(result))


def timings_table(result: ExecutionResult) -> Table:
    """Where the time went, stage by stage, as bars; stages that the run skipped are left out."""
    stages = {name.removesuffix("_s"): seconds for name, seconds in dict(result.timings).items() if name != "total_s"}
    total = result.timings.total_s
    stages["calls between actors"] = max(0.0, total - sum(stages.values()))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for name, seconds in stages.items():
        if seconds > 0:
            table.add_row(name, duration(seconds), Text(bar(seconds / total), style="cyan"))
    table.add_row(Text("in all", style="bold"), Text(duration(total), style="bold"))
    return table


def metrics_line(metrics: Mapping[str, Any]) -> Text:
    """Pool and cache in a line; of a component that is away, that it is."""
    parts = []
    for section, fields in (("pool", _pool), ("cache", _cache)):
        values = metrics.get(section, {"unavailable": ""})
        parts.append(f"{section}: " + ("unavailable" if "unavailable" in values else fields(values)))
    return Text("    ".join(parts))


def _pool(values: Mapping[str, Any]) -> str:
    return f"{values['pool_size']} sandboxes, {values['created']} created, {values['errors']} errors"


def _cache(values: Mapping[str, Any]) -> str:
    return f"{values['hits']} hits, {values['misses']} misses, {values['entries']} kept"


def metrics_table(section: str, values: Mapping[str, Any]) -> Table:
    """The figures of one component; what is nested deeper than a row is left to ``--json``."""
    table = Table(box=None, show_header=False, pad_edge=False, title=section.replace("_", " "), title_justify="left")
    table.title_style = "bold cyan"
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in values.items():
        if isinstance(value, dict):
            if any(isinstance(inner, dict) for inner in value.values()):
                continue
            value = ", ".join(f"{key.removesuffix('_s')} {_figure(key, inner)}" for key, inner in value.items())
        table.add_row(name.removesuffix("_s").replace("_", " "), Text(_figure(name, value)) if value != "" else "-")
    return table


def _figure(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if name.endswith("_per_s"):
            return f"{value:.4g} a second"
        return duration(value) if name.endswith("_s") else f"{value:.4g}"
    return str(value)


def summary(outcomes: Counter[str], seconds: float) -> Table:
    """Count how many runs of a batch ended how."""
    total = sum(outcomes.values())
    table = Table("outcome", "runs", "share", "", box=None, pad_edge=False, caption_justify="left")
    table.columns[1].justify = table.columns[2].justify = "right"
    for name, count in outcomes.most_common():
        colour = COLOURS[Outcome(name)]
        share = Text(bar(count / total, 20), style=colour)
        table.add_row(Text(name, style=colour), f"{count:,}", f"{count / total:.1%}", share)
    table.caption = f"{total:,} programs in {duration(seconds)}, {total / max(seconds, 1e-9):,.0f} a second"
    return table
