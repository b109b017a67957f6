"""A run on its way through the Orchestrator."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from actors.backends.base import Emit
from actors.core.router import Route
from actors.errors import DeadlineUnreachable
from actors.schemas import ExecutionRequest, Limits


@dataclass(slots=True)
class Run:
    """One run on its way: what was asked, until when it must begin, where it went and what each stage took."""

    request: ExecutionRequest
    run_id: str
    emit: Emit | None = None
    came_at: float = field(default_factory=time.perf_counter)
    begins_by: float = math.inf
    """The run is rejected when it has not begun then: every wait and retry on its way gets what is left until it."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds spent in each stage so far, by the names of ``Timings``."""
    route: Route | None = None
    sandbox_id: str | None = None
    """Where it runs or ran."""
    session_env: dict[str, str] = field(default_factory=dict)
    session_limits: Limits = field(default_factory=Limits)
    """What its session says of all its programs."""
    may_have_run: bool = False
    """A sandbox was told to start the program, and has not said that it did not."""
    cache_key: str | None = None
    """The key of its result, if that may be shared with other runs."""
    claim_id: str | None = None
    """Its claim on the key: others wait for the result, or for word that there is none."""

    def took(self, stage: str, since: float) -> None:
        self.stages[stage] = self.stages.get(stage, 0.0) + time.perf_counter() - since

    def begin_within(self, seconds: float) -> None:
        """Start the clock; the first word holds, since nothing on the way may give a run more time."""
        if self.begins_by is math.inf:
            self.begins_by = time.perf_counter() + seconds

    def left_s(self) -> float:
        """What is left of the time to begin in.

        Raises:
            DeadlineUnreachable: nothing is.
        """
        left_s = self.begins_by - time.perf_counter()
        if left_s <= 0:
            raise DeadlineUnreachable("the run did not begin in time")
        return left_s
