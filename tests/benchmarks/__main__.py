"""Measure the orchestrator beside its rivals (``python -m tests.benchmarks``); writes ``benchmark.json``."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

import actors
from actors.config import Settings
from actors.deployment import connect
from actors.deployment.creation import end_deployment
from tests.benchmarks import programs, rivals, targets
from tests.benchmarks.loops import Call, Loop, closed_loop

CLIENTS = (1, 8, 32)
TURNS = 3
PROGRAMS = {"print": programs.print_sum, "pandas": programs.group_by}
Measured = dict[str, dict[str, list[Loop]]]
"""By name and program, one loop for each number of clients."""


@asynccontextmanager
async def orchestrator_run(handle: Any) -> AsyncIterator[Call]:
    async def call(_client: int, code: str) -> str:
        result = await handle.run.remote(code, cache="off", timeout_s=30)
        if result.outcome != "ok":
            raise RuntimeError(f"{result.outcome}: {result.message} {result.stderr}")
        return str(result.stdout)

    yield call


async def measure_loops(seconds: float, handle: Any) -> tuple[Measured, dict[str, Measured]]:
    """Each rival in turns with the orchestrator, so that the machine's noise falls on both, and no other one running.

    Returns the loops of all, and those of the orchestrator by the rival that it took turns with.
    """
    count = max(4, len(os.sched_getaffinity(0)))
    contenders: dict[str, Callable[[], AbstractAsyncContextManager[Call]]] = {
        "warm ipykernels": lambda: rivals.warm_ipykernels(count),
        "Kernel Gateway": lambda: rivals.kernel_gateway(count),
        "fresh python -c": rivals.fresh_process,
        "bare actor call": rivals.bare_actor,
    }
    numbers = itertools.count(1, 1_000_000)
    theirs: Measured = {}
    ours: dict[str, Measured] = {}
    async with orchestrator_run(handle) as our_call:
        for name, contender in contenders.items():
            theirs[name], ours[name] = {}, {}
            async with contender() as their_call:
                for label, program in PROGRAMS.items():
                    if name == "bare actor call" and label == "pandas":
                        continue
                    for clients in CLIENTS:
                        # Long enough for a pool to grow to what so many clients need.
                        await closed_loop(our_call, program, clients, 3.0, next(numbers))
                        turns: tuple[list[Loop], list[Loop]] = ([], [])
                        for _ in range(TURNS):
                            for call, loops in zip((our_call, their_call), turns, strict=True):
                                loops.append(await closed_loop(call, program, clients, seconds / TURNS, next(numbers)))
                        ours[name].setdefault(label, []).append(middle(turns[0]))
                        theirs[name].setdefault(label, []).append(middle(turns[1]))
    of_all = {
        label: [middle([found[label][at] for found in ours.values() if label in found]) for at in range(len(CLIENTS))]
        for label in PROGRAMS
    }
    return {"orchestrator (jail)": of_all, **theirs}, ours


def middle(loops: list[Loop]) -> Loop:
    """The one of median throughput, unless in some an answer was wrong."""
    wrong = [loop for loop in loops if loop.wrong]
    return wrong[0] if wrong else sorted(loops, key=lambda loop: loop.per_s)[len(loops) // 2]


async def median_s(call: Callable[[int], Any], times: int = 200) -> float:
    spent = []
    for n in range(times):
        since = time.perf_counter()
        await call(n)
        spent.append(time.perf_counter() - since)
    return statistics.median(spent)


async def measure_cache(handle: Any) -> dict[str, float]:
    code = "print(sum(range(100)))"
    await handle.run.remote(code)

    async def hit(_: int) -> None:
        result = await handle.run.remote(code)
        assert result.cached or result.outcome == "ok"

    async with rivals.bare_actor() as bare:
        hit_s, bare_s = await median_s(hit), await median_s(lambda n: bare(0, f"print(1+{n})"))
    return {"hit_ms": hit_s * 1e3, "bare_ms": bare_s * 1e3, "ratio": hit_s / bare_s}


async def measure_session(handle: Any) -> dict[str, float]:
    """Runs in a warm session beside stateless ones, in turns."""
    session = await handle.open_session.remote(user="session")

    async def in_session(n: int) -> None:
        result = await handle.run.remote(f"print(1+{n})", user="session", session=session)
        assert result.stdout == f"{1 + n}\n", result

    async def stateless(n: int) -> None:
        result = await handle.run.remote(f"print(1+{n})", user="stateless", cache="off")
        assert result.stdout == f"{1 + n}\n", result

    turns = [(await median_s(in_session, 100), await median_s(stateless, 100)) for _ in range(5)]
    await handle.close_session.remote(session, user="session")
    session_s, stateless_s = (statistics.median(times) for times in zip(*turns, strict=True))
    return {"session_ms": session_s * 1e3, "stateless_ms": stateless_s * 1e3, "ratio": session_s / stateless_s}


async def measure_fake() -> dict[str, float]:
    """``run_many`` beside single runs, and pooled runs beside creating, on a backend that only waits."""
    settings = Settings.load(namespace="benchmark-fake", router={"local": "fake"})
    fake = actors.connect(settings)
    many = [f"print(1+{n})" for n in range(2000)]
    grown_at = time.perf_counter() + 4.0  # as before the single runs: a growing pool takes the cores itself
    while time.perf_counter() < grown_at:
        await fake.run_many.remote(many[:200], cache="off")
    since = time.perf_counter()
    results = await fake.run_many.remote(many, cache="off")
    many_per_s = len(many) / (time.perf_counter() - since)
    assert [result.stdout.strip() for result in results] == [str(1 + n) for n in range(2000)]
    async with orchestrator_run(fake) as call:
        single = await closed_loop(call, programs.print_sum, 8, 3.0, 1)
        serial = await closed_loop(call, programs.print_sum, 1, 3.0, 1)
    end_deployment("benchmark-fake")
    return {
        "run_many_per_s": many_per_s, "run_at_8_per_s": single.per_s, "run_at_1_per_s": serial.per_s,
        "ratio_at_8": many_per_s / single.per_s, "ratio_at_1": many_per_s / serial.per_s,
    }  # fmt: skip


async def measure_pooling() -> dict[str, float]:
    settings = Settings.load(namespace="benchmark-pool", router={"local": "fake"}, fake={"create_s": 0.3})
    slow = actors.connect(settings)
    pooled_s = await median_s(lambda n: slow.run.remote(f"print(1+{n})", cache="off"), 50)
    creating_s = await median_s(lambda n: slow.run.remote(f"print(1+{n})", cache="off", fresh=True), 10)
    end_deployment("benchmark-pool")
    return {"pooled_ms": pooled_s * 1e3, "creating_ms": creating_s * 1e3, "ratio": creating_s / pooled_s}


async def assert_pristine(handle: Any) -> None:
    """The jail's runs are pristine while they are timed: what one leaves, the next does not see."""
    leave = "import math; math.pi = 3; leak = 1; open('left', 'w').write('x'); open('/tmp/left', 'w').write('x')"
    look = (
        "import math, os; print(math.pi > 3, 'leak' in globals(), os.path.exists('left'), os.path.exists('/tmp/left'))"
    )
    for _ in range(5):
        await handle.run.remote(leave, cache="off")
        seen = await handle.run.remote(look, cache="off")
        assert seen.stdout == "True False False False\n", seen


def show(console: Console, report: dict[str, Any]) -> None:
    table = Table(title="closed loops of distinct programs: p50/p99 ms, runs per second")
    table.add_column("")
    for label in ("print", "pandas"):
        for clients in CLIENTS:
            table.add_column(f"{label} c={clients}", justify="right")
    for name, labels in report["loops"].items():
        cells = [
            f"{loop['p50_ms']:.1f}/{loop['p99_ms']:.0f} · {loop['per_s']:.0f}/s" + (" WRONG" if loop["wrong"] else "")
            for label in ("print", "pandas")
            for loop in labels.get(label, [])
        ]
        table.add_row(name, *cells)
    console.print(table)
    console.print(targets.table(report["targets"], "targets"))


def judge(
    theirs: Measured,
    ours: dict[str, Measured],
    session: dict[str, float],
    cache: dict[str, float],
    fake: dict[str, float],
    pool: dict[str, float],
) -> list[Any]:
    warm, beside_warm = theirs["warm ipykernels"], ours["warm ipykernels"]
    fresh, beside_fresh = theirs["fresh python -c"], ours["fresh python -c"]
    latency = beside_warm["print"][0].p50_ms / warm["print"][0].p50_ms
    pandas = beside_fresh["pandas"][1].per_s / fresh["pandas"][1].per_s
    throughput = beside_warm["print"][1].per_s / warm["print"][1].per_s
    figures: list[targets.Figure] = [
        ("run at 1 client, latency / warm ipykernel", "≤", 2.5, latency),
        ("8 clients, throughput / warm ipykernels", "≥", 0.33, throughput),
        ("pandas at 8 clients / fresh process", "≥", 15.0, pandas),
        ("run_many / single runs at 8 clients, fake backend", "≥", 4.0, fake["ratio_at_8"]),
        ("run in a session / stateless run, latency at 1 client", "≤", 1.0, session["ratio"]),
        ("cache hit / bare actor call", "≤", 2.5, cache["ratio"]),
        ("creating (300 ms) / pooled", "≥", 10.0, pool["ratio"]),
    ]
    return targets.judge(figures)


async def measure(seconds: float) -> dict[str, Any]:
    handle = actors.connect(Settings.load(namespace="benchmark-jail"))
    await assert_pristine(handle)
    measured, beside = await measure_loops(seconds, handle)
    await assert_pristine(handle)
    loops = {
        name: {label: [asdict(loop) for loop in found] for label, found in labels.items()}
        for name, labels in measured.items()
    }
    session, cache = await measure_session(handle), await measure_cache(handle)
    fake, pool = await measure_fake(), await measure_pooling()
    return {
        "machine": {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), "ray": ray.__version__},
        "loops": loops, "session": session, "cache": cache, "fake": fake, "pooling": pool,
        "targets": judge(measured, beside, session, cache, fake, pool),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=9.0, help="of each closed loop, in turns")
    parser.add_argument("--output", type=Path, default=Path("benchmark.json"))
    arguments = parser.parse_args()
    connect.join_ray("benchmark-jail")
    try:
        report = asyncio.run(measure(arguments.seconds))
    finally:
        actors.shutdown("benchmark-jail")
    arguments.output.write_text(json.dumps(report, indent=2))
    show(Console(width=140), report)


if __name__ == "__main__":
    main()
