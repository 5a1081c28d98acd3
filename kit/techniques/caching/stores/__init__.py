"""Stores: where a cache keeps what it holds. All are used alike: `get`, after a miss `put`; `fetch` does both.

In this process, on the disk, on a server that others share, or in two tiers. None ever unpickles.
"""

from kit.techniques.caching.stores.in_lmdb import LMDB
from kit.techniques.caching.stores.in_memory import InMemory
from kit.techniques.caching.stores.in_redis import Redis
from kit.techniques.caching.stores.in_sqlite import SQLite
from kit.techniques.caching.stores.keys import content, key
from kit.techniques.caching.stores.server import PrivateRedis, PrivateServer, program
from kit.techniques.caching.stores.store import MISS, Found, Store
from kit.techniques.caching.stores.tiered import Tiered

__all__ = [
    "LMDB", "MISS", "Found", "InMemory", "PrivateRedis", "PrivateServer", "Redis", "SQLite", "Store", "Tiered",
    "content", "key", "program",
]  # fmt: skip
