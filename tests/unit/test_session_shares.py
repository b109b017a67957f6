"""How sandboxes are shared out among sessions: a reserve, equal shares, a place for newcomers, and in time for all."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.config import SessionSettings
from actors.core.session_shares import Admitted, Holding, Refused, SessionShares
from tests.unit.clock import FakeClock

IDLE_S, ASSURED_S = 900.0, 300.0


class Bench:
    """The sandboxes of a backend, and users who open and close sessions in them."""

    def __init__(self, sandboxes: int = 10, reserve: int | None = None) -> None:
        self.clock = FakeClock()
        told = SessionSettings(reserve=reserve, idle_s=IDLE_S, assured_s=ASSURED_S)
        self.shares = SessionShares(told, sandboxes, self.clock)
        self.held: dict[str, tuple[str, float, float]] = {}
        self._opened = 0

    def ask(self, user: str) -> Admitted | Refused:
        return self.shares.ask(user, self.holdings(), {})

    def open(self, user: str) -> Admitted | Refused:
        answer = self.ask(user)
        if isinstance(answer, Admitted):
            if answer.yielding is not None:
                del self.held[answer.yielding]
            self._opened += 1
            self.held[f"s{self._opened}"] = (user, self.clock(), self.clock())
        return answer

    def open_all(self, user: str) -> int:
        """Open as many as the user may; returns how many it then has."""
        while isinstance(self.open(user), Admitted):
            pass
        return self.counts()[user]

    def use(self, place: str) -> None:
        user, opened_at, _ = self.held[place]
        self.held[place] = (user, opened_at, self.clock())

    def counts(self) -> Counter[str]:
        return Counter(user for user, _, _ in self.held.values())

    def holdings(self) -> list[Holding]:
        now = self.clock()
        return [
            Holding(place, user, f"session-{place}", now - opened_at, now - used_at, IDLE_S - (now - used_at))
            for place, (user, opened_at, used_at) in self.held.items()
        ]


def test_a_user_who_is_alone_leaves_a_reserve_and_room_for_newcomers() -> None:
    bench = Bench(10)
    assert bench.shares.shareable == 8
    assert bench.open_all("ann") == 6
    assert [isinstance(bench.open(user), Admitted) for user in ("bob", "cyd", "dan")] == [True, True, False]


@pytest.mark.parametrize(
    ("sandboxes", "reserve", "shareable"),
    [(1, None, 0), (2, None, 1), (4, None, 3), (8, None, 6), (10, 5, 5), (2, 9, 0)],
)
def test_a_reserve_is_never_given_to_sessions(sandboxes: int, reserve: int | None, shareable: int) -> None:
    bench = Bench(sandboxes, reserve)
    assert bench.shares.shareable == shareable
    for user in "abcdefghijkl":
        bench.open(user)
    assert len(bench.held) == shareable


def test_who_has_its_share_is_told_what_to_close_and_when_one_closes_by_itself() -> None:
    bench = Bench(10)
    bench.open("bob")
    assert bench.open_all("ann") == 4
    bench.clock.advance(100.0)
    bench.use("s2")
    refused = bench.ask("ann")
    assert isinstance(refused, Refused)
    assert refused.reason == (
        "user ann has 4 of the 8 sandboxes that 2 users' sessions share; close one first, as session session-s3"
    )
    assert refused.retry_after_s == IDLE_S - 100.0


def test_a_user_who_was_refused_counts_until_it_has_had_time_to_come_back() -> None:
    bench = Bench(10)
    assert bench.open_all("ann") == 6
    for user in ("bob", "cyd"):
        bench.open(user)
    refused = bench.ask("dan")
    assert isinstance(refused, Refused)
    del bench.held["s7"], bench.held["s8"]
    # Three users now, of whom the third has nothing yet.
    bench.open("bob")
    assert bench.open_all("bob") == 1
    bench.clock.advance(refused.retry_after_s + 61.0)
    assert isinstance(bench.open("bob"), Admitted)


def test_nothing_has_to_be_yielded_before_its_time_and_then_only_what_is_beyond_a_share() -> None:
    bench = Bench(10)
    assert bench.open_all("ann") == 6
    bench.clock.advance(10.0)
    assert bench.open_all("bob") == 1, "the last place is a newcomer's"
    refused = bench.ask("bob")
    assert isinstance(refused, Refused)
    assert refused.retry_after_s == ASSURED_S - 10.0
    bench.clock.advance(refused.retry_after_s)
    bench.use("s1")
    assert bench.open("bob") == Admitted(yielding="s2")
    assert bench.open_all("bob") == 3
    assert bench.counts() == {"ann": 4, "bob": 3}
    assert "s1" in bench.held


def test_of_those_beyond_their_share_who_has_most_yields_first_and_rather_what_is_not_in_use() -> None:
    bench = Bench(14, reserve=2)
    for user, sessions in (("ann", 5), ("bob", 4)):
        for _ in range(sessions):
            bench.held[f"{user}-{len(bench.held)}"] = (user, 0.0, 0.0)
    for user in ("cyd", "dan", "eve"):
        bench.held[user] = (user, 0.0, 0.0)
    bench.clock.advance(ASSURED_S)
    for place in ("ann-0", "ann-1", "ann-2", "ann-4"):
        bench.use(place)
    assert bench.ask("fay") == Admitted(yielding="ann-3")


def test_what_is_just_being_opened_counts() -> None:
    bench = Bench(6)
    assert isinstance(bench.shares.ask("ann", [], {"ann": 5}), Refused)
    assert isinstance(bench.shares.ask("ann", [], {"bob": 5}), Refused)
    assert isinstance(bench.shares.ask("ann", [], {"bob": 4}), Admitted)


def test_several_sessions_in_a_sandbox_free_it_together() -> None:
    one = Holding("s", "ann", "one", open_s=50.0, idle_s=0.0, closes_in_s=900.0)
    other = Holding("s", "ann", "other", open_s=20.0, idle_s=20.0, closes_in_s=880.0)
    together = Holding("s", "ann", "other", open_s=50.0, idle_s=0.0, closes_in_s=900.0)
    assert one.together(other) == other.together(one) == together


def test_users_without_end_cost_no_memory() -> None:
    bench = Bench(10)
    for number in range(1000):
        bench.open(f"user{number}")
    assert len(bench.shares._wanted_until) <= bench.shares.shareable


@given(sandboxes=st.integers(2, 40), users=st.lists(st.integers(1, 9), min_size=2, max_size=60))
def test_in_time_everybody_who_asks_has_a_share(sandboxes: int, users: list[int]) -> None:
    """Whoever came first, and however often each asks: nobody has less than its share while another has more."""
    bench = Bench(sandboxes)
    asking = [f"user{number}" for number in dict.fromkeys(users)]
    bench.open_all(asking[0])
    for _ in range(3):
        bench.clock.advance(ASSURED_S)
        for user in asking:
            bench.open_all(user)
    share = max(1, bench.shares.shareable // len(asking))
    counts = bench.counts()
    if max(counts.values()) > share:
        assert min(counts[user] for user in asking) >= share


class Sharing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(9)

    @rule(user=st.sampled_from("abcde"))
    def open(self, user: str) -> None:
        before = self.bench.counts()
        oldest = {place: self.bench.clock() - held[1] for place, held in self.bench.held.items()}
        owner = {place: held[0] for place, held in self.bench.held.items()}
        answer = self.bench.open(user)
        if isinstance(answer, Refused):
            assert answer.retry_after_s >= 0
            assert self.bench.counts() == before, "who is refused changes nothing"
        elif answer.yielding is not None:
            assert oldest[answer.yielding] >= ASSURED_S
            assert before[owner[answer.yielding]] > before[user] + 1, "who yields still has no less"

    @precondition(lambda self: self.bench.held)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        del self.bench.held[data.draw(st.sampled_from(sorted(self.bench.held)))]

    @precondition(lambda self: self.bench.held)
    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        self.bench.use(data.draw(st.sampled_from(sorted(self.bench.held))))

    @rule(seconds=st.floats(0.0, 400.0))
    def wait(self, seconds: float) -> None:
        self.bench.clock.advance(seconds)

    @invariant()
    def the_reserve_stays(self) -> None:
        assert len(self.bench.held) <= self.bench.shares.shareable

    @invariant()
    def a_newcomer_gets_a_place_while_there_is_one(self) -> None:
        if len(self.bench.held) < self.bench.shares.shareable:
            assert isinstance(self.bench.shares.ask("newcomer", self.bench.holdings(), {}), Admitted)


Sharing.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestSharing = Sharing.TestCase
