"""Which requests of a trace a policy serves from the cache: the loop over requests."""

import numpy as np

from kit.techniques.caching.policies import Cache
from kit.techniques.caching.traces import Trace


def simulate(cache: Cache, trace: Trace) -> np.ndarray:
    """Return which requests hit, shape (requests,), bool, if each miss is put into `cache`."""
    get, put, absent, misses = cache.get, cache.put, object(), []
    missed = misses.append
    if trace.sizes is None:
        for number, key in enumerate(trace.keys.tolist()):
            if get(key, absent) is absent:
                put(key, None)
                missed(number)
    else:
        sizes = trace.sizes.tolist()
        for number, key in enumerate(trace.keys.tolist()):
            if get(key, absent) is absent:
                put(key, None, sizes[key])
                missed(number)
    hits = np.ones(len(trace.keys), bool)
    hits[misses] = False
    return hits
