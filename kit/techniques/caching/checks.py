"""What must hold before a hit ratio or a cached answer is believed, and what is wrong where it does not."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kit.errors import UserError
from kit.measure import answers
from kit.record.document import CheckResult
from kit.techniques.caching.simulation import BELADY, Curves
from kit.techniques.caching.stores import Store
from kit.techniques.caching.traces import Trace
from kit.techniques.caching.variants import answer
from kit.techniques.caching.workload import Work


def none_above_belady(curves: Curves) -> CheckResult:
    """Return whether no policy has a hit more than Belady's MIN, at any capacity."""
    best = curves.hits[BELADY].sum(axis=1)
    excess = {name: int((hits.sum(axis=1) - best).max()) for name, hits in curves.hits.items()}
    worst = max(excess, key=excess.__getitem__)
    state = "passed" if excess[worst] <= 0 else "failed"
    note = "" if state == "passed" else f"{worst} is above the possible: its simulation is wrong"
    value = float(max(excess[worst], 0))
    return CheckResult(state=state, metric="hits above Belady's MIN", value=value, threshold=0.0, note=note)


@dataclass(frozen=True)
class AfterChange:
    """Requests after a change of the version. from_cache: answered from the cache. stale: responses that the new
    version does not give. changed_decisions: decisions that differ by them; None where no decision is known."""

    requests: int
    from_cache: int
    stale: int
    changed_decisions: int | None


def after_change(work: Work, store: Store, items: Sequence[int]) -> dict[str, AfterChange]:
    """Answer `items` with the version before behind an empty store, then with this one, and count stale responses: with
    the version in the key, and without it, where this one looks up under the keys of the one before.

    Empty if no version before is known.
    """
    if work.previous is None:
        return {}
    old, right, found = work.previous(), {item: work.answer(item) for item in dict.fromkeys(items)}, {}
    for name, version in {"with the version": work.version, "without": old.version}.items():
        store.clear()
        for item in items:
            answer(old, store, item)
        given = [answer(replace(work, version=version), store, item) for item in items]
        pairs = [(one.value, right[item]) for one, item in zip(given, items, strict=True)]
        stale = sum(answers.equal(value, wanted).state == "failed" for value, wanted in pairs)
        decide = work.decision
        changed = sum(decide(value) != decide(wanted) for value, wanted in pairs) if decide else None
        found[name] = AfterChange(len(items), sum(one.hit for one in given), stale, changed)
    return found


def staleness(trace: Trace, ttl_s: float, changes_every_s: float) -> tuple[float, float]:
    """Return the effect of a time to live on a trace with times, if nothing is evicted before: the share of the
    requests answered from the cache, and the expected share whose answer has changed at its source since.

    changes_every_s: mean time between changes of an object (a Poisson process): an answer of age a is stale with
    probability 1 − exp(−a / changes_every_s). Raise `UserError` for a trace without times.
    """
    if trace.times is None:
        raise UserError(f"trace {trace.name!r} has no times, which a time to live needs; give columns= with the time")
    loaded, ages = {}, []
    for key, now in zip(trace.keys.tolist(), trace.times.tolist(), strict=True):
        age_s = now - loaded.get(key, -np.inf)
        if age_s < ttl_s:
            ages.append(age_s)
        else:
            loaded[key] = now
    return len(ages) / len(trace), float(-np.expm1(-np.array(ages) / changes_every_s).sum()) / len(trace)
