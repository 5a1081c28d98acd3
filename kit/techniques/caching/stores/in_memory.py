"""A store in this process: the fastest, lost with it, and seen by no other."""

import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from kit.errors import UserError
from kit.techniques.caching.policies import POLICIES, Cache
from kit.techniques.caching.stores import entry
from kit.techniques.caching.stores.store import Found, Key, Store, as_bytes


class _Encoded(bytes):
    """A value that a caller could change, kept as bytes."""


class InMemory(Store):
    """Hold values in a bounded mapping, behind a lock where that needs one.

    What can't change is held as it is; an array as a copy, of which `get` hands out read-only views; a list or dict as
    bytes, made anew for each `get`: so whoever changes an answer does not change the cache.
    """

    def __init__(self, held: "Cache | Bounded", *, lock: bool = True, clock: Callable[[], float] = time.time) -> None:
        """held: a policy, or a mapping of another package; see `own`, `by_cachetools` and `by_cachebox`."""
        super().__init__(clock)
        self._held = held
        self._lock: AbstractContextManager = threading.RLock() if lock else nullcontext()
        self._adding = threading.Lock()
        self._puts = self._put_bytes = 0

    def find(self, key: Key) -> Found | None:
        key = as_bytes(key)
        with self._lock:
            found = self._held.get(key)
        if found is None or (found.expires is not None and found.expires <= self.clock()):
            return None
        if type(found.value) is _Encoded:
            return Found(entry.decode(entry.PLAIN, memoryview(found.value)), found.expires)
        if type(found.value) is np.ndarray:
            return Found(found.value.view(), found.expires)
        return found

    def put(self, key: Key, value: Any, ttl: float | None = None) -> None:
        key, (value, size) = as_bytes(key), _unchanging(value)
        found = Found(value, self.expiry(ttl))
        with self._lock:
            self._held.put(key, found, len(key) + size)
            self._puts += 1
            self._put_bytes += len(key) + size

    def add(self, key: Key, value: Any, ttl: float | None = None) -> bool:
        with self._adding, self._lock:
            if self.find(key) is not None:
                return False
            self.put(key, value, ttl)
            return True

    def discard(self, key: Key) -> None:
        with self._lock:
            self._held.discard(as_bytes(key))

    @property
    def bytes(self) -> int:
        """Keys and values as estimated from all that was put; Python's and the policy's own notes are not counted."""
        return round(len(self) * self._put_bytes / max(1, self._puts))

    def __len__(self) -> int:
        return len(self._held)


def own(policy: str = "LRU", *, items: int | None = None, mib: float | None = None) -> InMemory:
    """Return a store that evicts by one of the kit's policies: so many items, or so many MiB of keys and values.

    Raise `UserError` for a policy that is none, and unless one of `items` and `mib` is given.
    """
    if policy not in POLICIES:
        raise UserError(f"no policy is called {policy!r}; there are {', '.join(POLICIES)}")
    if (items is None) == (mib is None):
        raise UserError(f"a store in memory got items={items} and mib={mib}; give one of them")
    if mib is not None:
        return InMemory(POLICIES[policy](mib * 2**20))
    cache = POLICIES[policy](items)
    return InMemory(Bounded(cache, cache.put, cache.discard))


def by_cachetools(items: int) -> InMemory:
    """Return a store in cachetools' LRUCache (MIT; pure Python, not safe for threads by itself)."""
    from cachetools import LRUCache

    return InMemory(_mapping(LRUCache(items)))


def by_cachebox(items: int) -> InMemory:
    """Return a store in cachebox's LRUCache (MIT; in Rust, with a lock of its own)."""
    from cachebox import LRUCache

    return InMemory(_mapping(LRUCache(items)), lock=False)


class Bounded:
    """A cache of another kind spoken to as a policy, each entry counted as 1, whatever its size."""

    def __init__(self, held: Any, put: Callable[[Key, Any], Any], discard: Callable[[Key], Any]) -> None:
        self._held, self._put = held, put
        self.get, self.discard = held.get, discard

    def put(self, key: Key, value: Any, size: float) -> None:
        self._put(key, value)

    def __len__(self) -> int:
        return len(self._held)


def _mapping(mapping: MutableMapping) -> Bounded:
    return Bounded(mapping, mapping.__setitem__, lambda key: mapping.pop(key, None))


_FIXED = frozenset({type(None), bool, float, bytes})


def _unchanging(value: Any) -> tuple[Any, int]:
    """Return a value as it is held, and its bytes. Raise `UserError` for what other stores couldn't keep either."""
    kind = type(value)
    if kind in _FIXED:
        return value, sys.getsizeof(value)
    if kind in (int, str) or isinstance(value, np.generic):
        return value, len(entry.encode(value)[1])  # some integers and texts can't be encoded
    if kind is np.ndarray:
        entry.check(value)
        value = value.copy()  # even of one that is read-only: its owner may write again
        value.flags.writeable = False
        return value, value.nbytes
    if entry.is_table(value):
        value = entry.alike(value)  # its buffers may be an array's, whose owner may write again
        return value, value.nbytes
    encoded = _Encoded(entry.encode(value)[1])
    return encoded, len(encoded)
