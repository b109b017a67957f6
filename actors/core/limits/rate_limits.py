"""What the rate limiter decides: leases of tokens within a plan, and permits for what exists at one time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.core.clock import Clock
from actors.core.lazy_heap import LazyHeap
from actors.core.limits.adaptive_rate import AdaptiveRate
from actors.core.limits.health import Health, Outcomes
from actors.core.limits.holds import Holds, Semaphore
from actors.core.limits.token_bucket import Decision, TokenBucket

_SMALL = 5  # tokens; a plan with no more than this may spend all of them at once
_BURST_SHARE = 10
_ROUNDING_S = 1e-6  # without it a caller who waits exactly as told can come a rounding too early


@dataclass(frozen=True, slots=True)
class LimitKey:
    """What has a limit of its own: one operation of a backend, seen from one egress address."""

    backend: str
    operation: str
    egress: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.backend, self.operation, self.egress) if part)


@dataclass(frozen=True, slots=True)
class Plan:
    """At most ``limit`` tokens in any ``window_s`` seconds."""

    limit: int
    window_s: float

    def __post_init__(self) -> None:
        if self.limit < 1 or self.window_s <= 0:
            raise ValueError("a plan allows at least one token in a window above 0 s")

    @classmethod
    def per_second(cls, rate: float) -> Plan:
        """The plan of the shortest window that holds a whole number of tokens; ``rate`` may be below 1."""
        limit = max(1, int(rate))
        return cls(limit, limit / rate)

    @property
    def burst(self) -> int:
        """Tokens that may be leased at once; more are paced. The smaller, the sooner a restarted limiter may issue."""
        return max(self.limit // _BURST_SHARE, min(self.limit, _SMALL))


@dataclass(frozen=True, slots=True)
class TokenLease:
    """Leave to spend ``granted`` tokens, counted from the moment that the holder asked, within ``ttl_s`` seconds."""

    lease_id: str
    granted: int
    ttl_s: float
    retry_after_s: float = 0.0
    """When fewer were granted than wanted: until another could be."""


class RateLimits:
    """Lease tokens so that no window ever sees more spent than the plan allows.

    For each key, in every window of ``window_s`` seconds: tokens spent + tokens in leases not yet expired ≤ ``limit``,
    however late in its time a lease is spent. A key without a plan is unlimited. A holder that gives a lease back as
    soon as it has spent it, even all of it, has its tokens counted for the window only, not for the lease's time too.

    Two gates are behind it. A sliding window charges each lease until its expiry plus ``window_s``. A token bucket of
    ``burst`` and the plan's own rate paces what is issued: at a restart everything leased before is unknown, and the
    bucket then issues nothing for ``ttl_s + window_s * burst / limit`` and starts empty. That is enough: before it at
    most ``burst + rate * x`` was leased in any x seconds, and afterwards at most ``rate * x`` is.

    A restarted limiter needs an ``incarnation`` of its own, so that leases of the one before are not taken for its.
    """

    def __init__(
        self,
        plans: Mapping[tuple[str, str], Plan],
        clock: Clock,
        *,
        incarnation: str,
        semaphores: Mapping[tuple[str, str], Semaphore] | None = None,
        lease_ttl_s: float = 1.0,
        hold_ttl_s: float = 30.0,
        restarted: bool = True,
    ) -> None:
        """``plans`` and ``semaphores`` are by (backend, operation)."""
        self._plans, self._clock, self._incarnation, self._restarted = dict(plans), clock, incarnation, restarted
        self._lease_ttl_s = lease_ttl_s
        self._limits: dict[LimitKey, _Limit] = {}
        self._healths: dict[str, Health] = {}
        self._started_at = clock()
        self._issued = 0
        self._holds: Holds[LimitKey] = Holds(clock, hold_ttl_s, restarted)
        self._semaphores = dict(semaphores or {})

    def lease(self, holder: str, key: LimitKey, wanted: int) -> TokenLease:
        """Grant up to ``wanted`` tokens; with none granted, ``retry_after_s`` says when one could be."""
        if wanted < 1:
            raise ValueError("wanted must be at least 1")
        self._issued += 1
        lease_id = f"{holder}:{self._incarnation}:{self._issued}"
        limit = self._limit(key)
        if limit is None:
            return TokenLease(lease_id, wanted, self._lease_ttl_s)
        granted = limit.grant(lease_id, wanted, self._lease_ttl_s)
        return TokenLease(lease_id, granted, self._lease_ttl_s, limit.wait_s() if granted < wanted else 0.0)

    def give_back(self, lease_id: str, unused: int) -> None:
        """End a lease of which ``unused`` tokens will never be spent. One that has ended already is passed over.

        Raises:
            ValueError: ``unused`` is negative or more than was granted.
        """
        for limit in self._limits.values():
            if limit.give_back(lease_id, unused):
                return

    def report(self, key: LimitKey, outcomes: Outcomes) -> float:
        """Take in how calls ended, and return how well their backend does.

        Throttled ones halve this operation's rate; failed ones lower all rates of the backend with its health.
        """
        health = self._health(key.backend)
        health.observe(outcomes)
        limit = self._limit(key)
        if limit is not None and outcomes.throttled:
            limit.throttled(outcomes.throttled)
        return health.score

    def reserve(self, holder: str, key: LimitKey, count: int = 1) -> Decision:
        """Take ``count`` permits of a semaphore until they are released, or the holder is not heard of for too long.

        Raises:
            ValueError: ``count`` exceeds all there are, so no wait would ever be enough.
        """
        semaphore = self._semaphores.get((key.backend, key.operation))
        return self._holds.reserve(holder, key, count, semaphore)

    def release(self, holder: str, key: LimitKey, count: int = 1) -> None:
        self._holds.release(holder, key, count)

    def renew(self, holder: str, held: Mapping[LimitKey, int] | None = None) -> None:
        """Say that ``holder`` lives, and, if ``held`` is given, what it holds: after a restart nobody else knows."""
        self._holds.renew(holder, held)

    def snapshot(self) -> dict[str, Any]:
        """State for metrics; ``health_score`` is the worst backend's."""
        limits = {str(key): limit.snapshot() for key, limit in self._limits.items()}
        health = {backend: health.score for backend, health in self._healths.items()}
        return {
            "health_score": min(health.values(), default=1.0),
            "health": health,
            "throttled": sum(limit["throttled"] for limit in limits.values()),
            "available_tokens": {name: limit["available_tokens"] for name, limit in limits.items()},
            "outstanding": {name: limit["outstanding"] for name, limit in limits.items()},
            "limits": limits,
            "semaphores": {
                str(key): {"permits": self._semaphores[key.backend, key.operation].permits, "held": held}
                for key, held in self._holds.held().items()
                if (key.backend, key.operation) in self._semaphores
            },
        }

    def _limit(self, key: LimitKey) -> _Limit | None:
        plan = self._plans.get((key.backend, key.operation))
        if plan is None:
            return None
        limit = self._limits.get(key)
        if limit is None:
            since = self._started_at + self._lease_ttl_s if self._restarted else None
            health = self._health(key.backend)
            limit = self._limits[key] = _Limit(plan, health, self._clock, since, self._lease_ttl_s)
        return limit

    def _health(self, backend: str) -> Health:
        """A backend's, whether it has a plan or not."""
        health = self._healths.get(backend)
        if health is None:
            health = self._healths[backend] = Health(self._clock)
        return health


@dataclass(slots=True)
class _Charge:
    tokens: int
    expires_at: float
    """The lease may be spent until then."""


class _Limit:
    """One key's plan, the leases charged to it, and how fast it issues."""

    def __init__(
        self, plan: Plan, health: Health, clock: Clock, silent_until: float | None, cut_interval_s: float
    ) -> None:
        self._plan, self._health, self._clock = plan, health, clock
        rate_per_s = plan.limit / plan.window_s
        # The debt of a restart is what may have been leased unknown to us; refilling it is the silence that is due.
        tokens = None if silent_until is None else (clock() - silent_until) * rate_per_s - plan.burst
        self._bucket = TokenBucket(rate_per_s, plan.burst, clock, tokens)
        self._rate = AdaptiveRate(clock, cut_interval_s)
        self._charges: dict[str, _Charge] = {}
        self._frees: LazyHeap[float, str] = LazyHeap()  # by when no window that is still open contains a spending
        self._charged = 0
        self._throttled = 0

    def grant(self, lease_id: str, wanted: int, ttl_s: float) -> int:
        granted = min(wanted, self._available())
        if granted > 0:
            self._bucket.try_acquire(granted)
            self._charge(lease_id, granted, self._clock() + ttl_s)
        return granted

    def give_back(self, lease_id: str, unused: int) -> bool:
        charge, now = self._charges.get(lease_id), self._clock()
        if charge is None:
            return False
        if not 0 <= unused <= charge.tokens:
            raise ValueError(f"{unused} tokens are not a part of the {charge.tokens} granted")
        if charge.expires_at > now:
            # What is unused leaves the window, but not the pace: a restart could not tell that it was given back.
            self._discharge(lease_id)
            if charge.tokens > unused:
                self._charge(lease_id, charge.tokens - unused, now)
        return True

    def throttled(self, times: int) -> None:
        self._throttled += times
        self._rate.cut()
        self._bucket.drain()
        self._adapt()

    def wait_s(self) -> float:
        """Until one more token could be granted."""
        self._free()
        pace_s = self._bucket.wait_s(1)
        if self._charged < self._plan.limit:
            return pace_s
        first = self._frees.first()
        assert first is not None, "what is charged is freed some time"
        return max(pace_s, first[0] - self._clock() + _ROUNDING_S)

    def snapshot(self) -> dict[str, Any]:
        available, now = self._available(), self._clock()
        return {
            "limit": self._plan.limit,
            "window_s": self._plan.window_s,
            "rate_per_s": self._bucket.rate_per_s,
            "available_tokens": available,
            "outstanding": sum(charge.tokens for charge in self._charges.values() if charge.expires_at > now),
            "throttled": self._throttled,
        }

    def _available(self) -> int:
        self._adapt()
        self._free()
        return min(self._plan.limit - self._charged, self._bucket.available())

    def _adapt(self) -> None:
        self._bucket.set_rate(self._rate.factor(self._health.score) * self._plan.limit / self._plan.window_s)

    def _charge(self, lease_id: str, tokens: int, expires_at: float) -> None:
        self._charges[lease_id] = _Charge(tokens, expires_at)
        self._charged += tokens
        self._frees.push(expires_at + self._plan.window_s, lease_id)

    def _discharge(self, lease_id: str) -> None:
        self._charged -= self._charges.pop(lease_id).tokens
        self._frees.discard(lease_id)

    def _free(self) -> None:
        """Drop what no window contains any more."""
        for _, lease_id in self._frees.pop_until(self._clock()):
            self._discharge(lease_id)
