"""The states of a sandbox slot, and the one table of moves between them."""

from __future__ import annotations

from enum import StrEnum


class SlotState(StrEnum):
    """Where a slot is, as its supervisor sees it."""

    STARTING = "starting"
    """Its actor was asked for and has not reported ready."""
    IDLE = "idle"
    """Offered to the queue."""
    LEASED = "leased"
    """Serving a user."""
    SUSPECT = "suspect"
    """Withdrawn: its actor is dead, does not answer, or is of another build."""
    RETIRING = "retiring"
    """Withdrawn: to be stopped when its lease has ended."""
    STOPPED = "stopped"
    """Gone for good; a slot never returns."""

    @property
    def alive(self) -> bool:
        """Whether it still takes room in the pool."""
        return self is not SlotState.STOPPED

    @property
    def serving(self) -> bool:
        return self in (SlotState.IDLE, SlotState.LEASED)


class IllegalMove(RuntimeError):
    """A slot was asked to do what its state does not allow: an error of the caller."""

    def __init__(self, state: SlotState, to: SlotState) -> None:
        super().__init__(state, to)
        self.state, self.to = state, to

    def __str__(self) -> str:
        return f"a slot that is {self.state} cannot become {self.to}"


_S = SlotState
MOVES: dict[SlotState, frozenset[SlotState]] = {
    _S.STARTING: frozenset({_S.IDLE, _S.SUSPECT, _S.STOPPED}),
    _S.IDLE: frozenset({_S.LEASED, _S.SUSPECT, _S.RETIRING, _S.STOPPED}),
    # Not to STOPPED: a lease ends, or its actor is found dead, before a slot may be stopped.
    _S.LEASED: frozenset({_S.IDLE, _S.SUSPECT, _S.RETIRING}),
    # To IDLE: it answered after all, and proved its build.
    _S.SUSPECT: frozenset({_S.IDLE, _S.STOPPED}),
    _S.RETIRING: frozenset({_S.SUSPECT, _S.STOPPED}),
    _S.STOPPED: frozenset(),
}


def move(state: SlotState, to: SlotState) -> SlotState:
    """Return ``to`` if a slot may go there from ``state``.

    Raises:
        IllegalMove: the table does not have that move.
    """
    if to not in MOVES[state]:
        raise IllegalMove(state, to)
    return to
