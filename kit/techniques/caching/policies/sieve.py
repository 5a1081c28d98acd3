"""SIEVE: a queue and a hand."""

from collections.abc import Hashable
from typing import Any, Optional

from kit.techniques.caching.policies.cache import Cache, Entry


class Visited(Entry):
    """An entry, whether it was used since the hand passed, and its neighbours in the queue."""

    __slots__ = ("key", "newer", "older", "visited")

    key: Hashable
    newer: Optional["Visited"]
    older: Optional["Visited"]
    visited: bool


class SIEVE(Cache):
    """Keep one queue in the order of arrival. A hand goes from the oldest to the newest and evicts what was not used
    since it last passed; what was used stays where it is. A hit only sets a bit, so that readers hardly wait.

    Source: Zhang, Yang, Yue, Vigfusson, Rashmi, SIEVE is Simpler than LRU, NSDI 2024, algorithm 1.
    """

    def __init__(self, capacity: float) -> None:
        super().__init__(capacity)
        self._newest: Visited | None = None
        self._oldest: Visited | None = None
        self._hand: Visited | None = None  # None: it starts again at the oldest

    def get(self, key: Hashable, default: Any = None) -> Any:
        entry = self._entries.get(key)
        if entry is None:
            return default
        entry.visited = True
        return entry.value

    def _insert(self, key: Hashable, value: Any, size: float) -> None:
        self._make_room(size)
        entry = Visited(value, size)
        entry.key, entry.visited, entry.newer, entry.older = key, False, None, self._newest
        if self._newest is None:
            self._oldest = entry
        else:
            self._newest.newer = entry
        self._newest = self._entries[key] = entry
        self.used += size

    def _evict(self) -> None:
        entry = self._hand or self._oldest
        while entry.visited:
            entry.visited = False
            entry = entry.newer or self._oldest
        self._hand = entry
        self._remove(entry.key)

    def _remove(self, key: Hashable) -> None:
        entry = self._entries.pop(key)
        if entry is self._hand:
            self._hand = entry.newer
        if entry.newer is None:
            self._newest = entry.older
        else:
            entry.newer.older = entry.older
        if entry.older is None:
            self._oldest = entry.newer
        else:
            entry.older.newer = entry.newer
        entry.newer = entry.older = None  # no chain of dead entries for the garbage collector
        self.used -= entry.size
