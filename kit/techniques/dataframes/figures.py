"""What a comparison over sizes shows: costs of a first answer, growth with the rows, the fastest engines of a range."""

import math

from kit.measure.result import Result
from kit.measure.statistics import MIN_SIZES, scaling
from kit.record import formatting, recommendation
from kit.record.document import Chart, Series, Table
from kit.techniques.dataframes.clusters import CLUSTER

RANGES = {"below 10,000 rows": 9_999, "10,000 to 1,000,000 rows": 1_000_000, "above 1,000,000 rows": math.inf}
"""In words → the largest size."""
PARTS = {"start_s": "start of the engine", "load_s": "loading", "first_query_s": "first query"}


def first_answer(result: Result) -> Chart:
    """Return the seconds from nothing to a first answer at the largest size, by engine and part."""
    point = formatting.largest(result.record)
    costs = {one.name: {"first_query_s": one.first_call_s, **one.execution_proof.costs}
             for one in point.variants if one.execution_proof and one.first_call_s is not None}  # fmt: skip
    parts = [Series(label, [*costs], [one.get(name) or 0 for one in costs.values()]) for name, label in PARTS.items()]
    title = f"First answer at {formatting.short(point.size)} rows, lower is better"
    note = "Imports and session; tables, from files in the page cache; the first query. Later ones are faster."
    return Chart(title, "engine", "seconds", parts, shape="stacked", note=note)


def growth(result: Result) -> Table:
    """Return, by engine, above how many rows it is faster than the baseline, over the sizes at which it was measured,
    and the exponent of its time in the rows: the slope of log(median seconds) over log(rows), with Student's 95 %
    interval; from four sizes on."""
    from scipy.stats import linregress, t

    points, rows = result.record.points, []
    for name in result:
        at = [(p.size, v) for p in points if (v := formatting.find(p, name)) and v.median_s]
        if not at:
            continue
        sizes, exponent = [size for size, _ in at], "–"
        if len(at) >= MIN_SIZES:
            fit = linregress([math.log(size) for size in sizes], [math.log(v.median_s) for _, v in at])
            low, high = (fit.slope + sign * t.ppf(0.975, len(at) - 2) * fit.stderr for sign in (-1, 1))
            exponent = f"{fit.slope:.2f} ({low:.2f} to {high:.2f})"
        found = scaling(sizes, [v.effect for _, v in at], [v.verdict for _, v in at])
        ends = formatting.count(round(found.from_low or 0)), formatting.count(round(found.from_high or 0))
        above = f"{' to '.join(ends)} rows" if found.overtakes == "between" else found.overtakes
        above = above if at[1:] else "–"
        rows.append([name, above + f", up to {sizes[-1]:,} rows" * (1 < len(at) < len(points)), exponent])
    above = f"faster than {result.record.asked.baseline} above"
    return Table("Growth with the rows", ["engine", above, "exponent (95 % CI)"], rows)


def cluster_cost(result: Result) -> Table:
    """Return what each engine on a cluster takes, paired with the same engine on this machine's threads, by size."""
    engines = {name: name.removesuffix(CLUSTER) for name in result if name.endswith(CLUSTER)}
    sizes = [at.size for at in result.record.points]
    pairs = [(size, *both, result.at(size).paired(*both)) for size in sizes for both in engines.items()]
    rows = [[size, name, formatting.speed(pair.effect, own), pair.verdict] for size, name, own, pair in pairs if pair]
    return Table("A cluster against this machine's threads", ["rows", "engine", "takes", "verdict"], rows)


def _unbeaten(result: Result) -> dict[str, list[str]]:
    """Return, for each of `RANGES` in which a size was measured, the engines that no other is faster than at any of
    them: significantly, and paired within the rounds."""
    found: dict[str, list[str]] = {}
    for size in (point.size for point in result.record.points):
        at, words = result.at(size), next(words for words, most in RANGES.items() if size <= most)
        timed = [name for name in at if at[name].seconds and at[name].verdict != "rejected"]
        pairs = {(one, other): at.paired(one, other) for one in timed for other in timed if one != other}
        beaten = {other for (_, other), pair in pairs.items() if pair and pair.verdict == "faster"}
        found[words] = [name for name in found.get(words, timed) if name in timed and name not in beaten]
    return found


def fastest(result: Result) -> Table:
    """Return the engines that no other is faster than, by range of rows."""
    rows = [[words, ", ".join(names) or "none at each size"] for words, names in _unbeaten(result).items()]
    ends = {v.name: at.size for at in result.record.points for v in at.variants if v.state == "measured"}
    gone = {name: formatting.short(size) for name, size in ends.items() if size != result.record.points[-1].size}
    note = "; ".join(f"{name} is not measured above {size} rows" for name, size in gone.items())
    return Table("Fastest engines by rows", ["rows", "no engine is significantly faster than"], rows, note)


def claimed(result: Result, engines: dict[str, list[str]]) -> dict[str, bool | None]:
    """Return the parts of a claim: by range, whether its fastest engines are all among those claimed; None where the
    baseline is one of them, or where nothing is claimed."""
    parts = {}
    for words, names in _unbeaten(result).items():
        unknown = result.record.asked.baseline in names or words not in engines
        part = f"{words}: no engine is faster than {' or '.join(names) or 'all others at each size'}"
        parts[part] = None if unknown else bool(names) and set(names) <= set(engines[words])
    return parts


def finished(result: Result) -> dict[str, float]:
    """Return the largest size that each engine tried finished with an equal result, 0 for none; not of the baseline."""
    ends = [(v, at.size) for at in result.record.points for v in at.variants[1:] if v.state != "skipped"]
    good = [(v.name, size) for v, size in ends if v.median_s and v.verdict != "rejected"]
    return dict.fromkeys((v.name for v, _ in ends), 0) | dict(sorted(good, key=lambda pair: pair[1]))


def within_bound(result: Result, bound_gib: float) -> Table:
    """Return the engines that finish the largest size under a bound of memory, as the record's own answer: of the size
    below where the baseline ends there, since nothing else was tried then."""
    done, points = finished(result), sorted(result.record.points, key=lambda point: point.size)
    point = ([one for one in points if one.variants[0].state == "measured"] or points[:1])[-1]
    largest = f"{point.size / bound_gib:.3g}× the bound of {bound_gib:.3g} GiB"
    through = [variant for variant in point.variants if done.get(variant.name) == point.size]
    names = formatting.listing(map(formatting.label, through)) or "No engine"
    only, verb = "Only " * (len(through) == 1 < len(done)), "finish" if len(through) > 1 else "finishes"
    timed = [one for one in (*through, point.variants[0]) if one.median_s]
    times = [f"{formatting.label(one)} takes {formatting.duration(one.median_s)}" for one in timed]
    ends = {name: f"up to {at / bound_gib:.3g}×" if at else "no size" for name, at in done.items()}
    others = [f"{name} finishes {end}" for name, end in ends.items() if done[name] < point.size]
    others += [f"above it {point.variants[0].name} ends, and no other was tried"] * (point is not points[-1])
    answer, why = f"{only}{names} {verb} {largest}", "; ".join(times + others)
    return recommendation.answers({f"What finishes {largest}?": f"{answer}: {why}"})
