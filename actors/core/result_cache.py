"""Which results may be served again, and who computes one that several runs ask for at the same time."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cachetools import TLRUCache, TTLCache

from actors.config import CacheSettings
from actors.core.clock import Clock

CLAIM_TTL_S = 60.0
"""A leader that has not published for so long is taken for dead; its followers compute for themselves."""
MISTRUST_S = 3600.0
"""A program seen to answer differently is not served from the cache for so long."""
MAX_MISTRUSTED = 10_000


@dataclass(frozen=True, slots=True)
class Hit:
    value: Any
    age_s: float
    verify: bool = False
    """Run it again all the same, and tell ``observe`` whether the result was equal."""


@dataclass(frozen=True, slots=True)
class Lead:
    """Compute it, then ``publish`` or ``abandon``. Others wait for ``ttl_s``; 0 means that nobody does."""

    claim_id: str
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Follow:
    """Somebody else computes it."""

    claim_id: str
    expires_in_s: float


@dataclass(slots=True)
class _Claim:
    number: int
    claimant: str
    expires_at: float
    followers: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Entry:
    value: Any
    size_bytes: int
    ttl_s: float
    stored_at: float
    number: int
    """The number of the claim it came from: later claims have higher ones."""


class _Entries(TLRUCache[str, _Entry]):
    """Least recently used entries first out, bounded in bytes and in number, each with its own TTL."""

    def __init__(self, settings: CacheSettings, clock: Clock) -> None:
        super().__init__(
            settings.max_bytes,
            ttu=lambda _key, entry, now: now + entry.ttl_s,
            timer=clock,
            getsizeof=lambda entry: entry.size_bytes,
        )
        self._max_entries = settings.max_entries
        self.evictions = 0

    def store(self, key: str, entry: _Entry) -> None:
        if entry.size_bytes > self.maxsize:
            return
        self.pop(key, None)
        self.expire()
        while len(self) >= self._max_entries:
            self.popitem()
        self[key] = entry

    def popitem(self) -> tuple[str, _Entry]:
        self.evictions += 1
        return super().popitem()


class ResultCache:
    """Serve results until they are too old, and let one run at a time compute each.

    A key has at most one live leader, unless it is mistrusted: then everyone computes and nothing is kept. At no time
    are there more than ``max_entries`` entries or ``max_bytes`` bytes. Users are kept apart by ``cache_key``.
    """

    def __init__(
        self, settings: CacheSettings, clock: Clock, rng: random.Random, claim_ttl_s: float = CLAIM_TTL_S
    ) -> None:
        self._settings, self._clock, self._rng, self._claim_ttl_s = settings, clock, rng, claim_ttl_s
        self._entries = _Entries(settings, clock)
        self._claims: TTLCache[str, _Claim] = TTLCache(math.inf, claim_ttl_s, timer=clock)
        self._mistrusted: TTLCache[str, bool] = TTLCache(MAX_MISTRUSTED, MISTRUST_S, timer=clock)
        # Tells claims from those of a cache that was here before a restart.
        self._life = f"{rng.getrandbits(64):016x}"
        self._claimed = 0
        self._hits = self._misses = self._coalesced = self._mismatches = 0

    def lookup(self, key: str, claimant: str) -> Hit | Lead | Follow:
        """The result, leave to compute it, or word that somebody does. A leader that asks again still leads."""
        if key in self._mistrusted:
            self._misses += 1
            return Lead(self._next_claim_id(), 0.0)
        if (entry := self._entries.get(key)) is not None:
            self._hits += 1
            verify = self._rng.random() < self._settings.verify_rate
            return Hit(entry.value, self._clock() - entry.stored_at, verify)
        now = self._clock()
        if (claim := self._claims.get(key)) is not None:
            remaining_s = claim.expires_at - now
            if claim.claimant == claimant:
                return Lead(self._claim_id(claim.number), remaining_s)
            if claimant not in claim.followers:
                claim.followers.add(claimant)
                self._coalesced += 1
            return Follow(self._claim_id(claim.number), remaining_s)
        self._misses += 1
        claim_id = self._next_claim_id()
        self._claims[key] = _Claim(self._claimed, claimant, now + self._claim_ttl_s)
        return Lead(claim_id, self._claim_ttl_s)

    def publish(self, key: str, claim_id: str, value: Any, size_bytes: int, *, is_error: bool = False) -> None:
        """Keep a result and end its claim.

        A claim that has expired may still publish, but never replaces what a later claim has published.
        """
        self.abandon(key, claim_id)
        ttl_s = self._settings.error_ttl_s if is_error else self._settings.ttl_s
        number = self._number(claim_id)
        present = self._entries.get(key)
        if key in self._mistrusted or ttl_s <= 0 or (present is not None and present.number > number):
            return
        self._entries.store(key, _Entry(value, max(size_bytes, 0), ttl_s, self._clock(), number))

    def abandon(self, key: str, claim_id: str) -> None:
        """Give a claim up, so that the next who asks leads. One that is over already is left alone."""
        claim = self._claims.get(key)
        if claim is not None and claim.number == self._number(claim_id):
            del self._claims[key]

    def observe(self, key: str, equal: bool) -> None:
        """Take in whether running a cached program again gave the same; if not, never trust that program for long."""
        if equal:
            return
        self._mismatches += 1
        self._mistrusted[key] = True
        self._entries.pop(key, None)
        self._claims.pop(key, None)

    def snapshot(self) -> dict[str, Any]:
        self._entries.expire()
        asked = self._hits + self._misses
        return {
            "hits": self._hits,
            "misses": self._misses,
            "hit_rate": self._hits / asked if asked else 0.0,
            "entries": len(self._entries),
            "bytes": int(self._entries.currsize),
            "evictions": self._entries.evictions,
            "coalesced": self._coalesced,
            "mismatches": self._mismatches,
        }

    def _next_claim_id(self) -> str:
        self._claimed += 1
        return self._claim_id(self._claimed)

    def _claim_id(self, number: int) -> str:
        return f"{self._life}-{number}"

    def _number(self, claim_id: str) -> int:
        """The claim's place in the order of claims; one from before a restart comes before all."""
        life, _, number = claim_id.partition("-")
        return int(number) if life == self._life else 0


def cache_key(
    *,
    user: str | None,
    code: str,
    language: str,
    files: Mapping[str, bytes],
    env: Mapping[str, str],
    stdin: bytes | None,
    seed: int | None,
    outputs: Sequence[str],
    build_tag: str,
    limits: str,
    isolation: str,
) -> str:
    """Hash all that a result may depend on; equal for equal requests only. ``user`` is None where users share.

    Encoded as JSON, in which no field can run into the next.
    """
    parts = [
        user,
        code,
        language,
        sorted((name, _digest(data)) for name, data in files.items()),
        sorted(env.items()),
        None if stdin is None else _digest(stdin),
        seed,
        list(outputs),
        build_tag,
        limits,
        isolation,
    ]
    return _digest(json.dumps(parts).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
