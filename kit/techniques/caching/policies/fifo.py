"""FIFO: first in, first out."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from kit.techniques.caching.policies.cache import Cache, Entry


class FIFO(Cache):
    """Evict what came in first. A hit changes nothing, so that readers need no lock: the cheapest policy there is."""

    def __init__(self, capacity: float) -> None:
        super().__init__(capacity)
        self._entries = OrderedDict()

    def get(self, key: Hashable, default: Any = None) -> Any:
        entry = self._entries.get(key)
        return default if entry is None else entry.value

    def _insert(self, key: Hashable, value: Any, size: float) -> None:
        self._make_room(size)
        self._entries[key] = Entry(value, size)
        self.used += size

    def _evict(self) -> None:
        self.used -= self._entries.popitem(last=False)[1].size

    def _remove(self, key: Hashable) -> None:
        self.used -= self._entries.pop(key).size
