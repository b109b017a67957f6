"""A sandbox actor, as the pool that it is in knows it."""

from __future__ import annotations

from dataclasses import dataclass

from actors.clients.sandboxes import SandboxClient
from actors.core.pool.lifecycle import SlotState, move
from actors.core.pool.plan import SlotView
from actors.schemas import SandboxStatus


@dataclass(eq=False, slots=True)
class PoolSlot:
    """One sandbox actor: its state, and what it last said of itself."""

    client: SandboxClient
    since: float
    """When its state last changed."""
    checked_at: float
    state: SlotState = SlotState.STARTING
    status: SandboxStatus | None = None
    busy: bool = False
    """A lease on it is running."""
    suspected: bool = False
    """The queue doubts that it is well, and gives it to nobody."""
    examining: bool = False
    """It is being checked or renewed."""
    stopping: bool = False
    """It is being withdrawn and stopped."""

    @property
    def sandbox_id(self) -> str:
        return self.client.name

    @property
    def serving(self) -> bool:
        """Whether it is offered to the queue, and stays so."""
        return self.state.serving and not self.stopping

    def become(self, state: SlotState, now: float) -> None:
        if state is not self.state:
            self.state, self.since = move(self.state, state), now

    def checked(self, status: SandboxStatus, now: float) -> None:
        """Take in what it says of itself, which proves that it is alive."""
        self.status, self.checked_at = status, now

    def view(self, now: float) -> SlotView:
        status = self.status
        return SlotView(
            sandbox_id=self.sandbox_id,
            state=self.state,
            in_state_s=now - self.since,
            unchecked_s=now - self.checked_at,
            age_s=status.age_s + now - self.checked_at if status else 0.0,
            executions=status.executions if status else 0,
            sessions=status.sessions if status else 0,
            build_tag=status.build_tag if status else None,
            busy=self.busy,
            suspected=self.suspected,
            examining=self.examining,
            stopping=self.stopping,
        )
