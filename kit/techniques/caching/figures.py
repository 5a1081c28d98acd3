"""Charts and tables of caching: hit ratios by policy and size, costs and break-even, latency, stale answers."""

from collections.abc import Mapping

import numpy as np

from kit.common import claims
from kit.common.load import Load
from kit.measure.result import Result
from kit.record import formatting
from kit.record.document import Chart, Series, Table
from kit.techniques.caching import checks
from kit.techniques.caching.checks import AfterChange
from kit.techniques.caching.simulation import BELADY, Curves
from kit.techniques.caching.stampede import THREADS, Stampede
from kit.techniques.caching.traces import Trace


def popularity(trace: Trace) -> Chart:
    """Return the share of the requests that are for the most requested objects."""
    counts = np.sort(np.unique(trace.keys, return_counts=True)[1])[::-1]
    shares = np.cumsum(counts) / len(trace)
    places = np.unique(np.geomspace(1, len(counts), 30).round().astype(int))
    half = int(np.searchsorted(shares, 0.5)) + 1
    return Chart(
        "Requests for the most popular objects",
        "number of objects, the most popular first",
        "% of the requests that are for them",
        [Series(trace.name, places.tolist(), (100 * shares[places - 1]).tolist())],
        log_x=True,
        note=f"Half of the {len(trace):,} requests are for {half:,} of {trace.objects:,} objects.",
    )


def hit_ratios(curves: Curves) -> Chart:
    """Return the hit ratio of each policy over the size of the cache, with Belady's MIN."""
    trace, first = curves.trace, formatting.percent(curves.trace.objects / len(curves.trace))
    return Chart(
        f"Hit ratio on {trace.name} by policy (higher is better)",
        f"size of the cache, items (of {trace.objects:,})",
        "% of the requests",
        [_line(curves, name, 100 * curves.ratio(name)) for name in curves.hits],
        log_x=True,
        note=f"Belady's MIN knows the future: no policy can hit more. {first} of the {len(trace):,} "
        "requests are the first for their object, and miss in any cache.",
    )


def order_effect(real: Curves, shuffled: Curves) -> Chart:
    """Return each policy's hit ratio in the real order minus that of the same requests in random order."""
    return Chart(
        "Hit ratio in real order minus that in random order",
        f"size of the cache, items (of {real.trace.objects:,})",
        "percentage points (0: the order does not matter)",
        [_line(real, name, 100 * (real.ratio(name) - shuffled.ratio(name))) for name in real.hits if name != BELADY],
        log_x=True,
    )


def _line(curves: Curves, name: str, y: np.ndarray) -> Series:
    return Series(name, curves.capacities.tolist(), y.tolist(), style="ideal" if name == BELADY else "measured")


def break_even(work: float, hit: float, miss: float, store: float) -> float:
    """Return the hit ratio above which a cache saves time; above 1 it never does.

    work: time of an answer without cache; hit, miss: of a lookup, with making the key; store: of storing an answer. All
    in one unit. With hit ratio h a request takes h·hit + (1 − h)(miss + work + store).
    """
    saved = work + miss + store - hit
    return (miss + store) / saved if saved > 0 else float("inf")


def costs(result: Result) -> Table:
    """Return a row per store: measured costs, break-even hit ratio, and the time saved at the hit ratio here."""
    point = result.record.points[-1]
    work_us = next(v for v in point.variants if v.name == result.record.asked.baseline).metrics["work_us"]
    rows, percent = [], formatting.percent
    for variant in point.variants:
        found = variant.metrics
        if "set_us" in found and "hit_us" in found and variant.verdict != "rejected":
            hit, miss, store, ratio = (found[name] for name in ("hit_us", "miss_us", "set_us", "hit_ratio"))
            even = break_even(work_us, hit, miss, store)
            saved = work_us - ratio * hit - (1 - ratio) * (miss + work_us + store)
            even_text = percent(even) if even <= 1 else "never"
            rows.append([variant.name, hit, miss, store, even_text, percent(ratio), percent(saved / work_us)])
    return Table(
        f"Costs per request and break-even; an answer without cache takes {formatting.duration(work_us / 1e6)}",
        ["store", "hit µs", "miss µs", "set µs", "break-even hit ratio", "hit ratio here", "time saved here"],
        rows,
        "Hit and miss include making the key; everything that a cache adds to a request is counted.",
    )


def slower_requests(found: Mapping[str, Load]) -> Chart:
    """Return the share of requests that waited longer than a time, for each way to answer the same arrivals."""
    series, facts = [], []
    for name, one in found.items():
        longer = np.geomspace(1, 5 / len(one.latency_s), 60)
        series.append(Series(name, (1e3 * np.quantile(one.latency_s, 1 - longer)).tolist(), (100 * longer).tolist()))
        known = {f"p{100 * share:.0f}": one.percentile(share) for share in (0.5, 0.95, 0.99)}
        times = ", ".join(f"{share} {formatting.duration(time)}" for share, time in known.items() if time is not None)
        facts.append(f"{name}: {times} (worker busy {formatting.percent(one.busy)})")
    one = next(iter(found.values()))
    return Chart(
        f"Latency at {formatting.number(one.rate)} requests/s (left is better)",
        "latency from when a request was due, ms",
        "% of the requests that took longer",
        series,
        log_x=True,
        log_y=True,
        note=f"Open loop, Poisson arrivals, {len(one.latency_s):,} requests each. {'; '.join(facts)}.",
    )


def after_change(found: Mapping[str, AfterChange]) -> Table:
    """Return a row per kind of key: stale responses and changed decisions after a change of the version."""
    rows = [[name, one.requests, one.from_cache, one.stale, one.changed_decisions] for name, one in found.items()]
    columns = ["key", "requests", "from the cache", "stale responses", "changed decisions"]
    return Table("After a change of the version: answers that are still the old one's", columns, rows)


def staleness(trace: Trace, changes_every_s: float) -> Chart:
    """Return hits and stale responses over the time to live: from a thousandth to a third of the trace's time."""
    ttls_s = float(trace.times[-1] - trace.times[0]) * np.geomspace(1e-3, 0.3, 6)
    shares = 100 * np.array([checks.staleness(trace, ttl_s, changes_every_s) for ttl_s in ttls_s])
    hours, hits, stale = (ttls_s / 3600).tolist(), *shares.T.tolist()
    return Chart(
        "Hits and stale responses by time to live",
        "time to live, h",
        "% of the requests",
        [Series("hits", hours, hits), Series("stale responses", hours, stale, style="modelled")],
        log_x=True,
        note=f"Modelled: each object changes every {formatting.duration(changes_every_s)} on average, at random.",
    )


def stampedes(found: Mapping[str, Stampede]) -> Chart:
    """Return how many threads compute the same entry over time, for each strategy."""
    times = np.arange(0, 0.02 + max(float(one.ended.max(initial=0)) for one in found.values()), 0.005)[:, None]
    counts = ", ".join(f"{name} {len(one.begun)} ({one.redundant} redundant)" for name, one in found.items())
    running = {name: ((one.begun <= times) & (times < one.ended)).sum(axis=1) for name, one in found.items()}
    return Chart(
        "Threads that compute an expired entry (lower is better)",
        "time, s",
        f"threads that compute at once, of {THREADS}",
        [Series(name, times[:, 0].tolist(), counted.tolist()) for name, counted in running.items()],
        note=f"Computations: {counts}.",
    )


def claim(result: Result, changed: Mapping[str, AfterChange]) -> str:
    """Return the parts of 05_caching's claim, a line each: the time that each store saves is within five points of its
    hit ratio if all of its interval is; its answers are equal; after a change no response is stale."""
    parts, percent = {}, formatting.percent
    for one in result.record.points[-1].variants:
        if effect := formatting.claimed(one):
            ratio, ends = one.metrics["hit_ratio"], [1 - 1 / end for end in (effect.low, effect.high) if end]
            off = [end - ratio for end in ends]
            inside, outside = max(map(abs, off), default=1) <= 0.05, off and (off[0] > 0.05 or off[-1] < -0.05)
            interval = f" (95 % CI {' to '.join(map(percent, ends))})" if ends else ""
            saved = f"saves {percent(1 - 1 / effect.speedup)} of the time{interval} at a hit ratio of {percent(ratio)}"
            parts[f"{one.name} {saved}"] = inside if inside or outside else None
        if one.name != result.record.asked.baseline and one.check:
            parts[f"{one.name}: cached answers equal the computed ones"] = one.check.state == "passed"
    if changed:
        right, wrong = (f"{one.stale} of {one.requests}" for one in (changed["with the version"], changed["without"]))
        decisions = changed["without"].changed_decisions
        known = "" if decisions is None else f", changed decisions: {decisions}"
        stale = changed["with the version"].stale
        parts[f"stale responses with the version in the key: {right}; without it: {wrong}{known}"] = stale == 0
    return claims.lines(parts)
