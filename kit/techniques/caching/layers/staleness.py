"""Time to live against staleness: a longer one is asked less often and is wrong more often."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kit.errors import UserError
from kit.techniques.caching.traces import Trace


@dataclass(frozen=True)
class Freshness:
    """What a time to live of `ttl_s` seconds does to a trace.

    hit_ratio: share of the requests answered from the cache. stale: share of the requests that get an answer which has
    changed at its source since. mean_age_s: age of the answers from the cache. loads_per_s: what is left to the source.
    """

    ttl_s: float
    hit_ratio: float
    stale: float
    mean_age_s: float
    loads_per_s: float


def freshness(trace: Trace, ttls: Sequence[float], changes_every_s: float) -> list[Freshness]:
    """Return what each time to live yields on a trace with times, if no entry is evicted before.

    changes_every_s: mean time between two changes of an object, at random (a Poisson process): what is stale is what is
    to be expected, 1 − exp(−age / changes_every_s) of an answer of that age. Raise `UserError` for a trace without
    times or with one for all, and for times that are none.
    """
    if trace.times is None:
        raise UserError(f"trace {trace.name!r} has no times, and a time to live needs them; give a trace that has")
    for name, value in [("changes_every_s", changes_every_s), *(("a ttl", ttl) for ttl in ttls)]:
        if not value > 0:
            raise UserError(f"{name} of {value!r} s is no time; give seconds above 0")
    if trace.times[-1] <= trace.times[0]:
        raise UserError(f"the requests of trace {trace.name!r} all have one time, and a time to live needs several")
    return [_freshness(trace, ttl, changes_every_s) for ttl in ttls]


def _freshness(trace: Trace, ttl_s: float, changes_every_s: float) -> Freshness:
    loaded = [-np.inf] * trace.objects
    ages = []
    for key, now in zip(trace.keys.tolist(), trace.times.tolist(), strict=True):
        age_s = now - loaded[key]
        if age_s < ttl_s:
            ages.append(age_s)
        else:
            loaded[key] = now
    hits, requests = np.array(ages), len(trace)
    span_s = float(trace.times[-1] - trace.times[0])
    return Freshness(
        ttl_s,
        hit_ratio=len(hits) / requests,
        stale=float((1 - np.exp(-hits / changes_every_s)).sum()) / requests,
        mean_age_s=float(hits.mean()) if len(hits) else 0.0,
        loads_per_s=(requests - len(hits)) / span_s,
    )
