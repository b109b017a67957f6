from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.config import CacheSettings
from actors.core.result_cache import CLAIM_TTL_S, MISTRUST_S, Follow, Hit, Lead, ResultCache, cache_key
from tests.unit.clock import FakeClock


def make(clock: FakeClock, **options: Any) -> ResultCache:
    return ResultCache(CacheSettings(**{"verify_rate": 0.0, **options}), clock, random.Random(1))


def lead(cache: ResultCache, key: str, claimant: str = "a") -> Lead:
    found = cache.lookup(key, claimant)
    assert isinstance(found, Lead)
    return found


def store(cache: ResultCache, key: str, value: Any = "value", size: int = 10, is_error: bool = False) -> None:
    cache.publish(key, lead(cache, key).claim_id, value, size, is_error=is_error)


def test_a_published_result_is_served_with_its_age_until_it_is_too_old() -> None:
    clock = FakeClock(100)
    cache = make(clock)
    store(cache, "k")
    clock.advance(299.5)
    assert cache.lookup("k", "b") == Hit("value", 299.5)
    clock.advance(0.5)
    assert isinstance(cache.lookup("k", "b"), Lead)


def test_being_served_does_not_make_a_result_younger() -> None:
    clock = FakeClock()
    cache = make(clock)
    store(cache, "k")
    for _ in range(3):
        clock.advance(100)
        found = cache.lookup("k", "b")
    assert isinstance(found, Lead)


def test_a_programs_own_error_is_kept_for_less_time_or_not_at_all() -> None:
    clock = FakeClock()
    cache = make(clock, error_ttl_s=30)
    store(cache, "k", is_error=True)
    clock.advance(29)
    assert isinstance(cache.lookup("k", "b"), Hit)
    clock.advance(1)
    assert isinstance(cache.lookup("k", "b"), Lead)
    never = make(clock, error_ttl_s=0)
    store(never, "k", is_error=True)
    assert isinstance(never.lookup("k", "b"), Lead)


def test_others_follow_the_leader_who_still_leads_when_asking_again() -> None:
    clock = FakeClock()
    cache = make(clock)
    first = lead(cache, "k", "a")
    clock.advance(10)
    assert cache.lookup("k", "b") == Follow(first.claim_id, CLAIM_TTL_S - 10)
    assert cache.lookup("k", "a") == Lead(first.claim_id, CLAIM_TTL_S - 10)
    cache.publish("k", first.claim_id, 1, 1)
    assert isinstance(cache.lookup("k", "b"), Hit)


def test_a_follower_is_promoted_when_the_leader_gives_up_or_dies() -> None:
    clock = FakeClock()
    cache = make(clock)
    cache.abandon("k", lead(cache, "k", "a").claim_id)
    second = lead(cache, "k", "b")
    clock.advance(CLAIM_TTL_S)
    third = lead(cache, "k", "c")
    assert third.claim_id != second.claim_id
    assert isinstance(cache.lookup("k", "b"), Follow)


def test_a_late_leader_may_publish_but_neither_ends_nor_replaces_a_newer_claim() -> None:
    clock = FakeClock()
    cache = make(clock)
    old = lead(cache, "k", "a")
    clock.advance(CLAIM_TTL_S)
    new = lead(cache, "k", "b")
    cache.abandon("k", old.claim_id)
    assert cache.lookup("k", "c") == Follow(new.claim_id, CLAIM_TTL_S)
    cache.publish("k", old.claim_id, "old", 1)
    assert cache.lookup("k", "c") == Hit("old", 0.0)
    cache.publish("k", new.claim_id, "new", 1)
    cache.publish("k", old.claim_id, "old", 1)
    assert cache.lookup("k", "c") == Hit("new", 0.0)


def test_a_claim_from_before_a_restart_never_replaces_a_result() -> None:
    clock = FakeClock()
    before = ResultCache(CacheSettings(verify_rate=0), clock, random.Random(2))
    for n in range(5):
        stale = lead(before, f"k{n}")
    cache = make(clock)
    cache.publish("k", stale.claim_id, "stale", 1)
    assert cache.lookup("k", "a") == Hit("stale", 0.0)
    store(cache, "other", "fresh")
    cache.publish("other", stale.claim_id, "stale", 1)
    assert cache.lookup("other", "a") == Hit("fresh", 0.0)


def test_a_mismatch_purges_that_key_and_only_it_and_keeps_it_out_for_long() -> None:
    clock = FakeClock()
    cache = make(clock)
    store(cache, "bad")
    store(cache, "good")
    cache.observe("good", equal=True)
    cache.observe("bad", equal=False)
    assert isinstance(cache.lookup("good", "a"), Hit)
    one, other = lead(cache, "bad", "a"), lead(cache, "bad", "b")
    assert one.claim_id != other.claim_id
    assert one.ttl_s == 0
    cache.publish("bad", one.claim_id, "value", 1)
    assert isinstance(cache.lookup("bad", "c"), Lead)
    assert cache.snapshot()["entries"] == 1
    assert cache.snapshot()["mismatches"] == 1
    clock.advance(MISTRUST_S)
    store(cache, "bad")
    assert isinstance(cache.lookup("bad", "c"), Hit)


def test_about_the_configured_share_of_hits_is_verified() -> None:
    cache = make(FakeClock(), verify_rate=0.1)
    store(cache, "k")
    hits = [cache.lookup("k", "a") for _ in range(2000)]
    verified = sum(isinstance(hit, Hit) and hit.verify for hit in hits)
    assert 140 <= verified <= 260


def test_the_least_recently_used_is_evicted_first() -> None:
    cache = make(FakeClock(), max_entries=2)
    store(cache, "a")
    store(cache, "b")
    cache.lookup("a", "x")
    store(cache, "c")
    assert isinstance(cache.lookup("a", "x"), Hit)
    assert isinstance(cache.lookup("b", "x"), Lead)
    assert cache.snapshot()["evictions"] == 1


def test_what_is_larger_than_the_cache_is_not_kept_and_evicts_nothing() -> None:
    cache = make(FakeClock(), max_bytes=100)
    store(cache, "a", size=50)
    store(cache, "b", size=101)
    assert isinstance(cache.lookup("a", "x"), Hit)
    assert isinstance(cache.lookup("b", "x"), Lead)
    store(cache, "c", size=60)
    assert cache.snapshot() | {"entries": 1, "bytes": 60} == cache.snapshot()


def test_the_snapshot_counts_each_follower_once() -> None:
    cache = make(FakeClock())
    claim = lead(cache, "k", "a")
    for claimant in "bbcc":
        cache.lookup("k", claimant)
    cache.publish("k", claim.claim_id, 1, 7)
    cache.lookup("k", "b")
    assert cache.snapshot() == {
        "hits": 1, "misses": 1, "hit_rate": 0.5, "entries": 1, "bytes": 7, "evictions": 0, "coalesced": 2,
        "mismatches": 0,
    }  # fmt: skip


PARTS: dict[str, Any] = {
    "user": "u", "code": "1", "language": "python", "files": {"a": b"1"}, "env": {"A": "1"}, "stdin": b"",
    "seed": None, "outputs": (), "build_tag": "t", "limits": "{}", "isolation": "jail",
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("user", "v"), ("user", None), ("code", "2"), ("language", "r"), ("files", {"a": b"2"}), ("files", {"b": b"1"}),
        ("files", {}), ("env", {"A": "2"}), ("env", {}), ("stdin", None), ("stdin", b"x"), ("build_tag", "s"),
        ("limits", "[]"), ("isolation", "e2b"), ("seed", 0), ("outputs", ("a",)),
    ],
)  # fmt: skip
def test_every_part_of_a_request_is_in_its_key(field: str, other: Any) -> None:
    assert cache_key(**PARTS) != cache_key(**{**PARTS, field: other})


def test_the_order_of_files_and_variables_is_not_in_the_key() -> None:
    one = {**PARTS, "files": {"a": b"1", "b": b"2"}, "env": {"A": "1", "B": "2"}}
    other = {**PARTS, "files": {"b": b"2", "a": b"1"}, "env": {"B": "2", "A": "1"}}
    assert cache_key(**one) == cache_key(**other)


TEXT = st.text(alphabet='ab",[]\\\0', max_size=4)
REQUEST = st.fixed_dictionaries(
    {
        "user": st.none() | st.just("None") | TEXT, "code": TEXT, "language": TEXT,
        "files": st.dictionaries(TEXT, st.binary(max_size=2), max_size=2),
        "env": st.dictionaries(TEXT, TEXT, max_size=2), "stdin": st.none() | st.binary(max_size=2),
        "seed": st.none() | st.integers(0, 2), "outputs": st.lists(TEXT, max_size=2).map(tuple),
        "build_tag": TEXT, "limits": TEXT, "isolation": TEXT,
    }
)  # fmt: skip


@given(REQUEST, REQUEST)
def test_keys_are_equal_for_equal_requests_only(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (cache_key(**one) == cache_key(**other)) == (one == other)


@given(TEXT, TEXT, TEXT)
def test_text_moved_from_one_field_to_the_next_changes_the_key(a: str, b: str, c: str) -> None:
    moved = cache_key(**{**PARTS, "build_tag": a, "limits": b + c})
    assert (cache_key(**{**PARTS, "build_tag": a + b, "limits": c}) == moved) == (b == "")


KEYS, CLAIMANTS = ("u1/x", "u1/y", "u2/x", "u2/y"), ("r1", "r2", "r3")
TTL_S, ERROR_TTL_S, MAX_ENTRIES, MAX_BYTES = 50.0, 5.0, 3, 100


class CacheMachine(RuleBasedStateMachine):
    """Compare with a model that remembers what was published when, and who leads since when."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.cache = make(
            self.clock, ttl_s=TTL_S, error_ttl_s=ERROR_TTL_S, max_entries=MAX_ENTRIES, max_bytes=MAX_BYTES
        )
        self.published: dict[str, list[tuple[str, int, float]]] = {}  # value, claim's turn, served until
        self.leaders: dict[str, tuple[str, str, float]] = {}  # claimant, claim, leads until
        self.claims: list[tuple[str, str]] = []
        self.mistrusted: dict[str, float] = {}

    @rule(key=st.sampled_from(KEYS), claimant=st.sampled_from(CLAIMANTS))
    def lookup(self, key: str, claimant: str) -> None:
        now, found = self.clock(), self.cache.lookup(key, claimant)
        leader = self.leaders.get(key)
        leads = leader if leader is not None and now < leader[2] else None
        if now < self.mistrusted.get(key, 0.0):
            assert isinstance(found, Lead)
            assert found.ttl_s == 0
            self.claims.append((key, found.claim_id))
        elif isinstance(found, Hit):
            serving = [entry for entry in self.published[key] if entry[0] == found.value and now < entry[2]]
            assert serving
            assert found.value.startswith(f"{key} ")
            self.published[key] = serving[-1:]
        elif isinstance(found, Follow):
            assert leads is not None
            assert leads[0] != claimant
            assert leads[1] == found.claim_id
            assert found.expires_in_s == pytest.approx(leads[2] - now)
        elif leads is not None:
            assert leads[:2] == (claimant, found.claim_id)
        else:
            assert found.ttl_s == CLAIM_TTL_S
            self.leaders[key] = (claimant, found.claim_id, now + CLAIM_TTL_S)
            self.claims.append((key, found.claim_id))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), size=st.integers(0, MAX_BYTES + 20), is_error=st.booleans())
    def publish(self, data: st.DataObject, size: int, is_error: bool) -> None:
        turn = data.draw(st.integers(0, len(self.claims) - 1))
        key, claim_id = self.claims[turn]
        now, value = self.clock(), f"{key} by {claim_id}"
        self.cache.publish(key, claim_id, value, size, is_error=is_error)
        self.end(key, claim_id)
        if size > MAX_BYTES or now < self.mistrusted.get(key, 0.0):
            return
        served = (value, turn, now + (ERROR_TTL_S if is_error else TTL_S))
        # An older claim's result is kept only where the newer one has been evicted, which the model does not follow.
        others = [old for old in self.published.get(key, []) if now < old[2] and old[1] > turn]
        self.published[key] = [*others, served]

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        key, claim_id = data.draw(st.sampled_from(self.claims))
        self.cache.abandon(key, claim_id)
        self.end(key, claim_id)

    @rule(key=st.sampled_from(KEYS))
    def mismatch(self, key: str) -> None:
        self.cache.observe(key, equal=False)
        self.mistrusted[key] = self.clock() + MISTRUST_S
        self.published.pop(key, None)
        self.leaders.pop(key, None)

    @rule(seconds=st.sampled_from([0.5, 4.5, 5.0, 30.0, CLAIM_TTL_S, MISTRUST_S]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def bounds_hold(self) -> None:
        shown = self.cache.snapshot()
        assert shown["entries"] <= MAX_ENTRIES
        assert shown["bytes"] <= MAX_BYTES

    @invariant()
    def a_dead_leader_is_followed_for_no_longer_than_its_claim(self) -> None:
        assert all(until - self.clock() <= CLAIM_TTL_S for _, _, until in self.leaders.values())

    def end(self, key: str, claim_id: str) -> None:
        if self.leaders.get(key, ("", "", 0.0))[1] == claim_id:
            del self.leaders[key]


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
