"""Eviction policies from their papers, a page each: bounded mappings for simulations and for real stores alike.

`cache = SIEVE(capacity)`, then `get(key, default)` and, after a miss, `put(key, value)`. None is safe for several
threads without a lock around it.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from itertools import chain
from typing import Any

from kit.common import parameters


class Entry:
    """A key, its value, and what policies note about it."""

    __slots__ = ("key", "newer", "older", "queue", "uses", "value", "visited")

    def __init__(self, key: Hashable, value: Any) -> None:
        self.key, self.value = key, value


Queue = OrderedDict[Hashable, Entry]


class Cache:
    """A mapping of at most `capacity` items. A policy adds `_hit`, `_insert` and `_evict`.

    Raise `UserError` unless the capacity is a whole number of at least 1.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = parameters.at_least(capacity, 1, "capacity", whole=True)
        self._entries: Queue = OrderedDict()

    def get(self, key: Hashable, default: Any = None) -> Any:
        """Return the value of `key`, or `default`. Either way it counts as a request."""
        entry = self._entries.get(key)
        if entry is None:
            return default
        self._hit(entry)
        return entry.value

    def put(self, key: Hashable, value: Any) -> None:
        """Store a value after a miss, evicting another one if the cache is full. A known key keeps its place."""
        if key in self._entries:
            self._entries[key].value = value
            return
        while len(self._entries) >= self.capacity:
            self._evict()
        self._entries[key] = entry = Entry(key, value)
        self._insert(entry)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._entries)

    def _hit(self, entry: Entry) -> None:
        """Note a request for a cached item."""

    def _insert(self, entry: Entry) -> None:
        """Note a new item."""

    def _evict(self) -> None:
        """Evict an item, or do a step towards it."""
        raise NotImplementedError


class FIFO(Cache):
    """Evict the oldest item: first in, first out. A hit changes nothing, so that readers need no lock."""

    def _evict(self) -> None:
        self._entries.popitem(last=False)


class LRU(FIFO):
    """Evict the least recently used item. The common choice; a scan longer than the cache flushes it.

    Source: Mattson, Gecsei, Slutz, Traiger, Evaluation techniques for storage hierarchies, IBM Systems Journal 1970.
    """

    def _hit(self, entry: Entry) -> None:
        self._entries.move_to_end(entry.key)


class LFU(Cache):
    """Evict the least frequently used item; among equals, the least recently used.

    Counts start with the insertion, are lost with the eviction and never age: items that were popular once stay. Every
    step takes constant time. Source: Shah, Mitra, Matani, An O(1) algorithm for implementing the LFU cache eviction
    scheme, 2010.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._by_uses: dict[int, Queue] = {}
        self._least = 1

    def _hit(self, entry: Entry) -> None:
        if self._leave(entry) and entry.uses == self._least:
            self._least += 1
        entry.uses += 1
        self._by_uses.setdefault(entry.uses, OrderedDict())[entry.key] = entry

    def _insert(self, entry: Entry) -> None:
        entry.uses = self._least = 1
        self._by_uses.setdefault(1, OrderedDict())[entry.key] = entry

    def _evict(self) -> None:
        entry = next(iter(self._by_uses[self._least].values()))
        self._leave(entry)
        del self._entries[entry.key]

    def _leave(self, entry: Entry) -> bool:
        """Take an item out of its group of equal counts, and return whether the group is empty now."""
        equals = self._by_uses[entry.uses]
        del equals[entry.key]
        if not equals:
            del self._by_uses[entry.uses]
        return not equals


class SIEVE(Cache):
    """Keep one queue in the order of arrival. A hand moves from the oldest item to the newest and evicts the first one
    that was not requested since it last passed; the others keep their place. A hit only sets a bit.

    Source: Zhang, Yang, Yue, Vigfusson, Rashmi, SIEVE is Simpler than LRU, NSDI 2024, algorithm 1.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._ends = self._hand = Entry(None, None)  # between the newest item and the oldest, which follows it
        self._ends.newer = self._ends.older = self._ends

    def _hit(self, entry: Entry) -> None:
        entry.visited = True

    def _insert(self, entry: Entry) -> None:
        entry.visited, entry.newer, entry.older = False, self._ends, self._ends.older
        entry.older.newer = self._ends.older = entry

    def _evict(self) -> None:
        entry = self._hand
        while entry is self._ends or entry.visited:
            entry.visited = False
            entry = entry.newer
        self._hand = entry.newer
        entry.older.newer, entry.newer.older = entry.newer, entry.older
        entry.newer = entry.older = None  # no chain of dead entries for the garbage collector
        del self._entries[entry.key]


class S3FIFO(Cache):
    """Let new keys pass through a small queue first, so that those requested once are evicted quickly.

    small: a tenth of the cache; an item that was not requested twice there is evicted. main: the rest, where an item
    that was requested goes round again, with one use less. ghost: keys without values that left `small`, as many as
    `main` holds; one that is requested again goes directly to `main`.
    Source: Yang, Zhang, Qiu, Yue, Rashmi, FIFO queues are all you need for cache eviction, SOSP 2023, algorithm 1.
    """

    MOST_USES = 3  # two bits per entry

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._small: Queue = OrderedDict()
        self._main: Queue = OrderedDict()
        self._ghost: OrderedDict[Hashable, None] = OrderedDict()
        self._small_capacity = capacity / 10
        self._ghost_capacity = capacity - self._small_capacity

    def _hit(self, entry: Entry) -> None:
        entry.uses = min(entry.uses + 1, self.MOST_USES)

    def _insert(self, entry: Entry) -> None:
        entry.uses = 0
        if entry.key in self._ghost:
            del self._ghost[entry.key]
            self._main[entry.key] = entry
        else:
            self._small[entry.key] = entry

    def _evict(self) -> None:
        # The queue is chosen again after each promotion. The paper's EVICTS stays in `small` until an item has left
        # the cache; here the next candidate is of `main` once `small` is within its tenth again.
        if len(self._small) >= self._small_capacity or not self._main:
            self._evict_small()
        else:
            self._evict_main()

    def _evict_small(self) -> None:
        """Promote the oldest of `small` if it was requested more than once, and evict it otherwise."""
        key, entry = self._small.popitem(last=False)
        if entry.uses > 1:
            entry.uses = 0
            self._main[key] = entry
            return
        del self._entries[key]
        self._ghost[key] = None
        while len(self._ghost) > self._ghost_capacity:
            self._ghost.popitem(last=False)

    def _evict_main(self) -> None:
        """Send the oldest of `main` round again if it was requested, and evict it otherwise."""
        key, entry = self._main.popitem(last=False)
        if entry.uses:
            entry.uses -= 1
            self._main[key] = entry
        else:
            del self._entries[key]


class WTinyLFU(Cache):
    """New keys enter a window of 1 %, an LRU. The item that leaves it competes with the next victim of the main part:
    the one requested more often of late stays. The main part is a segmented LRU: a key requested there is protected.

    A victim that stays with a full counter goes to the back: if it merely shares its counters with popular keys, it
    would keep all candidates out (Caffeine admits a candidate at random, for the same reason).
    Source: Einziger, Friedman, Manes, TinyLFU: A Highly Efficient Cache Admission Policy, ACM TOS 2017, section 4.
    """

    WINDOW, PROTECTED = 0.01, 0.8
    """Shares of the window in the cache and of the protected part in the main part: the paper's and Caffeine's."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._window: Queue = OrderedDict()  # in all three the least recently used first
        self._probation: Queue = OrderedDict()
        self._protected: Queue = OrderedDict()
        self._window_capacity = max(1, self.WINDOW * capacity)
        self._main_capacity = capacity - self._window_capacity
        self._protected_capacity = self.PROTECTED * self._main_capacity
        self._sketch = Sketch(capacity)

    def get(self, key: Hashable, default: Any = None) -> Any:
        self._sketch.add(key)
        return super().get(key, default)

    def put(self, key: Hashable, value: Any) -> None:
        """Store a value after a miss: it enters the window, and the item that leaves it is admitted or evicted."""
        if key in self._entries:
            self._entries[key].value = value
            return
        self._entries[key] = entry = Entry(key, value)
        self._move(entry, self._window)
        while len(self._window) > self._window_capacity:
            self._compete(self._window.popitem(last=False)[1])

    def _hit(self, entry: Entry) -> None:
        if entry.queue is not self._probation:
            entry.queue.move_to_end(entry.key)
            return
        del self._probation[entry.key]
        self._move(entry, self._protected)
        while len(self._protected) > self._protected_capacity:
            self._move(self._protected.popitem(last=False)[1], self._probation)

    def _move(self, entry: Entry, queue: Queue) -> None:
        queue[entry.key] = entry
        entry.queue = queue

    def _compete(self, entry: Entry) -> None:
        """Admit the item that left the window to the main part, or evict it."""
        if len(self._entries) - len(self._window) > self._main_capacity:
            victim = next(chain(self._probation.values(), self._protected.values()), None)
            if victim is None or not self._wanted_more(entry, victim):
                del self._entries[entry.key]
                return
            del victim.queue[victim.key], self._entries[victim.key]
        self._move(entry, self._probation)

    def _wanted_more(self, entry: Entry, victim: Entry) -> bool:
        wanted = self._sketch.count(victim.key)
        if self._sketch.count(entry.key) > wanted:
            return True
        if wanted == Sketch.MOST:
            victim.queue.move_to_end(victim.key)
        return False


class Sketch:
    """About how often keys were requested of late: a counting Bloom filter with four small counters for each key.

    After ten requests per item of the capacity all counters are halved, so that old popularity fades. There are at
    least sixteen counters per item. The paper's doorkeeper, which saves memory for keys seen once, is left out, as in
    Caffeine.
    """

    MOST, SPAN, PER_KEY = 15, 10, 16
    _HALVED = bytes(count // 2 for count in range(256))

    def __init__(self, capacity: int) -> None:
        self._mask = (1 << (self.PER_KEY * capacity - 1).bit_length()) - 1
        self._counters = bytearray(self._mask + 1)
        self._span, self._added = self.SPAN * capacity, 0

    def add(self, key: Hashable) -> None:
        """Count a request for `key`."""
        counters, most = self._counters, self.MOST
        for place in self._places(key):
            if counters[place] < most:
                counters[place] += 1
        self._added += 1
        if self._added >= self._span:
            self._counters = self._counters.translate(self._HALVED)
            self._added //= 2

    def count(self, key: Hashable) -> int:
        """Return about how often `key` was requested: never too low except for aging, at most 15."""
        counters = self._counters
        return min([counters[place] for place in self._places(key)])

    def _places(self, key: Hashable) -> tuple[int, int, int, int]:
        mixed, mask = hash((key,)), self._mask  # the hash of a tuple mixes the bits of a number
        first, third, step = mixed & mask, mixed >> 20 & mask, mixed >> 40 & mask
        return first, first ^ step, third, third ^ step


POLICIES = {"LRU": LRU, "FIFO": FIFO, "LFU": LFU, "SIEVE": SIEVE, "S3-FIFO": S3FIFO, "W-TinyLFU": WTinyLFU}
"""By the name in tables and charts. A policy of your own is added here before curves are drawn."""
