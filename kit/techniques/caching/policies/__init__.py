"""Eviction policies, a page each, from their papers: real caches that hold values, simulated and served from alike.

All are used alike: `cache = SIEVE(capacity)`, then `get(key, default)` and, after a miss, `put(key, value, size)`.
"""

from kit.techniques.caching.policies.cache import Cache
from kit.techniques.caching.policies.fifo import FIFO
from kit.techniques.caching.policies.lfu import LFU
from kit.techniques.caching.policies.lru import LRU
from kit.techniques.caching.policies.s3fifo import S3FIFO
from kit.techniques.caching.policies.sieve import SIEVE
from kit.techniques.caching.policies.wtinylfu import WTinyLFU

POLICIES: dict[str, type[Cache]] = {
    "LRU": LRU,
    "FIFO": FIFO,
    "LFU": LFU,
    "SIEVE": SIEVE,
    "S3-FIFO": S3FIFO,
    "W-TinyLFU": WTinyLFU,
}
"""By the name that tables and charts show: the common one first, then from the simple to the elaborate."""
