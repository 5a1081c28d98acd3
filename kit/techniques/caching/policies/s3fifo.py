"""S3-FIFO: three simple queues."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from kit.techniques.caching.policies.cache import Cache, Entry

MOST_USES = 3
"""Two bits an entry."""


class Counted(Entry):
    """An entry, how often it was used since it came into its queue (to 3), and which that is."""

    __slots__ = ("queue", "uses")


class S3FIFO(Cache):
    """Let new keys pass through a small queue first, so that those asked for once are gone quickly.

    small: a tenth of the cache, where what was not used twice leaves. main: the rest, where what was used comes round
    again, with one use less. ghost: keys without values that left `small`, as much as `main` holds; who is asked for
    again from there goes to `main` at once.
    Source: Yang, Zhang, Qiu, Yue, Rashmi, FIFO queues are all you need for cache eviction, SOSP 2023, algorithm 1.
    """

    def __init__(self, capacity: float) -> None:
        super().__init__(capacity)
        self._small: OrderedDict[Hashable, Counted] = OrderedDict()
        self._main: OrderedDict[Hashable, Counted] = OrderedDict()
        self._ghost: OrderedDict[Hashable, float] = OrderedDict()  # key → size
        self._small_capacity = capacity / 10
        self._ghost_capacity = capacity - self._small_capacity
        self._small_used = self._ghost_used = 0

    def get(self, key: Hashable, default: Any = None) -> Any:
        entry = self._entries.get(key)
        if entry is None:
            return default
        if entry.uses < MOST_USES:
            entry.uses += 1
        return entry.value

    def _insert(self, key: Hashable, value: Any, size: float) -> None:
        self._make_room(size)
        self._entries[key] = entry = Counted(value, size)
        entry.uses = 0
        self.used += size
        if key in self._ghost:
            self._ghost_used -= self._ghost.pop(key)
            entry.queue = self._main
        else:
            self._small_used += size
            entry.queue = self._small
        entry.queue[key] = entry

    def _evict(self) -> None:
        # The queue is chosen anew after each promotion. The paper's EVICTS goes on in `small` until something has left
        # it; here the next to go is of `main` once `small` is within its tenth again.
        if self._small_used >= self._small_capacity or not self._main:
            self._evict_small()
        else:
            self._evict_main()

    def _evict_small(self) -> None:
        """Send the oldest of `small` to `main` if it was used more than once, and out if not."""
        key, entry = self._small.popitem(last=False)
        self._small_used -= entry.size
        if entry.uses > 1:
            entry.uses = 0
            self._main[key] = entry
            entry.queue = self._main
            return
        del self._entries[key]
        self.used -= entry.size
        self._ghost[key] = entry.size
        self._ghost_used += entry.size
        while self._ghost_used > self._ghost_capacity:
            self._ghost_used -= self._ghost.popitem(last=False)[1]

    def _evict_main(self) -> None:
        """Send the oldest of `main` round again if it was used, and out if not."""
        key, entry = self._main.popitem(last=False)
        if entry.uses:
            entry.uses -= 1
            self._main[key] = entry
            return
        del self._entries[key]
        self.used -= entry.size

    def _remove(self, key: Hashable) -> None:
        entry = self._entries.pop(key)
        del entry.queue[key]
        self.used -= entry.size
        if entry.queue is self._small:
            self._small_used -= entry.size
