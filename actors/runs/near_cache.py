"""The hits of the last moments, kept by the orchestrator, so that a program asked for again and again costs no call."""

from __future__ import annotations

import time
from collections.abc import Callable

from cachetools import TLRUCache

from actors.config import CacheSettings
from actors.core.result_cache import Follow, Hit, Lead
from actors.runs.run import Cache, Claim
from actors.schemas import Outcome

NEAR_S = 1.0
"""Short, so that the ResultCache goes on deciding about verification and order of eviction."""
NEAR_ENTRIES = 64


class NearCache:
    """Answers from hits at most a second old, and asks the ResultCache for everything else.

    Never serves an entry beyond its own life there, nor one that was seen to differ: the orchestrator is the only one
    that observes. A hit that is to be verified is not kept.
    """

    def __init__(self, cache: Cache, settings: CacheSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._cache, self._settings, self._clock = cache, settings, clock
        self._hits: TLRUCache[str, tuple[Hit, float, float]] = TLRUCache(
            NEAR_ENTRIES, ttu=lambda _key, kept, _now: kept[2], timer=clock
        )
        self.saved = 0
        """Lookups answered here."""

    async def lookup(self, key: str, claimant: str, wait_s: float) -> Hit | Lead:
        kept = self._hits.get(key)
        if kept is not None:
            self.saved += 1
            hit, seen_at, _ = kept
            return Hit(hit.value, hit.age_s + self._clock() - seen_at, False)
        asked_at = self._clock()
        found = await self._cache.lookup(key, claimant, wait_s)
        if isinstance(found, Hit) and not found.verify:
            failed = found.value.outcome is not Outcome.OK
            left_s = (self._settings.error_ttl_s if failed else self._settings.ttl_s) - found.age_s
            if left_s > 0:
                # Counted from before the ResultCache did, so that it ends here first.
                self._hits[key] = (found, asked_at, asked_at + min(NEAR_S, left_s))
        return found

    async def lookup_many(self, keys: list[tuple[str, str]]) -> list[Hit | Lead | Follow]:
        return await self._cache.lookup_many(keys)

    def settle(self, claims: list[Claim]) -> None:
        self._cache.settle(claims)

    def observe(self, key: str, equal: bool) -> None:
        if not equal:
            self._hits.pop(key, None)
        self._cache.observe(key, equal)
