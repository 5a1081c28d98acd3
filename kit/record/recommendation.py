"""The recommendation of one record: a headline, its evidence, its cost, its caveats, and the next command.

Pure functions, which never raise on what a record may hold.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from kit.record import formatting as fmt
from kit.record.document import Point, Record, Table, Variant
from kit.record.intervals import CONFIDENCE, MIN_ROUNDS, log_ratios, sign_test_interval

WHAT_TO_DO = "What to do"
"""Title of the table in which a technique answers its own questions; the first answer is the technique's headline."""
NO_WINNER = "No winner shown"
UNTIMED = ("rejected", "failed", "checked, not timed")
MOST_LISTED = 6


@dataclass(frozen=True)
class Recommendation:
    """A headline and its reasons; a text may be empty."""

    headline: str
    """`Query with DuckDB or Polars`, `No winner shown`, `No result: pandas failed`."""
    note: str = ""
    """`statistically tied`, next to the headline."""
    evidence: str = ""
    cost: str = ""
    caveats: tuple[str, ...] = ()
    """A clause each, without a full stop: conditions, what is inconclusive, rejected, failed or not tested."""
    command: str = ""
    """The command that would settle what is inconclusive."""
    variants: tuple[str, ...] = ()
    size: int | float | None = None
    """At which the evidence was measured; `variants` are the names of what is recommended, the fastest first."""


def answers(found: Mapping[str, str], note: str = "") -> Table:
    """Return a technique's own answers by question, as a table; the first is its `headline: evidence` in reports."""
    return Table(WHAT_TO_DO, ["question", "answer"], [[question, answer] for question, answer in found.items()], note)


def answered(record: Record) -> list[tuple[str, str]]:
    """Return the technique's own answers that a record holds: question and answer."""
    tables = [a for a in record.artifacts if isinstance(a, Table) and a.title == WHAT_TO_DO]
    return [(fmt.cell(row[0]), fmt.cell(row[1])) for table in tables[:1] for row in table.rows[:20] if len(row) > 1]


def of(record: Record) -> Recommendation:
    """Return the technique's own conclusion where the record holds one, else what its measurements allow."""
    measured, point, own = _measured(record), fmt.largest(record), answered(record)
    if not own:
        return measured
    headline, _, why = own[0][1].rstrip(".").partition(": ")
    why, command = why[:1].upper() + why[1:], ""
    if headline == NO_WINNER and point:
        more, command = _undecided(record, point)
        why = f"{why}; {more}"
    return replace(measured, headline=headline, note="", evidence=why, cost="", command=command)


def _measured(record: Record) -> Recommendation:
    point, baseline = fmt.largest(record), record.asked.baseline
    if point is None:
        return Recommendation("No result: nothing was measured")
    if tool := record.extra.get("tool"):
        return Recommendation("Times only", evidence=f"{fmt.shown(tool, 40)} times tests one by one: no speed-ups")
    if not record.how.isolated:
        return Recommendation("No result: not isolated", evidence="isolate=False is for debugging", size=point.size)
    if why := _baseline_unsound(point, baseline):
        return Recommendation(f"No result: {why}", caveats=_others(record, point, ()), size=point.size)
    won = [p for p in _ascending(record) if winners(p)]
    return _with_winner(record, point, won[-1]) if won else _without_winner(record, point)


def _baseline_unsound(point: Point, baseline: str) -> str:
    """Return why no verdict is possible: the baseline failed, fell back, or its own answers differ."""
    own = fmt.find(point, baseline)
    if own is None or own.state != "measured":
        return f"{fmt.shown(baseline, 60)} {own.state + fmt.because(fmt.note(own)) if own else 'was not measured'}"
    beginnings = tuple(f"{baseline}{text}" for text in ("'s own answers", " fell back", " failed in"))
    return next((_reason(v) for v in point.variants if v.reason.startswith(beginnings)), "")


def winners(point: Point) -> list[Variant]:
    """Return the fastest variant that is faster than the baseline and may be recommended, and its ties; else none."""
    faster = [v for v in point.variants if v.verdict == "faster" and v.effect and not v.not_recommended]
    faster.sort(key=lambda variant: -variant.effect.speedup)
    return [variant for variant in faster if variant is faster[0] or tied(point, faster[0], variant)]


def tied(point: Point, best: Variant, other: Variant) -> bool:
    """Return whether intervals overlap, and no difference is beyond the noise floor in the rounds that both took."""
    overlap = (other.effect.high or 0) >= (best.effect.low or 0)
    for session in point.sessions:
        if {best.name, other.name} <= session.measurements.keys():
            seconds = (session.measurements[name].wall_s for name in (other.name, best.name))
            if ends := sign_test_interval(log_ratios(*seconds), CONFIDENCE):
                return overlap and ends[0] <= math.log1p(session.noise_floor or 0.0)
    return overlap


def _ascending(record: Record) -> list[Point]:
    return sorted(record.points, key=lambda point: (point.size is not None, point.size or 0))


def _do(record: Record, variants: list[Variant]) -> str:
    action = fmt.shown(record.asked.action, 80) or "Use {variant}"
    return action.replace("{variant}", fmt.listing(map(fmt.label, variants), last="or"))


def _with_winner(record: Record, largest: Point, at: Point) -> Recommendation:
    best = winners(at)
    names, sizes = tuple(variant.name for variant in best), _sizes(record, best[0], at)
    word = " up to " if at is not largest else " at " if any(text.startswith("At ") for text in sizes) else ""
    return Recommendation(
        headline=_do(record, best) + (at_sizes(record, [at.size], word) if word else ""),
        note="statistically tied" if len(best) > 1 else "",
        evidence="; ".join(filter(None, [_ratios(record, at, best), _checks(best), _memory(record, at, best)])),
        cost=_break_even(record, at, best[0]),
        caveats=(*sizes, *_others(record, largest, names)),
        variants=names,
        size=at.size,
    )


def at_sizes(record: Record, sizes: list, before: str = " at ") -> str:
    """Return sizes with their unit after a word: ` at 10k and 1M rows`; empty for no size."""
    known = [fmt.short(size) for size in sizes if size is not None]
    unit = fmt.count(sizes[0] if len(sizes) == 1 else 2, record.asked.unit).partition(" ")[2]
    return f"{before}{fmt.listing(known)} {unit}".rstrip() if known else ""


def _ratios(record: Record, point: Point, best: list[Variant]) -> str:
    """Return `2.4× and 2.0× as fast as pandas at 337k rows (95 % CI 2.0–2.6, 1.7–2.6)`."""
    found = fmt.ratios((v.effect.speedup, v.effect.low, v.effect.high) for v in best[:MOST_LISTED])
    ends = ", ".join(interval for _, interval in found)
    seeds = " over seeds" if fmt.floor_name(point) != "noise floor" else ""
    than = fmt.shown(record.asked.baseline, 60) + at_sizes(record, [point.size])
    return f"{fmt.listing(f'{ratio}×' for ratio, _ in found)} as fast as {than} (95 % CI{seeds} {ends})"


def _checks(best: list[Variant]) -> str:
    passed = all(variant.check and variant.check.state == "passed" for variant in best)
    found = sorted({fmt.check(variant.check).partition(": ")[2] for variant in best})
    return f"check passed ({'; '.join(found)})" if passed else "answers not checked"


def _memory(record: Record, point: Point, best: list[Variant]) -> str:
    """Return the memory of the best, in their order: `memory within 5 %`, `use 20 % less and 6 % more memory`."""
    found = [fmt.memory_ratio(point, variant, record.asked.baseline) or 0.0 for variant in best[:MOST_LISTED]]
    if all(0.95 < ratio < 1.05 for ratio in found):
        return "memory within 5 %"
    verb = "uses" if len(found) == 1 else "use"
    return f"{verb} {fmt.listing(map(fmt.amount, found))} memory" if all(found) else ""


def _break_even(record: Record, point: Point, best: Variant) -> str:
    """Return the cost of using the best: all that is spent once, and after how many iterations that is worth it."""
    calls, base = best.breakeven_calls, fmt.find(point, record.asked.baseline)
    if not calls or calls <= 1:
        return ""
    setup = f"setup takes {fmt.duration(best.setup_s)} ({fmt.label(base)}: {fmt.duration(base.setup_s)})"
    setup = f"made once in {fmt.duration(best.made_s)}, {setup}" if best.made_s else setup
    rounded = float(f"{math.ceil(calls):.2g}") if math.isfinite(calls) else calls
    own = re.search(r"(?:\bper |/)(\w+)$", record.asked.unit)
    return f"Worth it after about {fmt.count(rounded, f'{own[1]}s' if own else 'iterations')}: {setup}"


def _sizes(record: Record, best: Variant, at: Point) -> list[str]:
    """Return the conditions at the other sizes: the variants that are ahead there, or that the best is not."""
    points = [point for point in _ascending(record) if point.size is not None]
    if len(points) == 1:
        return ["One size measured"]
    by_clause: dict[str, list[float]] = {}
    for point in points:
        own, ahead = fmt.find(point, best.name), winners(point)
        if point is at or own is None or own in ahead:
            continue
        others = f"{fmt.listing(map(fmt.label, ahead), last='or')} is ahead"
        by_clause.setdefault(others if ahead and own.verdict == "faster" else _became(own), []).append(point.size)
    clauses = [f"{at_sizes(record, sizes, 'At ')} {text}" for text, sizes in by_clause.items()]
    return [*clauses, *_crossing(record, best, points)]


def _became(variant: Variant) -> str:
    """Return a variant's result at a size where it does not win, to follow the size: `DuckDB takes 1.4× as long`."""
    name, verdict = fmt.label(variant), variant.verdict
    if verdict == "slower":
        return f"{name} {fmt.speed(variant.effect)}"
    return f"{name} {'' if verdict == 'failed' else 'is '}{verdict}{fmt.because(fmt.note(variant))}"


def _crossing(record: Record, best: Variant, points: list[Point]) -> list[str]:
    """Return above which size the best is faster; it takes at least four sizes over two decades."""
    found = record.scaling.get(best.name)
    wide = len(points) >= 4 and points[0].size > 0 and points[-1].size / points[0].size >= 100
    if not wide or found is None or found.overtakes != "between" or found.from_size is None:
        return []
    ends = f" (95 % CI {fmt.short(found.from_low)}–{fmt.short(found.from_high)})" if found.from_low else ""
    return [at_sizes(record, [found.from_size], "Faster above about ") + ends]


def _without_winner(record: Record, point: Point) -> Recommendation:
    baseline, caveats = fmt.find(point, record.asked.baseline), _others(record, point, ())
    timed = [variant for variant in point.variants if variant.verdict in fmt.TIMED and not variant.not_recommended]
    if not timed:
        checked = [v for v in point.variants if v.verdict == "checked, not timed"]
        headline = "Answers checked, speed not compared" if checked else "No result: no comparable variant was timed"
        found = "; ".join(f"{fmt.label(v)} {fmt.check(v.check)}" for v in checked[:MOST_LISTED])
        return Recommendation(headline, evidence=found, caveats=caveats, size=point.size)
    listed = fmt.listing(f"{fmt.label(v)} {fmt.speed(v.effect)}" for v in timed[:MOST_LISTED])
    evidence = f"Against {fmt.label(baseline)}{at_sizes(record, [point.size])}: {listed}"
    if all(variant.verdict in ("slower", "equivalent") for variant in timed):
        best = [baseline, *(variant for variant in timed if variant.verdict == "equivalent")]
        note = f"equivalent within ±{fmt.percent(record.how.equivalence_margin)}" if len(best) > 1 else ""
        names = tuple(variant.name for variant in best)
        return Recommendation(_do(record, best), note, evidence, caveats=caveats, variants=names, size=point.size)
    why, command = _undecided(record, point)
    return Recommendation(NO_WINNER, "", f"{evidence}; {why}", caveats=caveats, command=command, size=point.size)


def _undecided(record: Record, point: Point) -> tuple[str, str]:
    """Return the difference that is detected in nine of ten comparisons, as `kit plan` does (the floor, half of the
    interval, and 1.28 standard errors, which are a quarter of it), and the command; or the rounds that are missing."""
    rounds = max((len(session.order) for session in point.sessions), default=0)
    if rounds < MIN_ROUNDS:
        return f"{fmt.count(rounds, 'rounds')}, and {MIN_ROUNDS} are needed for a verdict: raise time_budget_s", ""
    timed = [(effect, v) for v in point.variants if (effect := fmt.claimed(v)) and not v.not_recommended]
    ends = [(effect.low or 0.0, effect.high or 0.0, fmt.noise_floor(point, v) or 0.0) for effect, v in timed]
    found = [0.75 * math.log(high / low) + math.log1p(floor) for low, high, floor in ends if low > 0 and high > 0]
    least = math.expm1(min(max(found, default=math.nan), 700.0))
    floor = f"{fmt.floor_name(point)} {fmt.percent(max((end[2] for end in ends), default=None))}"
    notebook = fmt.shown(record.asked.notebook, 60)
    command = f"kit plan {notebook}" if re.fullmatch(r"[\w-]+", notebook) else ""
    return f"{floor}, minimum detectable effect in this budget: {fmt.percent(least)}", command


def _others(record: Record, point: Point, recommended: tuple[str, ...]) -> tuple[str, ...]:
    """Return what limits a recommendation, by kind: inconclusive, rejected, failed, not recommended, not tested."""
    rest = [variant for variant in point.variants if variant.name not in recommended]
    kinds = {kind: [v for v in rest if v.verdict == kind] for kind in ("inconclusive", *UNTIMED, "skipped")}
    ruled_out = [variant for variant in rest if variant.state == "measured" and variant.not_recommended]
    found = {
        "Inconclusive": [f"{fmt.label(v)} {fmt.speed(v.effect)}" for v in kinds["inconclusive"] if recommended],
        **{verdict.capitalize(): grouped(kinds[verdict], fmt.note) for verdict in UNTIMED},
        "Not a recommendation": grouped(ruled_out, lambda variant: fmt.shown(variant.not_recommended)),
        f"Not tested{at_sizes(record, [point.size][: len(record.points) - 1])}": grouped(kinds["skipped"], _reason),
    }
    found["Interrupted"] = [] if record.complete else ["only part was measured"]
    return tuple(f"{kind}: {'; '.join(groups)}" for kind, groups in found.items() if groups)


def grouped(variants: Iterable[Variant], why: Callable[[Variant], str]) -> list[str]:
    """Return the variants that share a reason together: `cuDF and Dask-cuDF (no NVIDIA driver)`."""
    groups: dict[str, list[str]] = {}
    for variant in variants:
        groups.setdefault(why(variant), []).append(fmt.label(variant))
    return [fmt.listing(names) + fmt.because(reason) for reason, names in groups.items()]


def sentence(record: Record, point: Point, variant: Variant) -> str:
    """Return the verdict on one variant at one size, without a full stop: `Polars, 1,000,000 rows: faster, 6.1× as fast
    as pandas (95 % CI 5.8–6.4), uses 60 % less memory`."""
    name, at = fmt.shown(variant.name, 60), fmt.count(point.size, record.asked.unit)
    head = f"{name}{', ' + at if at else ''}: {variant.verdict}"
    if variant.verdict not in fmt.TIMED or variant.effect is None:
        return head + fmt.because(fmt.note(variant))
    parts = [head, fmt.speed(variant.effect, record.asked.baseline), _memory(record, point, [variant])]
    if variant.verdict == "inconclusive":
        floor = fmt.noise_floor(point, variant)
        parts += [f"{fmt.floor_name(point)} {fmt.percent(floor)}" if floor else "", fmt.note(variant)]
    return ", ".join(part for part in parts if part)


def at_point(record: Record, point: Point) -> str:
    """Return the verdicts at one size, a sentence each, those that were skipped grouped by their reason."""
    texts = [sentence(record, point, v) for v in point.variants if v.verdict not in ("baseline", "skipped")]
    skipped = grouped((v for v in point.variants if v.verdict == "skipped"), _reason)
    texts += [f"Skipped: {'; '.join(skipped)}"] if skipped else []
    return f"{'. '.join(texts)}." if texts else "Only the baseline was asked for."


def _reason(variant: Variant) -> str:
    return fmt.shown(variant.reason).rstrip(".")


def summary(record: Record) -> str:
    """Return the recommendation of a record, and the verdicts at the largest size."""
    point = fmt.largest(record)
    return f"{of(record).headline}. {at_point(record, point)}" if point else "Nothing was measured."
