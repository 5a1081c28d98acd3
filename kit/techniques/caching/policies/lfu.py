"""LFU: least frequently used."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from kit.techniques.caching.policies.cache import Cache, Entry


class Counted(Entry):
    """An entry and how often it was used since it came in."""

    __slots__ = ("uses",)


class LFU(Cache):
    """Evict what was used least often since it came in; among equals, what was last used longest ago.

    Counts are forgotten with the entry and never age: what was popular once stays. All steps take constant time.
    Source: Shah, Mitra, Matani, An O(1) algorithm for implementing the LFU cache eviction scheme, 2010.
    """

    def __init__(self, capacity: float) -> None:
        super().__init__(capacity)
        self._by_uses: dict[int, OrderedDict[Hashable, None]] = {1: OrderedDict()}
        self._least = 1

    def get(self, key: Hashable, default: Any = None) -> Any:
        entry = self._entries.get(key)
        if entry is None:
            return default
        uses = entry.uses
        self._leave(key, uses)
        if uses == self._least and uses not in self._by_uses:
            self._least = uses + 1
        entry.uses = uses = uses + 1
        equals = self._by_uses.get(uses)
        if equals is None:
            equals = self._by_uses[uses] = OrderedDict()
        equals[key] = None
        return entry.value

    def _insert(self, key: Hashable, value: Any, size: float) -> None:
        self._make_room(size)
        self._entries[key] = entry = Counted(value, size)
        entry.uses = self._least = 1
        self._by_uses.setdefault(1, OrderedDict())[key] = None
        self.used += size

    def _evict(self) -> None:
        if self._least not in self._by_uses:
            self._least = min(self._by_uses)
        self._remove(next(iter(self._by_uses[self._least])))

    def _remove(self, key: Hashable) -> None:
        entry = self._entries.pop(key)
        self._leave(key, entry.uses)
        self.used -= entry.size

    def _leave(self, key: Hashable, uses: int) -> None:
        equals = self._by_uses[uses]
        del equals[key]
        if not equals:
            del self._by_uses[uses]
