"""Permits from the last snapshots, with a breaker that answers as told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from actors.core.breaker import BreakerSnapshot
from actors.core.limits.health import Outcomes
from actors.errors import ActorUnavailable, BreakerOpen
from actors.runs.breaker_view import BreakerView
from tests.unit.clock import FakeClock
from tests.unit.test_breaker import new_breaker


class Breakers:
    """The actor: one breaker, which may be away."""

    def __init__(self) -> None:
        self.breaker, self.absent, self.asked = new_breaker(FakeClock()), False, 0
        self.seen: list[tuple[str, int, bool, float]] = []

    async def report(self, outcomes: list[tuple[str, int, bool, float]]) -> dict[str, BreakerSnapshot]:
        self.asked += 1
        if self.absent:
            raise ActorUnavailable("CircuitBreaker", "is gone")
        self.seen += outcomes
        for _, generation, ok, seconds in outcomes:
            self.breaker.report(generation, ok, seconds)
        return {"fake": self.breaker.snapshot()}


class Limiter:
    """The actor: remembers what it was told of backends."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, Outcomes]] = []

    def tell(self, backend: str, operation: str, outcomes: Outcomes) -> None:
        self.told.append((backend, operation, outcomes))


def view_of(breakers: Breakers, rng: random.Random | None = None, **times: float) -> BreakerView:
    given: Any = breakers
    limiter: Any = Limiter()
    return BreakerView(given, limiter, rng, **times)


async def settle(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0)


async def test_nothing_known_is_no_reason_to_refuse() -> None:
    assert view_of(Breakers()).permit("fake") == 0


async def test_failures_open_it_and_a_permit_is_refused() -> None:
    breakers = Breakers()
    view = view_of(breakers, random.Random(1), flush_s=0.0)
    for _ in range(200):
        view.report("fake", 0, False, 0.1)
    refusals: list[BreakerOpen] = []

    def refused() -> bool:
        try:
            view.permit("fake")
        except BreakerOpen as refusal:
            refusals.append(refusal)
        return bool(refusals)

    await settle(refused)
    assert len(breakers.seen) == 200
    assert refusals[0].retry_after_s > 0


async def test_an_absent_breaker_stops_nobody() -> None:
    breakers = Breakers()
    breakers.absent = True
    view = view_of(breakers, flush_s=0.0)
    view.report("fake", 0, False, 0.1)
    await settle(lambda: breakers.asked == 1)
    assert view.permit("fake") == 0


async def test_outcomes_are_told_together() -> None:
    breakers = Breakers()
    view = view_of(breakers, flush_s=0.0)
    for _ in range(10):
        view.report("fake", 0, True, 0.1)
    assert breakers.seen == []
    await settle(lambda: len(breakers.seen) == 10)


async def test_good_news_waits_for_company_and_bad_news_takes_it_along() -> None:
    breakers = Breakers()
    view = view_of(breakers, flush_s=0.0, gather_s=3600.0)
    view.report("fake", 0, True, 0.1)
    await settle(lambda: len(breakers.seen) == 1)  # nothing was known yet
    for _ in range(3):
        view.report("fake", 0, True, 0.1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(breakers.seen) == 1
    view.report("fake", 0, False, 0.1)
    await settle(lambda: len(breakers.seen) == 5)


async def test_the_limiter_is_told_of_the_same_outcomes_by_backend() -> None:
    breakers, limiter = Breakers(), Limiter()
    clients: Any = breakers, limiter
    view = BreakerView(*clients, flush_s=0.0)
    for ok in (True, False, True):
        view.report("fake", 0, ok, 0.1)
    view.report("e2b", 0, True, 0.1)
    await settle(lambda: len(limiter.told) == 2)
    assert limiter.told == [("fake", "operations", Outcomes(2, 1)), ("e2b", "operations", Outcomes(1, 0))]
    view.refresh()
    await settle(lambda: breakers.asked == 2)
    assert len(limiter.told) == 2, "a question is no news"
