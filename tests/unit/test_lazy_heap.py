"""A heap compared with a list that is sorted whenever it is asked."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from actors.core.lazy_heap import LazyHeap

items = st.sampled_from("abcdefgh")
keys = st.integers(0, 9).map(float)


class AnyOrder(RuleBasedStateMachine):
    """The list holds (key, when it was pushed, item): one entry an item."""

    def __init__(self) -> None:
        super().__init__()
        self.heap: LazyHeap[float, str] = LazyHeap()
        self.listed: list[tuple[float, int, str]] = []
        self.pushes = 0

    def drop(self, item: str) -> None:
        self.listed = [entry for entry in self.listed if entry[2] != item]

    @rule(key=keys, item=items)
    def push(self, key: float, item: str) -> None:
        self.heap.push(key, item)
        self.drop(item)
        self.pushes += 1
        self.listed = sorted([*self.listed, (key, self.pushes, item)])

    @rule(key=keys, item=items, times=st.integers(50, 200))
    def push_often(self, key: float, item: str, times: int) -> None:
        for number in range(times):
            self.push(float((key + number) % 10), item)

    @rule(item=items)
    def discard(self, item: str) -> None:
        self.heap.discard(item)
        self.drop(item)

    @rule(key=keys)
    def pop_until(self, key: float) -> None:
        due = [(at, item) for at, _, item in self.listed if at <= key]
        assert list(self.heap.pop_until(key)) == due
        self.listed = self.listed[len(due) :]

    @rule(key=keys, later=keys)
    def push_while_popping(self, key: float, later: float) -> None:
        """What is due when it is pushed is popped in the same go."""
        pushed = False
        for at, item in self.heap.pop_until(key):
            assert (at, item) == (self.listed[0][0], self.listed[0][2])
            self.drop(item)
            if not pushed:
                self.push(later, item)
                pushed = True
        assert all(at > key for at, _, _ in self.listed)

    @invariant()
    def the_first_is_the_smallest(self) -> None:
        assert self.heap.first() == (None if not self.listed else (self.listed[0][0], self.listed[0][2]))
        assert len(self.heap) == len(self.listed)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_outdated_entries_do_not_pile_up() -> None:
    class Counted(float):
        """A key that knows how many of its kind are still held."""

        held = 0

        def __init__(self, _value: float) -> None:
            Counted.held += 1

        def __del__(self) -> None:
            Counted.held -= 1

    heap: LazyHeap[float, int] = LazyHeap()
    for number in range(10_000):
        heap.push(Counted(number), number % 10)
    assert Counted.held <= 2 * 10 + 64
    for number in range(1000):
        heap.push(Counted(number), number)
    for number in range(1000):
        heap.discard(number)
    assert (len(heap), Counted.held <= 64) == (0, True)
