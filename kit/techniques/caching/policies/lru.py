"""LRU: least recently used."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from kit.techniques.caching.policies.cache import Cache, Entry


class LRU(Cache):
    """Evict what was last used longest ago. The common choice; a scan longer than the cache washes everything out.

    Source: Mattson, Gecsei, Slutz, Traiger, Evaluation techniques for storage hierarchies, IBM Systems Journal 1970.
    """

    def __init__(self, capacity: float) -> None:
        super().__init__(capacity)
        self._entries = OrderedDict()  # the least recently used stands first

    def get(self, key: Hashable, default: Any = None) -> Any:
        entry = self._entries.get(key)
        if entry is None:
            return default
        self._entries.move_to_end(key)
        return entry.value

    def _insert(self, key: Hashable, value: Any, size: float) -> None:
        self._make_room(size)
        self._entries[key] = Entry(value, size)
        self.used += size

    def _evict(self) -> None:
        self.used -= self._entries.popitem(last=False)[1].size

    def _remove(self, key: Hashable) -> None:
        self.used -= self._entries.pop(key).size
