"""What all policies have in common: a capacity, what is used of it, and the order of a `put`."""

from collections.abc import Hashable, Iterator
from typing import Any

from kit.errors import UserError


class Entry:
    """A value that is held, and its size. Policies add what they note about it."""

    __slots__ = ("size", "value")

    def __init__(self, value: Any, size: float) -> None:
        self.value = value
        self.size = size


class Cache:
    """A bounded mapping. A policy adds `get` (what a hit changes), `_insert`, `_evict` and `_remove`.

    capacity: the sum of sizes that is never exceeded: a number of items where each `put` leaves its size at 1, of bytes
    where it gives bytes. Not safe for several threads without a lock around it. Raise `UserError` for a capacity of 0.
    """

    _entries: dict[Hashable, Any]

    def __init__(self, capacity: float) -> None:
        if not capacity > 0:
            raise UserError(f"a cache of capacity {capacity} holds nothing; give items or bytes above 0")
        self.capacity = capacity
        self.used = 0
        self._entries = {}

    def get(self, key: Hashable, default: Any = None) -> Any:
        """Return the value of `key`, or `default` if it is not held. It counts as a use, whatever the outcome."""
        raise NotImplementedError

    def put(self, key: Hashable, value: Any, size: float = 1) -> bool:
        """Keep `value`, evicting what the policy gives up for it. Return whether it is held now.

        A key that is held already keeps its place if the size is the same. What is larger than the cache is not kept.
        Raise `UserError` for a size that is not above 0.
        """
        entry = self._entries.get(key)
        if entry is not None and entry.size == size:
            entry.value = value
            return True
        if not size > 0:
            raise UserError(f"a size of {size} can't be counted; give items or bytes above 0")
        if entry is not None:
            self.discard(key)
        if size > self.capacity:
            return False
        self._insert(key, value, size)
        return key in self._entries

    def discard(self, key: Hashable) -> None:
        """Forget `key` if it is held."""
        if key in self._entries:
            self._remove(key)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Hashable) -> bool:
        """Whether `key` is held. Unlike `get` it is no use of it."""
        return key in self._entries

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._entries)

    def _make_room(self, size: float) -> None:
        room = self.capacity - size
        while self.used > room:
            self._evict()

    def _insert(self, key: Hashable, value: Any, size: float) -> None:
        """Take in a key that is not held."""
        raise NotImplementedError

    def _evict(self) -> None:
        """Give up what the policy thinks least of, or come nearer to that."""
        raise NotImplementedError

    def _remove(self, key: Hashable) -> None:
        """Forget a key that is held, whatever the policy thinks of it."""
        raise NotImplementedError
