"""A client of the ResultCache that keeps the hits of the last moments itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from cachetools import TLRUCache

from actors.clients.singletons import CacheClient
from actors.config import CacheSettings
from actors.core.result_cache import Hit, Lead
from actors.schemas import Outcome

NEAR_S = 1.0
"""How long a hit is kept: short, so that the ResultCache goes on deciding about verification and order of eviction."""
NEAR_ENTRIES = 64


class NearCache(CacheClient):
    """Answers from hits at most a second old, and asks the ResultCache for everything else.

    A program that is asked for again and again costs no call. An entry is never served beyond its own life there, nor
    one that was seen to differ: the Orchestrator is the only one that observes. A hit to be verified is not kept.
    """

    def __init__(self, namespace: str, settings: CacheSettings, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(namespace)
        self._settings, self._clock = settings, clock
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
        found = await super().lookup(key, claimant, wait_s)
        if isinstance(found, Hit) and not found.verify:
            failed = found.value.outcome is not Outcome.OK
            left_s = (self._settings.error_ttl_s if failed else self._settings.ttl_s) - found.age_s
            if left_s > 0:
                # Counted from before the ResultCache did, so that it ends here first.
                self._hits[key] = (found, asked_at, asked_at + min(NEAR_S, left_s))
        return found

    def observe(self, key: str, equal: bool) -> None:
        if not equal:
            self._hits.pop(key, None)
        super().observe(key, equal)
