"""W-TinyLFU: a small window, and a main part that admits only what is asked for more often than what it would lose."""

from collections import OrderedDict
from collections.abc import Hashable
from itertools import chain
from typing import Any

from kit.techniques.caching.policies.cache import Cache, Entry

WINDOW, PROTECTED = 0.01, 0.8
"""Shares: of the window in the cache, and of the protected part in the main part; the paper's and Caffeine's."""
MOST = 15
"""Counters stop there: four bits, if one packs them."""


class Placed(Entry):
    """An entry and the segment in which it is."""

    __slots__ = ("segment",)


Segment = OrderedDict[Hashable, Placed]
"""The least recently used stands first."""


class WTinyLFU(Cache):
    """New keys enter a window of 1 % that is LRU. What leaves it contends with what the main part would evict for it:
    the one asked for more often of late stays. The main part is a segmented LRU: a key used there is protected.

    Where sizes differ the candidate must be asked for more often than all together that have to go for it. A victim
    that stays with a full counter goes to the back: if it merely shares its counters with popular keys, it would bar
    the door for good (Caffeine lets a candidate pass at random, for the same reason).
    Source: Einziger, Friedman, Manes, TinyLFU: A Highly Efficient Cache Admission Policy, ACM TOS 2017, section 4; for
    sizes ("aggregated victims"): Einziger, Eytan, Friedman, Manes, Lightweight Robust Size Aware Cache Management,
    ACM TOS 2022.
    """

    def __init__(self, capacity: float) -> None:
        super().__init__(capacity)
        self._window, self._probation, self._protected = Segment(), Segment(), Segment()
        self._window_capacity = max(1, WINDOW * capacity)
        self._main_capacity = capacity - self._window_capacity
        self._protected_capacity = PROTECTED * self._main_capacity
        self._window_used = self._protected_used = 0
        self._sketch = Sketch()

    def get(self, key: Hashable, default: Any = None) -> Any:
        self._sketch.add(key, len(self._entries))
        entry = self._entries.get(key)
        if entry is None:
            return default
        if entry.segment is self._probation:
            self._protect(key, entry)
        else:
            entry.segment.move_to_end(key)
        return entry.value

    def _protect(self, key: Hashable, entry: Placed) -> None:
        """Move what was used in the main part out of danger, and what was not used for longest back into it."""
        del self._probation[key]
        self._protected[key] = entry
        entry.segment = self._protected
        self._protected_used += entry.size
        while self._protected_used > self._protected_capacity:
            oldest, entry = self._protected.popitem(last=False)
            self._probation[oldest] = entry
            entry.segment = self._probation
            self._protected_used -= entry.size

    def _insert(self, key: Hashable, value: Any, size: float) -> None:
        self._entries[key] = self._window[key] = entry = Placed(value, size)
        entry.segment = self._window
        self.used += size
        self._window_used += size
        if (
            size > self._window_capacity
        ):  # it contends at once, and pushes nothing else out of the window, as in Caffeine
            self._window.move_to_end(key, last=False)
        while self._window_used > self._window_capacity:
            oldest, entry = self._window.popitem(last=False)
            self._window_used -= entry.size
            self._contend(oldest, entry)

    def _contend(self, key: Hashable, entry: Placed) -> None:
        """Let what left the window into the main part, or evict it."""
        need = self.used - self._window_used - self._main_capacity
        if need > 0:
            victims = self._less_wanted(key, need) if entry.size <= self._main_capacity else []
            for victim in victims:
                self._remove(victim)
            if not victims:
                del self._entries[key]
                self.used -= entry.size
                return
        self._probation[key] = entry
        entry.segment = self._probation

    def _less_wanted(self, key: Hashable, need: float) -> list[Hashable]:
        """Return the oldest of the main part that have to go for so much room; none if they are wanted as much."""
        count, victims = self._sketch.count, []
        left = count(key)
        for victim in chain(self._probation, self._protected):
            wanted = count(victim)
            left -= wanted
            if left <= 0:
                if wanted == MOST:
                    self._entries[victim].segment.move_to_end(victim)
                return []
            victims.append(victim)
            need -= self._entries[victim].size
            if need <= 0:
                break
        return victims

    def _remove(self, key: Hashable) -> None:
        entry = self._entries.pop(key)
        del entry.segment[key]
        self.used -= entry.size
        if entry.segment is self._window:
            self._window_used -= entry.size
        if entry.segment is self._protected:
            self._protected_used -= entry.size


class Sketch:
    """How often keys were asked for of late, about: a counting Bloom filter with four small counters for each key.

    After ten requests for each key that the cache holds all are halved, so that old fame fades. There are at least
    sixteen counters a key held, and the table grows with the cache: mostly as good as exact counts to .002 of the hit
    ratio. The paper's doorkeeper, which saves memory for keys seen once, is left out, as in Caffeine.
    """

    SPAN, A_KEY = 10, 16
    _HALVED = bytes(count // 2 for count in range(256))

    def __init__(self) -> None:
        self._counters = bytearray(256)
        self._mask = 255
        self._enough_for = 256 // self.A_KEY
        self._added = 0

    def add(self, key: Hashable, held: int) -> None:
        """Count a request for `key`, of a cache that holds so many keys."""
        mixed, mask, counters = hash((key,)), self._mask, self._counters  # a tuple's hash mixes that of a number
        first, third, step = mixed & mask, mixed >> 20 & mask, mixed >> 40 & mask
        second, fourth = first ^ step, third ^ step
        if counters[first] < MOST:
            counters[first] += 1
        if counters[second] < MOST:
            counters[second] += 1
        if counters[third] < MOST:
            counters[third] += 1
        if counters[fourth] < MOST:
            counters[fourth] += 1
        self._added += 1
        if self._added >= self.SPAN * held:
            self._age()
        if held > self._enough_for:
            self._grow()

    def count(self, key: Hashable) -> int:
        """Return about how often `key` was asked for: never too low but for what has faded and above 15."""
        mixed, mask, counters = hash((key,)), self._mask, self._counters
        first, third, step = mixed & mask, mixed >> 20 & mask, mixed >> 40 & mask
        return min(counters[first], counters[first ^ step], counters[third], counters[third ^ step])

    def _age(self) -> None:
        self._counters = self._counters.translate(self._HALVED)
        self._added //= 2

    def _grow(self) -> None:
        self._counters *= 2  # one more bit of the hash counts, and both halves know each key
        self._mask = 2 * self._mask + 1
        self._enough_for *= 2
