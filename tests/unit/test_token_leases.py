"""Tokens from leases, with a limiter that answers as told, and with the real one."""

from __future__ import annotations

import asyncio

import pytest

from actors.core.limits.health import Outcomes
from actors.core.limits.rate_limits import LimitKey, Plan, RateLimits, TokenLease
from actors.errors import RateLimited
from actors.runs.token_leases import TokenLeases
from tests.unit.clock import FakeClock


class Limiter:
    """Leases as many tokens as it still has."""

    def __init__(self, tokens: int, retry_after_s: float = 60.0) -> None:
        self.tokens, self.retry_after_s = tokens, retry_after_s
        self.leases, self.returned = 0, 0
        self.told: list[tuple[str, str, Outcomes]] = []

    async def lease(self, holder: str, backend: str, operation: str, wanted: int) -> TokenLease:
        granted = min(wanted, self.tokens)
        self.tokens -= granted
        self.leases += 1
        return TokenLease(f"l{self.leases}", granted, 3600.0, self.retry_after_s)

    def give_back(self, lease_id: str, unused: int) -> None:
        self.returned += unused
        self.tokens += unused

    def tell(self, backend: str, operation: str, outcomes: Outcomes) -> None:
        self.told.append((backend, operation, outcomes))


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


async def test_the_limiter_is_told_when_a_backend_throttles() -> None:
    limiter = Limiter(1)
    TokenLeases(limiter).throttled("e2b")
    assert limiter.told == [("e2b", "operations", Outcomes(throttled=1))]


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


async def test_nobody_waits_for_tokens_longer_than_there_is_time() -> None:
    clock, waited = FakeClock(), list[float]()

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock.advance(seconds)

    tokens = TokenLeases(Limiter(0, retry_after_s=0.5), clock=clock, sleep=sleep)
    with pytest.raises(RateLimited):
        await tokens.spend("e2b", within_s=1.2)
    assert sum(waited) <= 1.2
    with pytest.raises(RateLimited):
        await tokens.spend("e2b", within_s=0.1)
    assert sum(waited) <= 1.2
