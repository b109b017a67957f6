"""The formats of values that IPython lacks: the columns of a table, and what a figure plots, as data.

Runs in interpreters, when a program displays a value.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from datetime import date, time
from importlib import import_module
from typing import Any

from IPython.core.formatters import BaseFormatter, DisplayFormatter
from traitlets import ObjectName, Unicode

from actors.backends.jail.inside.mime_bundle import LeftOut

MAX_CELLS = 100_000
"""Most cells of a table that is shown as data too; from a larger one programs choose what to return."""
MAX_CHARACTERS = 4_000_000
"""Most characters of text in such a table."""
MAX_POINTS = 50_000
"""Most points of a figure that is described as data too: each costs kilobytes while it is."""
_FIGURE = ("matplotlib.figure", "Figure")
_TABLES = ("pandas", "pandas.core.frame")  # the module that a DataFrame names as its own, from version 3 on and before


class _Data(BaseFormatter):
    """The columns of a table, by name."""

    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = (dict, LeftOut)


class _Chart(BaseFormatter):
    """What a figure plots, as E2B describes it."""

    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = dict

    def __call__(self, value: object) -> Any:
        # Not by registered type: matplotlib's inline backend takes its figures out of every formatter.
        if any((kind.__module__, kind.__name__) == _FIGURE for kind in type(value).__mro__):
            return plotted(value)
        return super().__call__(value)


def register(formatter: DisplayFormatter) -> None:
    """Have ``formatter`` give these formats too; types are told by name, so no package need be imported yet."""
    data, chart = _Data(parent=formatter), _Chart(parent=formatter)
    formatter.formatters |= {data.format_type: data, chart.format_type: chart}
    for module in _TABLES:
        data.for_type_by_name(module, "DataFrame", columns)  # type: ignore[no-untyped-call]


def columns(frame: Any) -> dict[str, list[Any]] | LeftOut:
    """Return a DataFrame's columns as JSON has them: dates as ISO text, what is missing as None."""
    if frame.size > MAX_CELLS:
        return LeftOut(f"{frame.size:,} cells, more than {MAX_CELLS:,}")
    found: dict[str, list[Any]] = {}
    left = MAX_CHARACTERS
    for name, column in frame.items():
        values = found[str(name)] = []
        for value in column.tolist():
            values.append(plain := _plain(value))
            if isinstance(plain, str):
                left -= len(plain)
                if left < 0:
                    return LeftOut(f"more than {MAX_CHARACTERS:,} characters")
    return found


def plotted(figure: Any) -> dict[str, Any] | LeftOut | None:
    """Return the figure's axes with their titles, labels and points; None without the package that reads them."""
    try:
        describe: Callable[[Any], Any] = import_module("e2b_charts").chart_figure_to_dict
    except ImportError:
        return None
    # It looks into matplotlib's own attributes; a figure of a kind that it cannot read is a picture alone.
    with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
        points = sum(map(_points, figure.get_axes()))
        if points > MAX_POINTS:
            return LeftOut(f"{points:,} points, more than {MAX_POINTS:,}")
        found = describe(figure)
        return found if isinstance(found, dict) else None
    return None


def _points(axes: Any) -> int:
    """Return how many points the description of some axes would have."""
    of_lines = sum(len(line.get_xdata(orig=False)) for line in axes.lines)
    return of_lines + sum(len(part.get_offsets()) for part in axes.collections) + len(axes.patches)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date | time):  # also pandas' own; of what is missing the text is NaT
        return None if str(value) == "NaT" else value.isoformat()
    return None if str(value) == "<NA>" else str(value)
