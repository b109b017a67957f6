"""Measure what each wall of the jail costs (``python -m tests.benchmarks.walls``); writes ``walls.json``.

A jail with every wall and one without the wall take turns, so that what the machine does meanwhile meets both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table

from actors.backends.jail import JailBackend
from actors.config import JailSettings, Wall
from tests.benchmarks import programs
from tests.benchmarks.jail import execute, measure_runs, started, timed

WALLS: tuple[Wall, ...] = ("seccomp", "landlock", "identity", "read_only", "network", "control_group")
JAILS = 10


async def new_jail_s(backend: JailBackend) -> float:
    """The median of some jails' times to their first program's end."""

    async def make() -> None:
        sandbox = await backend.create()
        made.append(sandbox)
        await execute(sandbox, "1")

    made, taken = [], []
    for _ in range(JAILS):
        taken.append(await timed(make))
        await asyncio.sleep(0.05)  # until its spares are made
        await made[-1].close()
    return statistics.median(taken)


async def measure(wall: Wall, blocks: int, seconds: float) -> dict[str, tuple[float, float]]:
    """How many times as long a run and a new jail take with the wall; mean and standard error of paired ratios."""
    runs, jails = [], []
    async with started(JailSettings()) as whole, started(JailSettings(without=(wall,))) as without:
        for block in range(blocks):
            pair = (whole, without) if block % 2 else (without, whole)
            rates = {backend: await measure_runs(backend, 1, seconds, programs.print_sum) for backend in pair}
            times = {backend: await new_jail_s(backend) for backend in pair}
            runs.append(rates[without] / rates[whole])
            jails.append(times[whole] / times[without])
    return {"run": _mean(runs), "new jail": _mean(jails)}


def _mean(ratios: list[float]) -> tuple[float, float]:
    return statistics.mean(ratios), statistics.stdev(ratios) / len(ratios) ** 0.5


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=8, help="pairs of each wall")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of each closed loop")
    parser.add_argument("--output", type=Path, default=Path("walls.json"))
    arguments = parser.parse_args()
    found = {wall: await measure(wall, arguments.blocks, arguments.seconds) for wall in WALLS}
    await asyncio.to_thread(arguments.output.write_text, json.dumps(found, indent=2))
    table = Table("wall", "a pristine run with it", "a new jail with it", title="times as long as without")
    for wall, ratios in found.items():
        table.add_row(wall, *(f"{mean:.3f} ± {error:.3f}" for mean, error in ratios.values()))
    Console(width=100).print(table)


if __name__ == "__main__":
    asyncio.run(main())
