"""What caching shows beside speed-ups: what each size and policy misses, what users wait for, what a cache saves."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from kit.errors import UserError
from kit.measure.result import Result
from kit.record import words
from kit.record.advice import answers
from kit.record.document import Chart, Quality, Series, Table, Variant
from kit.techniques.caching.advice import NORMAL, Advice, Costs, Standing, amount_a_day, saving, savings
from kit.techniques.caching.curves import Curve, Curves
from kit.techniques.caching.layers.cached import Wrong
from kit.techniques.caching.layers.prefix import BLOCK, Prefill
from kit.techniques.caching.layers.serving import Served, Worth
from kit.techniques.caching.layers.staleness import Freshness
from kit.techniques.caching.outage import Stage
from kit.techniques.caching.stampede import Stampede
from kit.techniques.caching.stores.operations import Weight
from kit.techniques.caching.stores.rates import USERS, Rate

DAY_S = 86_400
QUANTILES = {"median": 0.5, "95 %": 0.95, "99 %": 0.99}


# Policies on a trace


def misses(found: Curves, of_bytes: bool = False) -> Chart:
    """Return the share of the requests, or of their bytes, that each policy misses over the size of the cache, with
    the bound. An interval is that of the sample of objects that was simulated, where it was one."""
    ratio, error = ("byte_hit_ratio", "byte_error") if of_bytes else ("hit_ratio", "error")
    series = [_missed(found, name, curve, ratio, error) for name, curve in found.policies.items()]
    best = _missed(found, found.bound_name, found.bound, ratio, error)
    series.append(Series(best.name, best.x, best.y, best.low, best.high, style="ideal"))
    what = "bytes" if of_bytes else "requests"
    return Chart(
        f"What a cache misses of {found.trace.name}, in {what} (lower is better)",
        _size_label(found),
        f"% of the {what} missed",
        series,
        log_x=True,
        note=f"{found.bound_name}: no policy can miss fewer. First requests miss in any cache: "
        f"{words.percent(1 - found.ceiling)} of all requests.",
    )


def _missed(found: Curves, name: str, curve: Curve, ratio: str, error: str) -> Series:
    middle, width = 100 * (1 - getattr(curve, ratio)), 100 * NORMAL * getattr(curve, error)
    ends = (list((middle - width).clip(0)), list((middle + width).clip(max=100))) if width.any() else (None, None)
    return Series(name, _sizes(found), list(middle), *ends)


def order(real: Curves, shuffled: Curves) -> Chart:
    """Return what the order of the requests does to each policy: its hit ratio in the real order less the one in random
    order, in percentage points."""
    pairs = [(name, real.policies[name], shuffled.policies[name]) for name in real.policies]
    series = [Series(name, _sizes(real), list(100 * (a.hit_ratio - b.hit_ratio))) for name, a, b in pairs]
    gained = 100 * (real.bound.hit_ratio - shuffled.bound.hit_ratio)
    series.append(Series(real.bound_name, _sizes(real), list(gained), style="ideal"))
    return Chart(
        "What the real order adds to the hit ratio of a shuffled one",
        _size_label(real),
        "percentage points (0: order does not matter)",
        series,
        log_x=True,
        note="Above 0 requests for one object come close together, which caches like; below 0 they are spread out. "
        "A benchmark on independent requests sees neither.",
    )


def _sizes(found: Curves) -> list[float]:
    return (found.capacities / (1 if found.unit == "items" else 2**20)).tolist()


def _size_label(found: Curves) -> str:
    most = words.count(found.trace.objects, "objects")
    return f"size of the cache, {'items' if found.unit == 'items' else 'MiB'} (of {most})"


def gates(*held: tuple[str, Quality]) -> Table:
    """Return a row a gate: what was checked on what, what came out, the bound, and whether it holds."""
    rows = [
        [on, found.measure, max(found.value or 0.0, 0.0), found.bound, "yes" if found.state == "held" else "NO"]
        for on, found in held
    ]
    return Table("Gates: can these curves be believed?", ["trace", "what", "found", "bound", "held"], rows)


# Stores


def measured(result: Result, name: str) -> bool:
    """Return whether a variant was measured, at the largest size, and what it did is valid."""
    return any(v.name == name and _valid(v) for v in result.record.points[-1].variants)


def _valid(variant: Variant | None) -> bool:
    return variant is not None and variant.state == "measured" and variant.verdict != "invalid"


def rates(found: Sequence[Rate]) -> Table:
    """Return a row an operation and store: what all users together do in a second, by threads and by processes."""
    rows: dict[tuple[str, str], dict[str, Rate]] = {}
    for one in found:
        rows.setdefault((one.operation, one.store), {})[one.users] = one
    wrong = [f"{one.store}, {one.operation}, {one.users}: {words.percent(one.right)}" for one in found if one.right < 1]
    many = words.count(min(len(one.readings) for one in found), "readings")
    return Table(
        "Operations a second, in thousands, all users together (higher is better)",
        ["operation", "store", *USERS, "up to"],
        [
            [*names, *(by[users].per_s / 1000 if users in by else None for users in USERS), _widest(by.values())]
            for names, by in rows.items()
        ],
        f"Medians of {many} in random order; up to: the widest interval of the row. —: in memory each process has a "
        "store of its own, and shares nothing."
        + (f" Not all did what they should: {'; '.join(wrong)}." if wrong else ""),
    )


def _widest(row: Iterable[Rate]) -> str:
    return words.plus_minus(max((high - low) / 2 / one.per_s for one in row for low, high in [one.interval]))


def weights(found: Mapping[str, Weight], servers: Sequence[str] = ("Redis",)) -> Table:
    """Return a row a store: the memory of one item. servers: stores that keep nothing in this process."""
    rows = [[name, None if name in servers else weight.in_process, weight.in_store] for name, weight in found.items()]
    value = next(iter(found.values())).value
    return Table(
        "What an item weighs, bytes (lower is better)",
        ["store", "in the process", "in the store"],
        rows,
        f"An item is an array of {value:,} bytes. In the process: how much the process grew; in the store: by the "
        "store's own account.",
    )


# What a cache is worth before work


def of_one_work(found: Mapping[str, Worth]) -> dict[str, Worth]:
    """Return each store's costs with the mean of what the work took: it is the same, and only chance tells it apart.
    Works for the costs of resamples as well."""
    compute_s = np.mean([one.compute_s for one in found.values()], axis=0) if found else 0.0
    return {name: replace(one, compute_s=compute_s) for name, one in found.items()}


def worth(found: Mapping[str, Worth], work: str, note: str = "") -> Table:
    """Return a row a store: what lookups and puts cost, from which hit ratio on that pays, and what is saved net. note:
    what was asked less of slow work. Raise `UserError` where no store was measured."""
    if not found:
        raise UserError(f"no store was measured before {work}, so nothing can be advised; see the table above for why")
    rows = [
        [
            name,
            *(1e6 * value for value in (one.hit_s, one.miss_s, one.put_s)),
            1e3 * one.compute_s,
            words.percent(one.break_even) if one.break_even <= 1 else "never",
            words.percent(one.hit_ratio),
            1e3 * one.saved_s,
            words.percent(one.saved_share),
        ]
        for name, one in found.items()
    ]
    return Table(
        f"What each store costs and saves before {work}",
        ["store", "hit µs", "miss µs", "put µs", "work ms", "pays from", "hit ratio here", "saved ms", "of the time"],
        rows,
        "Means a request; making the key is part of hit and miss, and the cache empty at the beginning. Pays from: "
        f"the break-even hit ratio. Saved: net of lookups and puts, at the hit ratio here. {note}".strip(),
    )


def break_even(found: Mapping[str, Worth]) -> Chart:
    """Return from which hit ratio on each store pays over what the work costs: its measured lookups and puts set
    against other work. A line ends where no hit ratio would do."""
    here = float(np.mean([one.compute_s for one in found.values()]))
    work_s = np.geomspace(min(1e-5, here), max(0.1, here), 60)
    series = []
    for name, one in found.items():
        ratio = replace(one, compute_s=work_s).break_even
        series.append(Series(name, list(1e3 * work_s), [100 * r if r <= 1 else None for r in ratio], style="modelled"))
    low = min((y for one in series for y in one.y if y is not None), default=1.0)
    series.append(Series("this work", [1e3 * here] * 2, [low, 100.0], style="ideal"))
    return Chart(
        "From which hit ratio on a cache pays (lower is better)",
        "what an answer costs without a cache, ms",
        "break-even hit ratio, %",
        series,
        log_x=True,
        log_y=True,
        note="Modelled from the lookups and puts measured here; only at this work were they measured together.",
    )


# What users wait for


def waited(found: Mapping[str, Served], rate: float) -> Chart:
    """Return which share of the requests waited longer than a time, for each way to answer the same arrivals."""
    series = []
    for name, served in found.items():
        shares = np.unique(np.concatenate([np.linspace(0, 0.9, 46), 1 - np.geomspace(0.1, 2 / len(served.due), 20)]))
        times = np.quantile(served.latency_s, shares)
        series.append(Series(name, list(1e3 * times), list(100 * (1 - shares))))
    return Chart(
        f"Who waits how long at {words.number(rate)} requests a second (left is better)",
        "latency from the moment a request was due, ms",
        "% that waited longer",
        series,
        log_x=True,
        log_y=True,
    )


def latencies(found: Sequence[tuple[str, Served]], note: str = "") -> Table:
    """Return a row a way to answer and rate: the worker's load, the hit ratio, and percentiles of the latency. note:
    what was asked less of slow work."""
    rows = [
        [
            name,
            served.rate,
            words.percent(served.busy),
            words.percent(served.hit_ratio) if served.hit.any() else "—",
            *(1e3 * served.latency(share) for share in QUANTILES.values()),
            len(served.due),
        ]
        for name, served in found
    ]
    return Table(
        "Latency by arrival rate, in milliseconds (lower is better)",
        ["", "requests a second", "worker busy", "hit ratio", *QUANTILES, "requests"],
        rows,
        "Requests arrive at random (a Poisson process) whether or not others wait. Above 100 % of one worker's time "
        f"the queue grows for as long as it lasts. {note}".strip(),
    )


# Trust


def versions(found: Mapping[str, tuple[Wrong, Wrong]]) -> Table:
    """Return two rows a change of the model: wrong answers with the version in the key, and without it."""
    rows = [
        [change, "yes" if place == 0 else "NO", one.requests, one.from_cache, one.answers, one.decisions]
        for change, pair in found.items()
        for place, one in enumerate(pair)
    ]
    return Table(
        "After a change of the model: whose answers does the cache give?",
        ["change", "version in the key", "requests", "from the cache", "wrong answers", "wrong decisions"],
        rows,
        "Wrong: not what the new model answers. Decisions: of these, those whose class is another.",
    )


def outage(found: Sequence[Stage]) -> Table:
    """Return a row a state of the server: what requests met with before it was killed, without it, and after."""
    said = next((one.said for one in found if one.said), "")
    return Table(
        "Redis killed in mid-run",
        ["server", "requests", "from the cache", "wrong answers", "longest ms"],
        [[one.server, one.requests, one.from_cache, one.wrong, 1e3 * one.longest_s] for one in found],
        f"What the store said while it was gone: {said}." if said else "",
    )


def stale(found: Sequence[Freshness], changes_every_s: float) -> Chart:
    """Return what each time to live serves, and how much of it has changed since: over the time to live."""
    hours = [one.ttl_s / 3600 for one in found]
    return Chart(
        "A longer time to live: more hits, more answers that are out of date",
        "time to live, h",
        "% of requests",
        [
            Series("hits", hours, [100 * one.hit_ratio for one in found]),
            Series("stale answers", hours, [100 * one.stale for one in found], style="modelled"),
        ],
        log_x=True,
        note=f"Hits are those of this trace. Stale is modelled: each object changes every "
        f"{words.duration(changes_every_s)} on average, at random.",
    )


def stampede(found: Mapping[str, Stampede], width_s: float = 0.02) -> Chart:
    """Return how many compute the same entry at once over time, for each strategy."""
    series = []
    for name, one in found.items():
        spans = one.over_time(width_s)
        series.append(Series(name, spans.times.tolist(), spans.computing.tolist()))
    one = next(iter(found.values()))
    return Chart(
        f"An entry expires that {one.threads} threads ask for (lower is better)",
        "seconds",
        "computing the same answer at once",
        series,
        note=f"The answer takes {words.duration(one.compute_s)} and lives {words.duration(one.ttl_s)}.",
    )


def stampedes(found: Mapping[str, Stampede]) -> Table:
    """Return a row a strategy: computations, how many were needless, the most at once, and what requests waited."""
    rows = [
        [
            name,
            one.processes,
            one.threads,
            one.computations,
            one.redundant,
            one.most_at_once,
            1e3 * one.latency(0.99),
            1e3 * float(one.latency_s.max()),
        ]
        for name, one in found.items()
    ]
    return Table(
        "What a stampede costs",
        ["strategy", "processes", "threads", "computations", "needless", "most at once", "99 % ms", "longest ms"],
        rows,
        "Needless: begun while another was under way.",
    )


def prefixes(found: Mapping[str, Sequence[Prefill]]) -> Chart:
    """Return the share of prompts' tokens that a server need not read again over the size of its prefix cache: of
    generated conversations, simulated."""
    series = [
        Series(name, [BLOCK * one.capacity for one in curve], [100 * one.hit_ratio for one in curve], style="modelled")
        for name, curve in found.items()
    ]
    return Chart(
        "Prefix cache of a language-model server, simulated (higher is better)",
        "size of the cache, tokens",
        "% of prompt tokens not read again",
        series,
        log_x=True,
        note="Simulated: generated conversations, blocks of 16 tokens by their hash, least recently used out. No model "
        "runs here; what a token costs is for yours to say.",
    )


# Advice


def costs(
    found: Mapping[str, Worth],
    spread: Mapping[str, Worth],
    weights: Mapping[str, Weight],
    requests_a_day: float,
    prefer: str = "LRU in memory",
) -> Costs:
    """Return the costs to be advised by: of the store `prefer`, where it was measured, or else of the first that was.

    spread: of each, resampled. An item takes what that store weighs, in this process or by its own account, whichever
    is more; where it was not weighed, as two tiers are not, what the heaviest does.
    """
    name = prefer if prefer in found else next(iter(found))
    heaviest = {one: max(weight.in_process, weight.in_store) for one, weight in weights.items()}
    value_bytes = heaviest.get(name, max(heaviest.values(), default=None))
    return Costs(found[name], requests_a_day, value_bytes, spread=spread.get(name))


def saved(found: Curves, costs: Costs, chosen: Advice) -> Chart:
    """Return the work that each policy saves a day over the size of the cache, and the size advised."""
    by_policy = savings(found, costs)
    lows, highs = zip(*((float(seconds.min()), float(seconds.max())) for seconds in by_policy.values()), strict=True)
    unit_s, unit = (3600, "hours") if max(highs) > 3600 else (60, "minutes")
    series = [
        Series(name, _sizes(found), list(seconds / unit_s), style="modelled") for name, seconds in by_policy.items()
    ]
    at = chosen.capacity / (1 if found.unit == "items" else 2**20)
    series.append(Series("advised", [at, at], [min(0.0, *lows) / unit_s, max(highs) / unit_s], style="ideal"))
    return Chart(
        f"Work saved a day at {words.count(round(costs.requests_a_day), 'requests')} (higher is better)",
        _size_label(found),
        f"{unit} of work a day",
        series,
        log_x=True,
        note="Modelled: the hit ratios of the trace times the costs measured here.",
    )


def advised(found: Curves, chosen: Advice, costs: Costs, store: str) -> Table:
    """Return the advice in one row a question."""
    share = [words.percent(end) for end in chosen.hit_ratio_interval]
    items = f"{words.count(chosen.capacity, 'items')}, " if found.unit == "items" else ""
    alone = "" if items else " of values, what keys and bookkeeping weigh not counted"
    return answers(
        {
            "does a cache pay?": chosen.pays,
            "which policy?": chosen.policy,
            "how large?": f"{items}{words.mib(chosen.memory_mib)}{alone}",
            "which store?": store,
            "hit ratio": f"{words.percent(chosen.hit_ratio)} [{', '.join(share)}]",
            "pays from a hit ratio of": words.percent(chosen.break_even),
            "saves a day": saving(chosen),
            "at": words.count(round(costs.requests_a_day), "requests a day"),
        },
        "In brackets the 95 % interval: what another such stretch of the same traffic would show, and costs that are "
        "measured again.",
    )


def which_store(found: Mapping[str, Standing], hit_ratio: float) -> Table:
    """Return a row a store: what it saves a day, and how much less than the one that saves most, with intervals."""
    rows = [
        [
            one.store,
            "yes" if one.lasting else "no",
            amount_a_day(one.saved_s, one.saved_s_interval),
            "—" if one.verdict == "most" else f"{words.percent(one.less)} [{_percents(one.less_interval)}]",
            one.verdict,
        ]
        for one in found.values()
    ]
    return Table(
        f"Which store? What each saves at a hit ratio of {words.percent(hit_ratio)}",
        ["store", "outlives the process", "saves a day", "less than the most", "verdict"],
        rows,
        "Intervals of 95 %: what measuring lookups, puts and the work again would show. Same: within 3 % of the most. "
        "Unresolved: the interval allows for both.",
    )


def _percents(ends: tuple[float, float]) -> str:
    return ", ".join(words.percent(end) for end in ends)


def refuted(
    held: Sequence[tuple[str, Quality]] = (),
    wrong: Mapping[str, tuple[Wrong, Wrong]] | None = None,
    stages: Sequence[Stage] = (),
) -> list[str]:
    """Return in a sentence each what speaks against the claim: gates that do not hold, and answers that are not the
    work's, with the version in the key or while a server was away. None: nothing does."""
    curves = [
        f"The curves of {on} can't be believed: {found.measure} is {words.number(found.value)}."
        for on, found in held
        if found.state != "held"
    ]
    changed = [
        f"{change}: {versioned.answers:,} of {versioned.requests:,} answers were the old model's, or wrong, with the "
        "version in the key."
        for change, (versioned, _) in (wrong or {}).items()
        if versioned.answers
    ]
    away = [
        f"With the server {one.server}, {one.wrong:,} of {one.requests:,} answers were wrong."
        for one in stages
        if one.wrong
    ]
    return curves + changed + away


def unchecked(wrong: Mapping[str, tuple[Wrong, Wrong]], stages: Sequence[Stage]) -> list[str]:
    """Return what the claim rests on that could not be checked: there was no other model, or no server."""
    missing = {"answers after a change of the model": wrong, "answers while a server is away": stages}
    return [what for what, found in missing.items() if not found]


def claim(
    found: Mapping[str, Worth],
    result: Result,
    most: float,
    against: Sequence[str] = (),
    spread: Mapping[str, Worth] | None = None,
    missing: Sequence[str] = (),
) -> str:
    """Return whether every store pays from a hit ratio of `most` on, and whether all cached answers were the work's.
    against: what was found elsewhere that refutes it (`refuted`). spread: of each store's costs, resampled: a claim
    within it is unresolved. missing: what was not checked (`unchecked`)."""
    dearest = max(found, key=lambda name: found[name].break_even)
    even = found[dearest].break_even
    states = [
        variant.quality.state
        for point in result.record.points
        for variant in point.variants
        if variant.state == "measured" and variant.verdict != "baseline" and variant.quality
    ]
    equal = states.count("held")
    low, high = np.percentile(spread[dearest].break_even, [2.5, 97.5]) if spread else (even, even)
    sound = states and equal == len(states) and not against
    verdict = "does not hold" if not sound or low > most else "holds" if high <= most else "is unresolved"
    ends = f" [{words.percent(low)}, {words.percent(high)}]" if spread else ""
    pays = f"pays from a hit ratio of {words.percent(even)}{ends} on" if even <= 1 else "never pays"
    return (
        f"**The claim {verdict} here**: the dearest store, {dearest}, {pays}, and in {equal} of {len(states)} checks "
        "cached answers were those of the work itself."
        + "".join(f" **Refuted:** {one}" for one in against)
        + (f" **Not checked:** {words.listing(missing)}." if missing else "")
    )
