"""What a queue answers and reports."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from actors.core.queue.slots import SlotUse
from actors.schemas import Grant

WAITS_KEPT = 512
"""Last waits that the mean and the percentile are taken from."""


class Refusal(StrEnum):
    QUEUE_FULL = "queue_full"
    USER_QUEUE_FULL = "user_queue_full"
    DEADLINE = "deadline"
    """It would still wait when its deadline comes."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request may not wait."""

    reason: Refusal
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class GrantDecision:
    """One waiter is to be handed one grant."""

    waiter_id: str
    grant: Grant


@dataclass(frozen=True, slots=True)
class Expired:
    """A lease that ran out. Its sandbox is suspect: withdraw it, or offer it again once it is known to be well."""

    grant_id: str
    sandbox_id: str
    user: str


@dataclass(frozen=True, slots=True)
class SlotReport:
    """One sandbox, and what it is used for."""

    sandbox_id: str
    use: SlotUse
    pinned_to: str | None
    """The user whose sessions it is kept for."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What the pool is sized by."""

    waiting: int
    startable: int
    """How many of those who wait would start at once if there were sandboxes enough."""
    running: int
    idle: int
    """Sandboxes that anybody may have now."""
    pinned: int
    enqueued: int
    """Requests let in since the start; its growth is the arrival rate."""
    service_s: float
    """Moving average of sandbox-seconds per program."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What the supervisor sees of one backend's queue."""

    epoch: int
    demand: Demand
    slots: list[SlotReport]


@dataclass(frozen=True, slots=True)
class QueueNews:
    """What whoever holds grants should know."""

    contenders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Users who wait and are below their cap, by backend: what others keep is to go back for them."""
    lost: tuple[str, ...] = ()
    """The last sandboxes that went although sessions were in them."""


@dataclass(frozen=True, slots=True)
class Lost:
    """What a holder must not use any more, after a restart of the queue."""

    grant_ids: tuple[str, ...] = ()
    sandbox_ids: tuple[str, ...] = ()
    """Sandboxes that sessions held."""


class QueueStatistics:
    """Counters since the start, and how long the last grants had waited."""

    def __init__(self) -> None:
        self.enqueued = self.granted = self.completed = self.rejected = self.cancelled = self.expired = 0
        self._waits: deque[float] = deque(maxlen=WAITS_KEPT)

    def waited(self, wait_s: float) -> None:
        self.granted += 1
        self._waits.append(wait_s)

    def snapshot(self) -> dict[str, float]:
        waits = sorted(self._waits)
        ended = self.completed + self.rejected + self.expired
        return {
            "enqueued": self.enqueued,
            "granted": self.granted,
            "completed": self.completed,
            "rejected": self.rejected,
            "cancelled": self.cancelled,
            "expired": self.expired,
            "success_rate": self.completed / ended if ended else 1.0,
            "mean_wait_s": sum(waits) / len(waits) if waits else 0.0,
            "p95_wait_s": waits[int(0.95 * (len(waits) - 1))] if waits else 0.0,
        }
