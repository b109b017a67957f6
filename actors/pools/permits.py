"""How many sandboxes of a backend its plan lets there be at a time."""

from __future__ import annotations

from actors.backends.specs import BackendSpec
from actors.clients.singletons import LimiterClient
from actors.errors import PoolExhausted


class Permits:
    """Places for sandboxes within the plan; without a quota there is no end of them, and nobody is asked.

    The limiter counts them, and forgets who does not renew; a limiter that was restarted learns them from that.
    """

    def __init__(self, spec: BackendSpec, limiter: LimiterClient) -> None:
        self._backend, self._quota, self._limiter = spec.name, spec.quota.sandboxes, limiter
        self._holder = f"supervisor/{spec.name}"
        self._held: set[str] = set()

    async def take(self, sandbox_id: str) -> None:
        """Take a place for one sandbox more.

        Raises:
            PoolExhausted: the plan allows no more at a time.
        """
        if self._quota is None:
            return
        decision = await self._limiter.reserve(self._holder, self._backend)
        if not decision.admitted:
            why = f"all {self._quota} sandboxes of {self._backend} that its plan allows at a time are there"
            raise PoolExhausted(why, decision.retry_after_s)
        self._held.add(sandbox_id)

    def adopt(self, sandbox_id: str) -> None:
        """Count a sandbox that took its place in an earlier life; the next renewal tells of it."""
        if self._quota is not None:
            self._held.add(sandbox_id)

    def give_up(self, sandbox_id: str) -> None:
        """Leave the place of a sandbox that is gone; one that had none is passed over."""
        if sandbox_id in self._held:
            self._held.discard(sandbox_id)
            self._limiter.release(self._holder, self._backend)

    async def renew(self) -> None:
        """Say how many there are."""
        if self._quota is not None:
            await self._limiter.renew(self._holder, self._backend, len(self._held))
