"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output, nothing else.")]
User = Annotated[str, typer.Option(help="Whom limits, fairness and isolation apply to.")]
Timeout = Annotated[float, typer.Option(help="Seconds; then the program is interrupted, and killed.")]
Cache = Annotated[bool, typer.Option("--cache/--no-cache", help="Share results of deterministic programs.")]
Image = Annotated[str | None, typer.Option(help="What its sandbox is to be made from.", metavar="NAME")]
