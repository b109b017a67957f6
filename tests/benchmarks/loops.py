"""Closed loops: so many clients, each sending its next program when the last has been answered."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Call = Callable[[int, str], Awaitable[str]]
"""Runs a program for a client (by its number) and returns what it printed."""


@dataclass(frozen=True, slots=True)
class Loop:
    """What one closed loop measured."""

    clients: int
    calls: int
    wrong: int
    p50_ms: float
    p99_ms: float
    per_s: float


async def closed_loop(
    call: Call, program: Callable[[int], tuple[str, str]], clients: int, seconds: float, first: int
) -> Loop:
    """Run for about ``seconds``; ``program(n)`` gives the n-th program and the output that is right for it."""
    latencies: list[float] = []
    wrong = 0
    numbers = iter(range(first, first + 10_000_000))
    deadline = time.perf_counter() + seconds

    async def client(name: int) -> None:
        nonlocal wrong
        while time.perf_counter() < deadline:
            code, right = program(next(numbers))
            since = time.perf_counter()
            printed = await call(name, code)
            latencies.append(time.perf_counter() - since)
            wrong += printed.strip() != right

    since = time.perf_counter()
    await asyncio.gather(*(client(name) for name in range(clients)))
    spent_s = time.perf_counter() - since
    cuts = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else [latencies[0]] * 99
    return Loop(clients, len(latencies), wrong, cuts[49] * 1e3, cuts[98] * 1e3, len(latencies) / spent_s)
