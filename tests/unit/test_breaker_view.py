"""Permits from the last snapshots, with a breaker that answers as told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from actors.core.breakers import BackendBreakers, BackendSnapshot, CallOutcome, CallPermit
from actors.core.limits.health import Outcomes
from actors.errors import ActorUnavailable, BreakerOpen
from actors.runs.breaker_view import BreakerView
from tests.unit.clock import FakeClock
from tests.unit.test_breaker import RAMP, SETTINGS

PERMIT = CallPermit("fake", "ann")


class Breakers:
    """The actor: one breaker, which may be away."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.breakers = BackendBreakers(SETTINGS, self.clock, random.Random(1))
        self.absent, self.asked = False, 0
        self.seen: list[CallOutcome] = []

    async def report(self, outcomes: list[CallOutcome]) -> dict[str, BackendSnapshot]:
        self.asked += 1
        if self.absent:
            raise ActorUnavailable("CircuitBreaker", "is gone")
        self.seen += outcomes
        for outcome in outcomes:
            self.breakers.report(outcome)
        return {"fake": self.breakers.snapshot()}


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
    assert view_of(Breakers()).permit("fake", "ann") == PERMIT


async def test_failures_open_it_and_a_permit_is_refused() -> None:
    breakers = Breakers()
    view = view_of(breakers, random.Random(1), flush_s=0.0)
    for _ in range(200):
        view.report(PERMIT, False, 0.1)
    refusals: list[BreakerOpen] = []

    def refused() -> bool:
        try:
            view.permit("fake", "ann")
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
    view.report(PERMIT, False, 0.1)
    await settle(lambda: breakers.asked == 1)
    assert view.permit("fake", "ann") == PERMIT


async def test_outcomes_are_told_together() -> None:
    breakers = Breakers()
    view = view_of(breakers, flush_s=0.0)
    for _ in range(10):
        view.report(PERMIT, True, 0.1)
    assert breakers.seen == []
    await settle(lambda: len(breakers.seen) == 10)


async def test_good_news_waits_for_company_and_bad_news_takes_it_along() -> None:
    breakers = Breakers()
    view = view_of(breakers, flush_s=0.0, gather_s=3600.0)
    view.report(PERMIT, True, 0.1)
    await settle(lambda: len(breakers.seen) == 1)  # nothing was known yet
    for _ in range(3):
        view.report(PERMIT, True, 0.1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(breakers.seen) == 1
    view.report(PERMIT, False, 0.1)
    await settle(lambda: len(breakers.seen) == 5)


async def test_the_limiter_is_told_of_the_same_outcomes_by_backend() -> None:
    breakers, limiter = Breakers(), Limiter()
    clients: Any = breakers, limiter
    view = BreakerView(*clients, flush_s=0.0)
    for ok in (True, False, True):
        view.report(PERMIT, ok, 0.1)
    view.report(CallPermit("e2b", "ann"), True, 0.1)
    await settle(lambda: len(limiter.told) == 2)
    assert limiter.told == [("fake", "operations", Outcomes(2, 1)), ("e2b", "operations", Outcomes(1, 0))]
    view.refresh()
    await settle(lambda: breakers.asked == 2)
    assert len(limiter.told) == 2, "a question is no news"


async def opened_by(*users: str, calls: int = 10) -> tuple[BreakerView, Breakers]:
    """A view of breakers that some users' failures have opened."""
    breakers = Breakers()
    view = view_of(breakers, random.Random(1), flush_s=0.0)
    for user in users:
        for _ in range(calls):
            view.report(CallPermit("fake", user), False, 0.1)
    await settle(lambda: len(breakers.seen) == calls * len(users))
    return view, breakers


async def test_one_users_failures_stop_that_user_alone() -> None:
    view, _ = await opened_by("mallory", calls=500)
    with pytest.raises(BreakerOpen):
        view.permit("fake", "mallory")
    assert view.permit("fake", "bob") == CallPermit("fake", "bob")


async def test_failures_of_several_users_stop_all() -> None:
    view, _ = await opened_by("a", "b", "c")
    with pytest.raises(BreakerOpen):
        view.permit("fake", "bob")


async def test_what_opens_while_a_call_waits_refuses_it_and_what_has_moved_on_does_not() -> None:
    view, breakers = await opened_by("a", "b")
    waiting = view.permit("fake", "bob")
    for _ in range(10):
        view.report(CallPermit("fake", "c"), False, 0.1)
    await settle(lambda: len(breakers.seen) == 30)
    with pytest.raises(BreakerOpen):
        view.confirm(waiting)
    breakers.clock.advance(SETTINGS.open_s)
    view.refresh()
    await settle(lambda: breakers.asked == 3)
    confirmed = view.confirm(waiting)
    assert confirmed.shared == breakers.breakers.shared.generation
    assert confirmed.shared > waiting.shared


async def test_a_backend_that_recovers_serves_each_user_once_a_second_and_a_call_asks_once() -> None:
    view, breakers = await opened_by("a", "b", "c")
    breakers.clock.advance(SETTINGS.open_s)
    view.refresh()
    await settle(lambda: breakers.asked == 2)
    for user in ("bob", "ann", "eve"):
        assert view.confirm(view.permit("fake", user))
    refused = 0
    for _ in range(100):
        try:
            view.permit("fake", "bob")
        except BreakerOpen:
            refused += 1
    assert refused > 100 * (1 - RAMP[0]) * 0.9
