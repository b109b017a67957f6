"""Turns measured in what they cost."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from actors.core.queue.deficit_round_robin import DeficitRoundRobin

costs = st.floats(0.001, 5.0)


def serve(ring: DeficitRoundRobin, cost_s: dict[str, float], grants: int) -> Counter[str]:
    spent: Counter[str] = Counter()
    for _ in range(grants):
        user = ring.head()
        assert user is not None
        ring.charge(user, cost_s[user])
        spent[user] += cost_s[user]  # type: ignore[assignment]
    return spent


@given(quantum_s=st.floats(0.01, 2.0), user_costs=st.lists(costs, min_size=2, max_size=6), grants=st.integers(1, 300))
def test_users_who_stay_differ_by_at_most_a_quantum_and_a_run_of_each(
    quantum_s: float, user_costs: list[float], grants: int
) -> None:
    ring = DeficitRoundRobin(quantum_s)
    cost_s = {f"user-{index}": cost for index, cost in enumerate(user_costs)}
    for user, cost in cost_s.items():
        ring.join(user, cost)
    spent = serve(ring, cost_s, grants)
    for one in cost_s:
        for other in cost_s:
            assert spent[one] - spent[other] <= quantum_s + cost_s[one] + cost_s[other] + 1e-6


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["join", "leave", "charge"]), costs), max_size=200))
def test_the_head_is_always_in_the_ring_and_there_is_one_while_anybody_is(steps: list[tuple[int, str, float]]) -> None:
    ring = DeficitRoundRobin(0.25)
    inside: set[str] = set()
    for number, step, cost_s in steps:
        user = f"user-{number}"
        if step == "join":
            ring.join(user, cost_s)
            inside.add(user)
        elif step == "leave":
            ring.leave(user)
            inside.discard(user)
        else:
            ring.charge(user, cost_s)
        head = ring.head()
        assert (head in inside) if inside else (head is None)


def test_a_turn_lasts_for_as_many_runs_as_a_quantum_covers() -> None:
    ring = DeficitRoundRobin(0.25)
    ring.join("a", 0.05)
    ring.join("b", 0.05)
    order = []
    for _ in range(15):
        user = ring.head()
        assert user is not None
        order.append(user)
        ring.charge(user, 0.05)
    assert "".join(order) == "aaaaabbbbbaaaaa"


def test_a_debt_outlives_leaving_the_ring() -> None:
    ring = DeficitRoundRobin(1.0)
    ring.join("honest", 1.0)
    ring.join("cheat", 0.01)
    ring.charge("cheat", 10.0)
    ring.leave("cheat")
    ring.join("cheat", 0.01)
    spent = serve(ring, {"honest": 1.0, "cheat": 0.01}, 8)
    assert spent["cheat"] == 0


def test_leaving_and_joining_again_gives_no_second_quantum_in_a_round() -> None:
    ring = DeficitRoundRobin(1.0)
    ring.join("steady", 1.0)
    served: Counter[str] = Counter()
    for _ in range(100):
        ring.join("hopping", 0.5)
        user = ring.head()
        assert user is not None
        served[user] += 1
        ring.charge(user, 1.0 if user == "steady" else 0.5)
        ring.leave("hopping")
    assert served["steady"] >= 33


def test_a_user_who_was_away_owes_nothing_and_has_saved_nothing() -> None:
    ring = DeficitRoundRobin(1.0)
    ring.join("steady", 1.0)
    ring.join("away", 1.0)
    ring.leave("away")
    serve(ring, {"steady": 1.0}, 50)
    ring.join("away", 1.0)
    assert serve(ring, {"steady": 1.0, "away": 1.0}, 10)["away"] in (5.0, 6.0)


def test_a_refund_restores_what_an_estimate_took() -> None:
    ring = DeficitRoundRobin(1.0)
    ring.join("a", 1.0)
    ring.join("b", 1.0)
    assert ring.head() == "a"
    ring.charge("a", 100.0)
    ring.charge("a", -99.0)
    assert serve(ring, {"a": 1.0, "b": 1.0}, 10)["a"] in (4.0, 5.0)


def test_credit_from_a_refund_is_spent_not_lost() -> None:
    ring = DeficitRoundRobin(1.0)
    ring.join("a", 0.1)
    ring.join("b", 0.1)
    ring.head()
    ring.charge("a", -3.0)
    runs = 0
    while ring.head() == "a":
        ring.charge("a", 0.1)
        runs += 1
    assert runs >= 39
