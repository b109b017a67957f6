"""A queue on a bench: its owner's few lines, for tests."""

from __future__ import annotations

from typing import Any

from actors.config import QueueSettings
from actors.core.queue.fair_queue import FairQueue
from actors.core.queue.reports import GrantDecision, Refused
from actors.schemas import Grant, GrantRelease, GrantRequest, Priority
from tests.unit.clock import FakeClock


class Bench:
    """A queue with sandboxes, and the few lines that its owner would have."""

    def __init__(self, sandboxes: int = 1, concurrency: int = 10, lone: bool = False, **options: Any) -> None:
        start = {name: options.pop(name) for name in ("epoch", "recovering_s") if name in options}
        self.clock = FakeClock()
        self.queue = FairQueue(QueueSettings(**options), concurrency, self.clock, lone_user_may_use_idle=lone, **start)
        self.count = 0
        for number in range(sandboxes):
            self.queue.offer(f"s{number}", 1)

    def ask(self, user: str, waiter_id: str = "", **options: Any) -> Refused | None:
        self.count += 1
        fields = {"priority": Priority.NORMAL, "deadline_s": 1000.0, "ttl_s": 60.0} | options
        request = GrantRequest("fake", user, **fields)
        return self.queue.enqueue(waiter_id or f"{user}-{self.count}", request)

    def enqueue(self, user: str, **options: Any) -> str:
        """Let a run in; returns the waiter's id."""
        refused = self.ask(user, **options)
        assert refused is None, refused
        return str(options.get("waiter_id", f"{user}-{self.count}"))

    def enqueue_each(self, *users: str, **options: Any) -> list[str]:
        return [self.enqueue(user, **options) for user in users]

    def refusal(self, user: str, **options: Any) -> Refused:
        refused = self.ask(user, **options)
        assert refused is not None
        return refused

    def grants(self) -> list[GrantDecision]:
        return self.queue.next_grants()

    def granted(self) -> list[str]:
        return [decision.waiter_id for decision in self.grants()]

    def release(self, grant: Grant, used_s: float = 0.05, healthy: bool = True, programs: int = 1) -> bool:
        release = GrantRelease(grant.grant_id, grant.backend, grant.epoch, used_s, healthy, programs)
        return self.queue.release(release)

    def serve(self, used_s: float = 0.05, programs: int = 1) -> str:
        """Grant one and end it; returns the waiter's id."""
        (decision,) = self.grants()
        assert self.release(decision.grant, used_s, programs=programs)
        return decision.waiter_id
