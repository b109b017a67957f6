"""Who has used much lately stands back, and comes forward again."""

from __future__ import annotations

from actors.backends.jail.kernel.fair_share import FairShare
from tests.unit.clock import FakeClock


def test_one_that_uses_little_never_stands_back() -> None:
    clock = FakeClock()
    share = FairShare(clock)
    for _ in range(1000):
        clock.advance(0.25)
        assert not share.charge(0.05)


def test_one_that_keeps_a_core_busy_stands_back_soon_and_not_for_long_after() -> None:
    clock = FakeClock()
    share = FairShare(clock)
    looks = 0
    while not share.charge(0.25):
        clock.advance(0.25)
        looks += 1
    assert looks <= 3
    clock.advance(3.0)
    assert not share.charge(0.0)


def test_what_was_used_in_many_small_parts_counts_alike() -> None:
    clock = FakeClock()
    share = FairShare(clock)
    for _ in range(100):
        clock.advance(0.01)
        stands_back = share.charge(0.01)
    assert stands_back
