"""A heap whose items may change their keys and leave."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", float, tuple[int, int])
Item = TypeVar("Item", bound=Hashable)
_SPARE = 64
"""Outdated entries that are never worth a sweep."""


class LazyHeap(Generic[Key, Item]):
    """Items in order of their keys; of equal keys, the one that was pushed first comes first.

    An item that leaves or gets a new key leaves an outdated entry behind. Such entries are dropped when they come
    first, and all at once when they are the most, so that every step takes O(log items), averaged over many.
    """

    __slots__ = ("_current", "_entries", "_pushes")

    def __init__(self) -> None:
        self._entries: list[tuple[Key, int, Item]] = []
        self._current: dict[Item, int] = {}  # the number of the push that counts
        self._pushes = 0

    def __len__(self) -> int:
        return len(self._current)

    def push(self, key: Key, item: Item) -> None:
        """Put an item in, or give a new key to one that is in."""
        self._pushes += 1
        self._current[item] = self._pushes
        heapq.heappush(self._entries, (key, self._pushes, item))
        self._sweep()

    def discard(self, item: Item) -> None:
        """Take an item out; one that is not in is passed over."""
        if self._current.pop(item, None) is not None:
            self._sweep()

    def first(self) -> tuple[Key, Item] | None:
        """The item with the smallest key, and that key; None when there is none."""
        while self._entries:
            key, push, item = self._entries[0]
            if self._current.get(item) == push:
                return key, item
            heapq.heappop(self._entries)
        return None

    def pop_until(self, key: Key) -> Iterator[tuple[Key, Item]]:
        """Take out, in order, the items whose key is at most ``key``; more may be pushed meanwhile."""
        while (entry := self.first()) is not None and entry[0] <= key:
            heapq.heappop(self._entries)
            del self._current[entry[1]]
            yield entry

    def _sweep(self) -> None:
        if len(self._entries) > 2 * len(self._current) + _SPARE:
            self._entries = [entry for entry in self._entries if self._current.get(entry[2]) == entry[1]]
            heapq.heapify(self._entries)
