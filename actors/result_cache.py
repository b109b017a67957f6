"""The ResultCache actor: results of deterministic programs, and who is computing which."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from actors.clients.singletons import Claim
from actors.config import Settings
from actors.core import result_cache as core
from actors.core.result_cache import Follow, Hit, Lead
from actors.schemas import ExecutionResult, Outcome
from actors.telemetry.logs import log_as_json

NO_CLAIM = ""
"""Its result is kept where there is none yet, and ends nobody's claim."""


class ResultCache:
    """Serve results by content hash, and let one run compute what several ask for at the same time.

    In memory only. A restart is empty: what was cached is computed again, and runs that waited for another's result
    compute it themselves.
    """

    def __init__(self, settings: Settings) -> None:
        log_as_json()
        self._cache = core.ResultCache(settings.cache, time.monotonic, random.Random())
        self._followers: dict[str, set[asyncio.Future[None]]] = {}

    async def lookup(self, key: str, claimant: str, wait_s: float) -> Hit | Lead:
        """A result, or the claim to compute it.

        Waits while another run computes it. Each follower keeps its own patience: past ``wait_s``, or when the leader
        gives up or its claim runs out, it is told to compute for itself.
        """
        deadline = time.monotonic() + wait_s
        while isinstance(found := self._cache.lookup(key, claimant), Follow):
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                return Lead(NO_CLAIM, 0.0)
            await self._settled(key, min(remaining_s, found.expires_in_s))
        return found

    async def lookup_many(self, keys: list[tuple[str, str]]) -> list[Hit | Lead | Follow]:
        """For each (key, claimant); waits for nobody."""
        return [self._cache.lookup(key, claimant) for key, claimant in keys]

    async def settle(self, claims: list[Claim]) -> None:
        """Publish results, or give claims up where there is none; whoever waits for them goes on."""
        for key, claim_id, result in claims:
            if result is None:
                self._cache.abandon(key, claim_id)
            else:
                ok = result.outcome is Outcome.OK
                self._cache.publish(key, claim_id, result, _size(result), is_error=not ok)
            for follower in self._followers.pop(key, set()):
                if not follower.done():
                    follower.set_result(None)

    async def observe(self, key: str, equal: bool) -> None:
        """Take in whether running a cached program again gave the same."""
        self._cache.observe(key, equal)

    async def metrics(self) -> dict[str, Any]:
        return self._cache.snapshot()

    async def _settled(self, key: str, wait_s: float) -> None:
        follower: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._followers.setdefault(key, set()).add(follower)
        try:
            async with asyncio.timeout(wait_s):
                await follower
        except TimeoutError:
            return  # the leader's claim or this follower's patience ran out: look again
        finally:
            if (others := self._followers.get(key)) is not None:
                others.discard(follower)
                if not others:
                    del self._followers[key]


def _size(result: ExecutionResult) -> int:
    """Bytes, roughly: what a result holds is nearly all in its texts."""
    rich = sum(len(value) for shown in result.results for _, value in shown if isinstance(value, str))
    return 1024 + len(result.stdout) + len(result.stderr) + rich
