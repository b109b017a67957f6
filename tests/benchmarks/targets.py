"""What is wanted beside what was measured."""

from __future__ import annotations

from typing import Any

from rich.table import Table

Figure = tuple[str, str, float, float]
"""Name, ``≤`` or ``≥``, what is wanted, what was measured."""


def judge(figures: list[Figure]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "needed": f"{sign} {bound:g}",
            "measured": got,
            "met": got <= bound if sign == "≤" else got >= bound,
        }
        for name, sign, bound, got in figures
    ]


def table(targets: list[dict[str, Any]], title: str) -> Table:
    shown = Table("target", "needed", "measured", title=title)
    for target in targets:
        mark = "[green]✓[/]" if target["met"] else "[red]✗[/]"
        shown.add_row(f"{mark} {target['name']}", target["needed"], f"{target['measured']:.2f}")
    return shown
