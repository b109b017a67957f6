"""What is known of an open session, and of the sandbox that it is in."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from actors.schemas import Limits


@dataclass(eq=False, slots=True)
class PinnedSandbox:
    """A sandbox that the queue hands to nobody while sessions are in it: one, or one and its forks."""

    backend: str
    sandbox_id: str
    sessions: set[str] = field(default_factory=set)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One program at a time: what they use is told apart."""
    yielding: bool = False
    """Its sessions are being closed for another user's."""


@dataclass(eq=False, slots=True)
class SessionRecord:
    """An open session: whose it is, where it lives, and how it has been used."""

    user: str
    pinned: PinnedSandbox
    opened_at: float
    used_at: float
    env: dict[str, str]
    limits: Limits
    is_fork: bool = False
    paused: bool = False
    made_way: bool = False
    """It was closed for another user's, whatever ran in it."""
    uses: int = 0
    """Programs and followers that are in it or wait for their turn."""

    @property
    def backend(self) -> str:
        return self.pinned.backend

    @property
    def sandbox_id(self) -> str:
        return self.pinned.sandbox_id

    def idle_s(self, now: float) -> float:
        """How long nobody has used it; 0 while somebody does."""
        return 0.0 if self.uses else now - self.used_at
