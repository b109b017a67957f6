from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis.strategies import sampled_from

from actors.core.pool.lifecycle import MOVES, IllegalMove, SlotState, move

S = SlotState


@pytest.mark.parametrize(
    "path",
    [
        [S.STARTING, S.IDLE, S.LEASED, S.IDLE, S.STOPPED],
        [S.STARTING, S.STOPPED],
        [S.LEASED, S.RETIRING, S.STOPPED],
        [S.LEASED, S.SUSPECT, S.IDLE],
        [S.RETIRING, S.SUSPECT, S.STOPPED],
    ],
)
def test_a_slot_may_live_like_this(path: list[SlotState]) -> None:
    state = path[0]
    for to in path[1:]:
        state = move(state, to)
    assert state is path[-1]


@given(sampled_from(S), sampled_from(S))
def test_any_move_outside_the_table_raises(state: SlotState, to: SlotState) -> None:
    if to in MOVES[state]:
        assert move(state, to) is to
    else:
        with pytest.raises(IllegalMove, match=f"{state} cannot become {to}"):
            move(state, to)


def test_a_leased_slot_is_never_stopped_at_once() -> None:
    with pytest.raises(IllegalMove):
        move(S.LEASED, S.STOPPED)


def test_stopped_is_the_end_and_can_be_reached_from_everywhere() -> None:
    assert not MOVES[S.STOPPED]
    for state in S:
        reached = {state}
        while (further := reached.union(*(MOVES[there] for there in reached))) != reached:
            reached = further
        assert S.STOPPED in reached


def test_an_illegal_move_can_be_sent_between_actors() -> None:
    error = pickle.loads(pickle.dumps(IllegalMove(S.LEASED, S.STOPPED)))
    assert (error.state, error.to) == (S.LEASED, S.STOPPED)
