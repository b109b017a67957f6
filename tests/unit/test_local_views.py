"""Permits from snapshots and tokens from leases, with a breaker and a limiter that answer as told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from actors.core.breaker import BreakerSnapshot
from actors.core.limits.rate_limits import LimitKey, Plan, RateLimits, TokenLease
from actors.errors import ActorUnavailable, BreakerOpen, RateLimited
from actors.runs.breaker_view import BreakerView
from actors.runs.token_leases import TokenLeases
from tests.unit.clock import FakeClock
from tests.unit.test_breaker import new_breaker


class Breakers:
    def __init__(self) -> None:
        self.breaker, self.absent = new_breaker(FakeClock()), False
        self.seen: list[tuple[str, int, bool, float]] = []

    async def report(self, outcomes: list[tuple[str, int, bool, float]]) -> dict[str, BreakerSnapshot]:
        if self.absent:
            raise ActorUnavailable("CircuitBreaker", "is gone")
        self.seen += outcomes
        for _, generation, ok, seconds in outcomes:
            self.breaker.report(generation, ok, seconds)
        return {"fake/execute": self.breaker.snapshot()}


class Limiter:
    """Leases as many tokens as it still has."""

    def __init__(self, tokens: int, retry_after_s: float = 60.0) -> None:
        self.tokens, self.retry_after_s = tokens, retry_after_s
        self.leases, self.returned = 0, 0

    async def lease(self, holder: str, backend: str, operation: str, wanted: int) -> TokenLease:
        granted = min(wanted, self.tokens)
        self.tokens -= granted
        self.leases += 1
        return TokenLease(f"l{self.leases}", granted, 3600.0, self.retry_after_s)

    def give_back(self, lease_id: str, unused: int) -> None:
        self.returned += unused
        self.tokens += unused


async def settle(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0)


async def test_nothing_known_is_no_reason_to_refuse() -> None:
    assert BreakerView(Breakers()).permit("fake") == 0


async def test_failures_open_it_and_a_permit_is_refused() -> None:
    breakers = Breakers()
    view = BreakerView(breakers, random.Random(1), flush_s=0.0)
    for _ in range(200):
        view.report("fake", 0, False, 0.1)
    await settle(lambda: len(breakers.seen) == 200)
    await settle(lambda: view._due is None and view._sending is None)
    with pytest.raises(BreakerOpen) as raised:
        view.permit("fake")
    assert raised.value.retry_after_s > 0


async def test_an_absent_breaker_stops_nobody() -> None:
    breakers = Breakers()
    breakers.absent = True
    view = BreakerView(breakers, flush_s=0.0)
    view.report("fake", 0, False, 0.1)
    await settle(lambda: view._due is None and view._sending is None)
    assert view.permit("fake") == 0


async def test_outcomes_are_told_together() -> None:
    breakers = Breakers()
    view = BreakerView(breakers, flush_s=0.0)
    for _ in range(10):
        view.report("fake", 0, True, 0.1)
    assert breakers.seen == []
    await settle(lambda: len(breakers.seen) == 10)


async def test_good_news_waits_for_company_and_bad_news_takes_it_along() -> None:
    breakers = Breakers()
    view = BreakerView(breakers, flush_s=0.0, gather_s=3600.0)
    view.report("fake", 0, True, 0.1)
    await settle(lambda: len(breakers.seen) == 1)  # nothing was known yet
    for _ in range(3):
        view.report("fake", 0, True, 0.1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(breakers.seen) == 1
    view.report("fake", 0, False, 0.1)
    await settle(lambda: len(breakers.seen) == 5)


async def test_a_lease_serves_many_runs() -> None:
    limiter = Limiter(10_000)
    tokens = TokenLeases(limiter)
    for _ in range(10):
        await tokens.spend("fake")
    assert limiter.leases == 1


async def test_no_more_is_spent_than_the_plan_has() -> None:
    limiter = Limiter(50)
    tokens = TokenLeases(limiter)
    outcomes = await asyncio.gather(*(tokens.spend("fake") for _ in range(100)), return_exceptions=True)
    assert outcomes.count(None) == 50
    assert sum(isinstance(outcome, RateLimited) for outcome in outcomes) == 50


class PacedLimiter:
    """The real limiter, asked by nobody else."""

    def __init__(self, clock: FakeClock, plan: Plan) -> None:
        self.limits = RateLimits({("e2b", "operations"): plan}, clock, incarnation="a", restarted=False)

    async def lease(self, holder: str, backend: str, operation: str, wanted: int) -> TokenLease:
        return self.limits.lease(holder, LimitKey(backend, operation), wanted)

    def give_back(self, lease_id: str, unused: int) -> None:
        self.limits.give_back(lease_id, unused)


@pytest.mark.parametrize("counts", [(64,) * 8, (1,) * 8, (64, 1, 1, 1), (7, 13, 64)])
async def test_those_who_always_want_more_get_all_that_the_plan_has(counts: tuple[int, ...]) -> None:
    """Beyond its burst: a lease that is given up for a larger one would lose what was left of it."""
    clock = FakeClock()
    plan = Plan(40_000, 60.0)

    async def sleep(seconds: float) -> None:
        clock.advance(seconds)
        await asyncio.sleep(0)

    tokens = TokenLeases(PacedLimiter(clock, plan), clock=clock, sleep=sleep)
    spent = [0] * len(counts)

    async def want(index: int, count: int) -> None:
        while clock() < 20.0:
            await tokens.spend("e2b", count)
            spent[index] += count
            await asyncio.sleep(0)

    await asyncio.wait_for(asyncio.gather(*(want(*each) for each in enumerate(counts))), 20)
    paced = plan.burst + plan.limit / plan.window_s * clock()
    assert 0.9 * paced <= sum(spent) <= paced
    assert min(spent) > 0
