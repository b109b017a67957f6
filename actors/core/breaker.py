"""A circuit breaker that opens on failures and slowness, and closes gradually.

The state lives in one ``Breaker``; those who make calls hold its last ``BreakerSnapshot`` and ask ``admit``, a pure
function, so that asking costs no hop.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from actors.config import BreakerSettings
from actors.core.clock import Clock

TRIAL_GAP_S = 1.0
"""While half-open a trial is due so long after the last, whatever the probability: rare callers recover too."""
_SLOTS = 10  # of the window; it forgets a tenth at a time
_MAX_DOUBLINGS = 30
_ROUNDING_S = 1e-6  # without it a caller who waits exactly as told can be refused


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call. Its outcome is reported with ``generation``."""

    generation: int


@dataclass(frozen=True, slots=True)
class BreakerRefusal:
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """What a breaker knows at one instant; durations count from it."""

    state: BreakerState
    generation: int
    admit_probability: float
    retry_after_s: float
    """Until it stops being open; 0 in other states."""
    failure_rate: float
    slow_rate: float
    calls: int
    first_step: float
    """Probability that the ramp starts with."""


def admit(snapshot: BreakerSnapshot, age_s: float, rng: random.Random, idle_s: float = 0.0) -> Permit | BreakerRefusal:
    """Decide about one call from a snapshot taken ``age_s`` ago.

    A breaker that should have stopped being open since then is taken to be at the first step of its ramp. ``idle_s``
    is the time since this caller's last permit: after ``TRIAL_GAP_S`` of it a half-open breaker always admits.
    """
    if snapshot.state is BreakerState.CLOSED:
        return Permit(snapshot.generation)
    probability = snapshot.admit_probability
    if snapshot.state is BreakerState.OPEN:
        remaining_s = snapshot.retry_after_s - age_s
        if remaining_s > _ROUNDING_S:
            return BreakerRefusal(remaining_s)
        probability = snapshot.first_step
    if idle_s >= TRIAL_GAP_S - _ROUNDING_S or rng.random() < probability:
        return Permit(snapshot.generation)
    return BreakerRefusal(TRIAL_GAP_S - idle_s)


class Breaker:
    """Stop calls to a service that fails, and let them back step by step.

    CLOSED admits all, and trips when in ``window_s`` there were ``min_calls`` and the share of users for whom the
    backend fails, or is slow, reached its limit. OPEN admits none, for ``open_s`` doubled at each trip in a row,
    jittered, at most ``open_max_s``. HALF_OPEN admits with the probabilities of ``ramp``: ``ramp_calls`` successes move
    it a step up and past the last step close it; failed or slow trials move it a step down, and below the first step
    open it again. Nothing waits for a trial's answer, so a trial that hangs holds nothing up.

    Each user has one voice, however many calls: by the share of its own calls in the window, and by one failed trial at
    a step of the ramp. It takes ``min_users`` of them to trip or to step down, so that no user can do it alone.

    Every move but OPEN → HALF_OPEN, between which no call is admitted, begins a new generation, and outcomes of calls
    permitted in an earlier one are ignored. A ``cautious`` breaker starts at the last step of the ramp: it admits all,
    and the first failure makes it step back. One that replaces another must be given a ``generation`` beyond its.

    Only the service's own failures count: a program that fails is a success here.
    Source: resilience4j (time window, slow-call rate), gobreaker (generations), Envoy (slow start).
    """

    def __init__(
        self,
        settings: BreakerSettings,
        clock: Clock,
        rng: random.Random,
        *,
        min_users: int = 1,
        cautious: bool = False,
        generation: int = 0,
    ) -> None:
        if not settings.ramp:
            raise ValueError("ramp must have a step")
        self._settings, self._clock, self._rng, self._min_users = settings, clock, rng, min_users
        self._state = BreakerState.HALF_OPEN if cautious else BreakerState.CLOSED
        self._step = len(settings.ramp) - 1 if cautious else 0
        self._generation = generation
        self._successes = 0  # at this step
        self._against: set[str] = set()  # users for whom a trial failed at this step
        self._trips = 0  # since it was last closed
        self._open_until = 0.0
        self._window = _Window(settings.window_s)

    @property
    def state(self) -> BreakerState:
        self._wake()
        return self._state

    @property
    def generation(self) -> int:
        return self._generation

    def report(self, generation: int, ok: bool, duration_s: float, user: str = "") -> None:
        """Count the outcome of a call that was permitted in ``generation``."""
        self._wake()
        if generation != self._generation or self._state is BreakerState.OPEN:
            return
        slow = duration_s >= self._settings.slow_call_s
        self._window.add(self._clock(), user, failed=not ok, slow=slow)
        if ok and not slow:
            self._successes += 1
            if self._state is BreakerState.HALF_OPEN and self._successes >= self._settings.ramp_calls:
                self._step_up()
        elif self._state is BreakerState.CLOSED:
            if self._failing():
                self._trip()
        else:
            self._against.add(user)
            if len(self._against) >= self._min_users:
                self._step_down()

    def snapshot(self) -> BreakerSnapshot:
        self._wake()
        now = self._clock()
        calls, failed, slow = self._window.totals(now)
        return BreakerSnapshot(
            state=self._state,
            generation=self._generation,
            admit_probability=self._admit_probability(),
            retry_after_s=self._open_until - now if self._state is BreakerState.OPEN else 0.0,
            failure_rate=failed / calls if calls else 0.0,
            slow_rate=slow / calls if calls else 0.0,
            calls=calls,
            first_step=self._settings.ramp[0],
        )

    def _admit_probability(self) -> float:
        if self._state is BreakerState.HALF_OPEN:
            return self._settings.ramp[self._step]
        return 1.0 if self._state is BreakerState.CLOSED else 0.0

    def _failing(self) -> bool:
        now = self._clock()
        calls, *_ = self._window.totals(now)
        if calls < self._settings.min_calls:
            return False
        users = self._window.by_user(now)
        limits = self._settings.failure_rate, self._settings.slow_rate
        for limit, found in zip(limits, ("failed", "slow"), strict=True):
            counts = [(getattr(each, found), each.calls) for each in users]
            # A limit of 0 must not trip a breaker that has seen no failure at all.
            against = sum(bad > 0 and bad >= limit * of for bad, of in counts)
            if against >= max(self._min_users, limit * len(users)):
                return True
        return False

    def _wake(self) -> None:
        if self._state is BreakerState.OPEN and self._clock() >= self._open_until - _ROUNDING_S:
            self._state, self._step, self._successes = BreakerState.HALF_OPEN, 0, 0

    def _trip(self) -> None:
        longest_s = min(self._settings.open_max_s, self._settings.open_s * 2.0 ** min(self._trips, _MAX_DOUBLINGS))
        # Half of it is random, so that many breakers of one service do not come back together.
        self._open_until = self._clock() + self._rng.uniform(longest_s / 2, longest_s)
        self._trips += 1
        self._move(BreakerState.OPEN, 0)

    def _step_up(self) -> None:
        if self._step + 1 < len(self._settings.ramp):
            self._move(BreakerState.HALF_OPEN, self._step + 1)
        else:
            self._trips = 0
            self._window.clear()
            self._move(BreakerState.CLOSED, 0)

    def _step_down(self) -> None:
        if self._step == 0:
            self._trip()
        else:
            self._move(BreakerState.HALF_OPEN, self._step - 1)

    def _move(self, state: BreakerState, step: int) -> None:
        self._state, self._step, self._successes = state, step, 0
        self._against.clear()
        self._generation += 1


@dataclass(slots=True)
class _Calls:
    calls: int = 0
    failed: int = 0
    slow: int = 0

    def add(self, other: _Calls) -> None:
        self.calls += other.calls
        self.failed += other.failed
        self.slow += other.slow


class _Window:
    """Count calls of the last ``window_s``, in slots of a tenth of it; what it forgets, it forgets a slot at a time."""

    def __init__(self, window_s: float) -> None:
        self._slot_s = window_s / _SLOTS
        self._slots: deque[tuple[int, dict[str, _Calls]]] = deque()  # each with its number, the calls by user
        self._totals = _Calls()

    def add(self, now: float, user: str, *, failed: bool, slow: bool) -> None:
        number = int(now // self._slot_s)
        self._forget(number)
        if not self._slots or self._slots[-1][0] != number:
            self._slots.append((number, {}))
        call = _Calls(1, failed, slow)
        self._slots[-1][1].setdefault(user, _Calls()).add(call)
        self._totals.add(call)

    def totals(self, now: float) -> tuple[int, int, int]:
        """Calls, and how many of them failed and were slow."""
        self._forget(int(now // self._slot_s))
        return self._totals.calls, self._totals.failed, self._totals.slow

    def by_user(self, now: float) -> list[_Calls]:
        """The same for each user."""
        self._forget(int(now // self._slot_s))
        found: dict[str, _Calls] = {}
        for _, users in self._slots:
            for user, calls in users.items():
                found.setdefault(user, _Calls()).add(calls)
        return list(found.values())

    def clear(self) -> None:
        self._slots.clear()
        self._totals = _Calls()

    def _forget(self, number: int) -> None:
        while self._slots and self._slots[0][0] <= number - _SLOTS:
            for calls in self._slots.popleft()[1].values():
                self._totals.add(_Calls(-calls.calls, -calls.failed, -calls.slow))
