"""What the pool should do next: a function from what is seen to a list of commands."""

from __future__ import annotations

import math
from dataclasses import dataclass

from actors.config import PoolSettings
from actors.core.pool.lifecycle import SlotState


@dataclass(frozen=True, slots=True)
class SlotView:
    """One slot as it looks now; all durations, no clock readings."""

    sandbox_id: str
    state: SlotState
    in_state_s: float = 0.0
    unchecked_s: float = 0.0
    """How long ago it proved that it is alive and of the right build."""
    age_s: float = 0.0
    """How long the sandbox inside has lived."""
    executions: int = 0
    """Runs that the sandbox inside has served."""
    sessions: int = 0
    """Sessions open in it; their state would be lost with it."""
    build_tag: str | None = None
    """None while it has not said."""
    busy: bool = False
    """Whether a lease is still running; asked only of a retiring slot."""
    suspected: bool = False
    """The queue doubts that it is well, and gives it to nobody."""
    examining: bool = False
    """A check or a renewal of it is under way: one at a time."""
    stopping: bool = False
    """Its stop is under way: it takes room until it is gone, and is commanded no more."""


@dataclass(frozen=True, slots=True)
class PoolView:
    """The pool and what is asked of it. Every slot is listed until it is known to be gone."""

    slots: tuple[SlotView, ...] = ()
    waiting: int = 0
    """Runs that would start at once if there were a slot."""
    concurrency: float = 0.0
    """Runs in flight on the average, by Little's law."""
    build_tag: str | None = None
    """Expected of every slot; None expects nothing."""
    start_failures: int = 0
    """Starts in a row that failed."""
    start_wait_s: float = 0.0
    """Start nothing for so long."""
    health: float = 1.0
    """How well the backend does, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start a new slot."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Withdraw the slot and stop it; one that was leased meanwhile retires and is stopped after its lease."""

    sandbox_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Stop a slot that is of no use and start another beside it; there is room for both."""

    sandbox_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Refresh:
    """Have the slot put a new sandbox in the place of the one inside. Its answer is as good as a check's."""

    sandbox_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Check:
    """Ask the slot whether it is alive and of the right build; tells it, too, that it is not orphaned."""

    sandbox_id: str


Command = Start | Stop | Replace | Refresh | Check


def target_size(view: PoolView, limits: PoolSettings) -> int:
    """Slots that the load needs now, within the configured bounds."""
    leased = sum(slot.state is SlotState.LEASED for slot in view.slots)
    needed = max(math.ceil(view.concurrency), leased) + view.waiting
    return min(max(needed, limits.target_size, limits.min_size), limits.max_size)


def plan(view: PoolView, limits: PoolSettings) -> list[Command]:
    """Commands that move the pool one step towards its target.

    It grows at once and shrinks slowly. Obeying them all never makes more than ``max_size`` slots alive, starting ones
    included, nor more than ``max_starting`` starting, and never stops a leased slot or one that holds a session.
    """
    target = target_size(view, limits)
    standing = [slot for slot in view.slots if not slot.stopping]
    useless = {slot.sandbox_id: reason for slot in standing if (reason := _useless(slot, view, limits))}
    useful = [slot for slot in standing if slot.sandbox_id not in useless]
    starting = sum(slot.state is SlotState.STARTING for slot in view.slots)
    coming = sum(slot.state is SlotState.STARTING for slot in useful)
    serving = sum(slot.state.serving for slot in useful)
    room = limits.max_size - sum(slot.state.alive for slot in view.slots)
    starts = max(0, min(target - serving - coming, _startable(view, limits) - starting, room))

    commands: list[Command] = []
    for sandbox_id, reason in useless.items():
        commands.append(Replace(sandbox_id, reason) if starts > 0 else Stop(sandbox_id, reason))
        starts = max(0, starts - 1)
    commands += [Start()] * starts
    surplus = _surplus(useful, serving - target, limits)
    commands += [Stop(slot.sandbox_id, "idle and not needed") for slot in surplus]
    commands += _upkeep([slot for slot in useful if slot not in surplus], limits)
    return commands


def _startable(view: PoolView, limits: PoolSettings) -> int:
    """Starts that may be under way: none while backing off, one to try with until it succeeds, else as is healthy."""
    if view.start_wait_s > 0:
        return 0
    return 1 if view.start_failures else max(1, int(limits.max_starting * view.health))


def _useless(slot: SlotView, view: PoolView, limits: PoolSettings) -> str:
    """Why the slot must go whatever the load; empty if it need not, or not yet."""
    if slot.state is SlotState.SUSPECT:
        return "dead or not answering"
    if slot.state is SlotState.RETIRING and not slot.busy:
        return "its lease has ended"
    if slot.state is SlotState.STARTING and slot.in_state_s > limits.start_timeout_s:
        return f"not ready after {slot.in_state_s:.0f} s"
    if slot.state is SlotState.IDLE and not slot.sessions and view.build_tag and slot.build_tag is not None:
        return f"of build {slot.build_tag}, not {view.build_tag}" if slot.build_tag != view.build_tag else ""
    return ""


def _surplus(slots: list[SlotView], excess: int, limits: PoolSettings) -> list[SlotView]:
    """Longest idle first. Slots still starting do not count as excess: they may yet fail."""
    stale = [
        slot
        for slot in slots
        if slot.state is SlotState.IDLE and not slot.sessions and slot.in_state_s >= limits.idle_shrink_s
    ]
    return sorted(stale, key=lambda slot: -slot.in_state_s)[: max(excess, 0)]


def _upkeep(slots: list[SlotView], limits: PoolSettings) -> list[Command]:
    commands: list[Command] = []
    for slot in slots:
        if slot.examining:
            continue
        if slot.suspected and slot.state.serving:
            commands.append(Check(slot.sandbox_id))
        elif slot.state is SlotState.IDLE and not slot.sessions and slot.executions >= limits.max_executions:
            commands.append(Refresh(slot.sandbox_id, f"served {slot.executions} runs"))
        elif slot.state is SlotState.IDLE and not slot.sessions and slot.age_s >= limits.max_age_s:
            commands.append(Refresh(slot.sandbox_id, f"{slot.age_s:.0f} s old"))
        elif slot.state.serving and slot.unchecked_s >= limits.maintenance_interval_s:
            commands.append(Check(slot.sandbox_id))
    return commands
