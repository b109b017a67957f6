"""Permits for what exists at one time, such as sandboxes of an account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from actors.core.clock import Clock
from actors.core.limits.token_bucket import Decision

K = TypeVar("K", bound=Hashable)

RETRY_S = 1.0  # when a permit comes free is up to its holder


@dataclass(frozen=True, slots=True)
class Semaphore:
    """At most ``permits`` at a time."""

    permits: int


class Holds(Generic[K]):
    """Count permits by key and holder, so that a holder which dies does not keep its own for ever.

    A holder not heard of for ``ttl_s`` holds nothing any more. After a restart nothing is reserved for as long, until
    every holder that lives has said in ``renew`` what it holds.
    """

    def __init__(self, clock: Clock, ttl_s: float, restarted: bool) -> None:
        self._clock, self._ttl_s = clock, ttl_s
        self._silent_until = clock() + ttl_s if restarted else clock()
        self._held: dict[str, Counter[K]] = {}
        self._expires_at: dict[str, float] = {}

    def reserve(self, holder: str, key: K, count: int, semaphore: Semaphore | None) -> Decision:
        """Take permits, if that many are left; no semaphore is no limit.

        Raises:
            ValueError: ``count`` is below 1 or exceeds all there are.
        """
        if count < 1:
            raise ValueError("count must be at least 1")
        if semaphore is not None:
            if count > semaphore.permits:
                raise ValueError(f"{count} permits can never fit {semaphore.permits}")
            now = self._clock()
            if now < self._silent_until:
                return Decision(admitted=False, retry_after_s=self._silent_until - now)
            if self.held()[key] + count > semaphore.permits:
                return Decision(admitted=False, retry_after_s=RETRY_S)
        self.renew(holder)
        self._held[holder][key] += count
        return Decision(admitted=True)

    def release(self, holder: str, key: K, count: int) -> None:
        """Give permits up. Those that expired, or were lost with a restart, are passed over."""
        if count < 1:
            raise ValueError("count must be at least 1")
        held = self._held.get(holder)
        if held is not None:
            held[key] = max(0, held[key] - count)

    def renew(self, holder: str, held: Mapping[K, int] | None = None) -> None:
        """Prolong what ``holder`` holds; ``held`` replaces what was known of it, even beyond the limit: it exists."""
        self._reap()
        self._expires_at[holder] = self._clock() + self._ttl_s
        if held is not None:
            self._held[holder] = Counter(dict(held))
        else:
            self._held.setdefault(holder, Counter())

    def held(self) -> Counter[K]:
        """Permits held by key."""
        self._reap()
        return sum(self._held.values(), Counter())

    def _reap(self) -> None:
        now = self._clock()
        for holder in [holder for holder, expires_at in self._expires_at.items() if expires_at <= now]:
            del self._expires_at[holder], self._held[holder]
