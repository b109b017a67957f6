from __future__ import annotations

from typing import Any

import pytest

from actors.clients.singletons import CacheClient
from actors.config import CacheSettings
from actors.core.result_cache import Hit, Lead
from actors.runs.near_cache import NEAR_S, NearCache
from actors.schemas import ExecutionResult, Outcome
from tests.unit.clock import FakeClock


class Far(CacheClient):
    """A client that answers what it is told to, and counts how often it was asked."""

    answer: Any = None
    asked = observed = 0

    async def lookup(self, key: str, claimant: str, wait_s: float) -> Any:
        self.asked += 1
        return self.answer

    def observe(self, key: str, equal: bool) -> None:
        self.observed += 1


class NearAndFar(NearCache, Far):
    """The cache under test, with the client above in place of the one that it extends."""


def hit(age_s: float = 0.0, verify: bool = False, outcome: Outcome = Outcome.OK) -> Hit:
    return Hit(ExecutionResult(run_id="1", outcome=outcome), age_s, verify)


def near(answer: Any, clock: FakeClock) -> tuple[NearCache, Far]:
    cache = NearAndFar("test", CacheSettings(ttl_s=300, error_ttl_s=30), clock)
    cache.answer = answer
    return cache, cache


async def test_a_hit_is_asked_for_once_in_a_moment() -> None:
    clock = FakeClock()
    cache, far = near(hit(age_s=2.0), clock)
    await cache.lookup("key", "a", 1)
    clock.advance(NEAR_S / 2)
    again = await cache.lookup("key", "b", 1)
    assert far.asked == 1
    assert isinstance(again, Hit)
    assert again.age_s == pytest.approx(2.0 + NEAR_S / 2)
    clock.advance(NEAR_S)
    await cache.lookup("key", "c", 1)
    assert far.asked == 2


@pytest.mark.parametrize(("age_s", "outcome"), [(299.9, Outcome.OK), (29.9, Outcome.ERROR)])
async def test_an_entry_is_not_served_beyond_its_own_life(age_s: float, outcome: Outcome) -> None:
    clock = FakeClock()
    cache, far = near(hit(age_s, outcome=outcome), clock)
    await cache.lookup("key", "a", 1)
    clock.advance(0.2)
    await cache.lookup("key", "b", 1)
    assert far.asked == 2


@pytest.mark.parametrize("answer", [Lead("claim", 60.0), hit(verify=True)])
async def test_claims_and_hits_to_verify_are_not_kept(answer: Any) -> None:
    cache, far = near(answer, FakeClock())
    await cache.lookup("key", "a", 1)
    await cache.lookup("key", "b", 1)
    assert far.asked == 2


async def test_what_was_seen_to_differ_is_dropped_here_too() -> None:
    cache, far = near(hit(), FakeClock())
    await cache.lookup("key", "a", 1)
    cache.observe("key", equal=False)
    await cache.lookup("key", "b", 1)
    assert (far.asked, far.observed) == (2, 1)


async def test_keys_do_not_share_hits() -> None:
    cache, far = near(hit(), FakeClock())
    await cache.lookup("one user's", "a", 1)
    await cache.lookup("another's", "b", 1)
    assert far.asked == 2
