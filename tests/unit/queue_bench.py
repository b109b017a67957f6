"""A queue on a bench: its owner's few lines, for tests."""

from __future__ import annotations

from typing import Any

from actors.config import QueueSettings
from actors.core.queue.fair_queue import Accepted, FairQueue, GrantDecision, Refused
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

    def ask(self, user: str, waiter_id: str = "", arrival: int | None = None, **options: Any) -> Accepted | Refused:
        self.count += 1
        fields = {"priority": Priority.NORMAL, "deadline_s": 1000.0, "ttl_s": 60.0} | options
        wanted = GrantRequest("fake", user, **fields)
        return self.queue.enqueue(waiter_id or f"{user}-{self.count}", wanted, arrival)

    def enqueue(self, user: str, **options: Any) -> str:
        """Let a run in; returns the waiter's id."""
        answer = self.ask(user, **options)
        assert isinstance(answer, Accepted), answer
        return str(options.get("waiter_id", f"{user}-{self.count}"))

    def enqueue_each(self, *users: str, **options: Any) -> list[str]:
        return [self.enqueue(user, **options) for user in users]

    def refusal(self, user: str, **options: Any) -> Refused:
        answer = self.ask(user, **options)
        assert isinstance(answer, Refused)
        return answer

    def grants(self) -> list[GrantDecision]:
        return self.queue.next_grants()

    def granted(self) -> list[str]:
        return [decision.waiter_id for decision in self.grants()]

    def release(self, granted: Grant, used_s: float = 0.05, healthy: bool = True) -> bool:
        return self.queue.release(GrantRelease(granted.grant_id, granted.backend, granted.epoch, used_s, healthy))

    def serve(self, used_s: float = 0.05) -> str:
        """Grant one and end it; returns the waiter's id."""
        (decision,) = self.grants()
        assert self.release(decision.granted, used_s)
        return decision.waiter_id
