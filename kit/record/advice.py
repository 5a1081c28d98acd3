"""Says what to do about what a record found: one plain recommendation, its condition, and what could change it.

Pure functions over `document.py`'s types, like `words.py`, whose promises they share.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kit.record import words
from kit.record.document import Point, Record, Table, Variant
from kit.record.intervals import MIN_ROUNDS

WHAT_TO_DO = "What to do"
"""Title of the table in which a technique answers its own questions; reports set it beside the recommendation."""

MORE_MEMORY = 1.1
"""From this ratio on the memory that a variant needs is a condition of using it."""
MANY_CALLS = 1_000
"""Where a preparation takes more calls than these to pay for itself, that is said first."""


@dataclass(frozen=True)
class Advice:
    """What to do."""

    do: str
    condition: str
    variant: str
    """Whose numbers stand for it: its name, or the baseline's where nothing beats that."""
    size: int | float | None
    """At which those were measured."""
    change: tuple[str, ...]
    """What could change it, a clause each: what is open, what was skipped or failed, and what to do to know."""


def answers(told: Mapping[str, str], note: str = "") -> Table:
    """Return a technique's own answers, by question, as the table that reports look for."""
    return Table(WHAT_TO_DO, ["question", "answer"], [[question, answer] for question, answer in told.items()], note)


def of(record: Record) -> Advice:
    """Return the recommendation that one record allows: by the largest size at which a variant beats the baseline, with
    what holds at the others."""
    point, baseline = words.largest(record), record.asked.baseline
    if point is None:
        return Advice("Nothing can be said yet", "Nothing was measured", baseline, None, ())
    if tool := record.extra.get("tool"):
        why = f"{words.shown(tool, 40)} measures one test after the other, so these are times, and no speed-ups"
        return Advice("Times only", why, baseline, point.size, ())
    if not record.how.isolated:
        why = "It was measured in one process (isolate=False), which is for debugging"
        return Advice("Nothing can be said yet", why, baseline, point.size, ())
    won = [p for p in _ascending(record) if winner(p) is not None]
    if not won:
        return _without_winner(record, point)
    there = words.find(point, winner(won[-1]).name)
    if won[-1] is not point and there is not None and there.verdict in ("slower", "same"):
        return _without_winner(record, point, won[-1])
    return _with_winner(record, point, won[-1])


def winner(point: Point) -> Variant | None:
    """Return the fastest variant that was shown to be faster, with an answer that holds; None where there is none."""
    faster = [variant for variant in point.variants if _is_faster(variant)]
    return max(faster, key=lambda variant: variant.effect.speedup, default=None)


def _is_faster(variant: Variant | None) -> bool:
    return (
        variant is not None and variant.verdict == "faster" and variant.effect is not None and bool(variant.effect.low)
    )


def _ascending(record: Record) -> list[Point]:
    return sorted(record.points, key=lambda point: (point.size is not None, point.size or 0))


# ------------------------------------------------------------------------------------------------ something wins


def _with_winner(record: Record, largest: Point, at: Point) -> Advice:
    best, baseline = winner(at), words.shown(record.asked.baseline, 60)
    do = f"Use {words.shown(best.name, 60)} instead of {baseline}"
    if at is not largest:
        do += f" up to {words.count(at.size, record.asked.unit)}"
    if best.breakeven_calls and best.breakeven_calls > MANY_CALLS:
        do += f", for more than {words.count(math.ceil(best.breakeven_calls), 'calls')}"
    parts = [*_sizes(record, best), _beyond(record, largest, at, best), _answers(best), _memory(record, at, best)]
    parts += [_calls(best), _interrupted(record)]
    told = "; ".join(part for part in parts if part)
    return Advice(do, told[:1].upper() + told[1:], best.name, at.size, _changes(record, largest, best))


def _sizes(record: Record, best: Variant) -> list[str]:
    """Return at which sizes the best was faster, and who is ahead of it where somebody is."""
    points = [point for point in _ascending(record) if point.size is not None]
    if not points:
        return []
    won = [point.size for point in points if _is_faster(words.find(point, best.name))]
    if not won:
        return []
    lost = [point.size for point in points if point.size not in won and point.size < won[-1]]
    others = [(p.size, other) for p in points if p.size <= won[-1] and (other := _leader(p, best))]
    return [_where(record, best, won, lost, bool(others)), _ahead(record, others)]


def _where(record: Record, best: Variant, won: list, lost: list, is_led: bool) -> str:
    unit, baseline = record.asked.unit, words.shown(record.asked.baseline, 60)
    if len(record.points) == 1:
        return f"shown at {words.count(won[0], unit)}, the only size measured"
    if not lost:
        span = f"{words.count(won[0])} to {words.count(won[-1], unit)}" if won[1:] else ""
        is_all = len(won) == len(record.points)
        return f"at every size measured, {span}" if is_all else f"shown at {span}" if span else ""
    if lost[-1] > won[0]:
        least = [words.count(size) for size in won]
        return f"faster at {words.listing(least)} {unit}, not at {words.listing(map(words.count, lost))}"
    found = record.scaling.get(best.name)
    crossed = found is not None and found.overtakes == "between" and found.from_size is not None
    since = words.from_what_size(found, unit) if crossed else words.count(won[0], unit)
    return f"from {since} on" + ("" if is_led else f"; below, stay with {baseline}")


def _ahead(record: Record, others: list[tuple[float, Variant]]) -> str:
    """Return who else is ahead at which sizes: the one at the largest of these."""
    if not others:
        return ""
    other = others[-1][1]
    sizes = [size for size, variant in others if variant.name == other.name]
    at = words.listing([*map(words.count, sizes[:-1]), words.count(sizes[-1], record.asked.unit)])
    told = f", {words.speed(other.effect)}" if not sizes[1:] else ""
    return f"at {at} {words.shown(other.name, 60)} is ahead{told}"


def _leader(point: Point, best: Variant) -> Variant | None:
    """Return who is ahead of the best at one size, beyond both their intervals."""
    other, own = winner(point), words.find(point, best.name)
    if other is None or other.name == best.name:
        return None
    apart = not _is_faster(own) or (other.effect.low or 0) > (own.effect.high or 0)
    return other if apart else None


def _beyond(record: Record, largest: Point, at: Point, best: Variant) -> str:
    """Return what became of the best at larger sizes, where nothing wins."""
    if at is largest:
        return ""
    there = words.find(largest, best.name)
    baseline = words.find(largest, record.asked.baseline)
    who, found = (record.asked.baseline, baseline) if baseline and baseline.state == "failed" else (best.name, there)
    if found is None:
        return ""
    why = f": {words.note(found).rstrip('.')}" if found.verdict in ("failed", "invalid") and words.note(found) else ""
    above = [point.size for point in _ascending(record) if (point.size or 0) > (at.size or 0)]
    first = f"nothing was shown to be faster from {words.count(above[0], record.asked.unit)} on; " if above[1:] else ""
    return f"{first}at {words.count(largest.size, record.asked.unit)} {words.shown(who, 60)} {_became(found)}{why}"


def _became(variant: Variant) -> str:
    told = {"same": "is as fast", "failed": "failed", "unresolved": "can't be told apart", "skipped": "was not run"}
    if variant.verdict == "slower" and variant.effect:
        return f"is {words.speed(variant.effect)}"
    return told.get(variant.verdict, f"is {variant.verdict}")


def _answers(best: Variant) -> str:
    found = best.quality
    if found is None or found.state == "unchecked":
        return "its answers were not checked" if found and found.asked else "its answers were not compared"
    if found.value is not None and found.bound is not None:
        return f"as long as {words.quality(found)} is good enough"
    return f"with {words.quality(found)}" if found.state == "held" else ""


def _memory(record: Record, point: Point, best: Variant) -> str:
    ratio = words.memory_ratio(point, best, record.asked.baseline)
    if ratio is None or ratio < MORE_MEMORY:
        return f"in {words.times(ratio)} the memory" if ratio is not None and ratio <= 1 / MORE_MEMORY else ""
    return f"where there is {words.times(ratio)} the memory, {words.mib(words.memory_mib(best.memory))}"


def _calls(best: Variant) -> str:
    calls = best.breakeven_calls
    return f"its preparation pays for itself {words.break_even(best)}" if calls and 1 < calls <= MANY_CALLS else ""


def _interrupted(record: Record) -> str:
    if record.complete:
        return ""
    measured = {point.size for point in record.points}
    missing = [words.count(size, record.asked.unit) for size in record.asked.sizes if size not in measured]
    return "the run was interrupted" + (f" before {words.listing(missing)}" if any(missing) else "")


# ------------------------------------------------------------------------------------------------ nothing wins


def _without_winner(record: Record, point: Point, won: Point | None = None) -> Advice:
    """Return what to do where nothing wins at the largest size. won: the largest size at which something did."""

    def advise(do: str, condition: str, *more: str) -> Advice:
        told = "; ".join(part for part in (condition, _only(record, won), _interrupted(record)) if part)
        return Advice(do, told, record.asked.baseline, point.size, (*more, *_changes(record, point, None)))

    baseline, at = words.shown(record.asked.baseline, 60), _at(record, point)
    own = words.find(point, record.asked.baseline)
    if own is None or own.state == "failed" or own.warm_s is None:
        why = words.note(own).rstrip(".") if own else ""
        return advise("Nothing can be said yet", f"{baseline} was not measured{at}" + (f": {why}" if why else ""))
    judged = [v for v in point.variants if v.verdict not in ("baseline", "skipped", "correctness only")]
    beginnings = tuple(f"{record.asked.baseline}{said}" for said in ("'s own answers", " fell back", " failed in"))
    unsound = [v.reason for v in judged if v.verdict == "unresolved" and v.reason.startswith(beginnings)]
    if unsound:  # the measuring room says so of each that it can't judge
        return advise("Nothing can be said yet", words.shown(unsound[0]).rstrip("."))
    if not judged:
        return advise("Nothing to choose from", f"{baseline} had nothing to be compared with by speed{at}")
    rounds = max((len(session.order) for session in point.sessions), default=0)
    if rounds < MIN_ROUNDS and any(variant.verdict == "unresolved" for variant in judged):
        few = f"{words.count(rounds, 'rounds')} were taken{at}, and {MIN_ROUNDS} are needed for any verdict"
        return advise("Nothing can be said yet", few)
    condition = f"Nothing was shown to be faster{at}"
    if not any(variant.verdict == "unresolved" for variant in judged):
        condition += f": {', '.join(f'{words.shown(v.name, 60)} {_became(v)}' for v in judged[:4])}"
    return advise(f"Stay with {baseline}", condition)


def _only(record: Record, won: Point | None) -> str:
    """Return what is faster at smaller sizes only."""
    best = winner(won) if won else None
    if best is None or won.size is None:
        return ""
    points = [point for point in _ascending(record) if point.size is not None]
    sizes = [point.size for point in points if _is_faster(words.find(point, best.name))]
    at = words.listing([*map(words.count, sizes[:-1]), words.count(sizes[-1], record.asked.unit)])
    return f"{words.shown(best.name, 60)} is faster at {at} only"


def _at(record: Record, point: Point) -> str:
    return f" at {words.count(point.size, record.asked.unit)}" if point.size is not None else ""


# ------------------------------------------------------------------------------------------------ what could change it


def _changes(record: Record, point: Point, best: Variant | None) -> tuple[str, ...]:
    """Return what could change the recommendation: close runners-up, what is open, what did not run and why."""
    clauses = [_near(point, best), *_open(record, point, best), *_not_run(point), *_spoiled(point)]
    return tuple(clause for clause in clauses if clause)


def _near(point: Point, best: Variant | None) -> str:
    best = words.find(point, best.name) if best else None
    if not _is_faster(best):
        return ""
    reached = [v for v in point.variants if _is_faster(v) and (v.effect.high or 0) >= (best.effect.low or 0)]
    told = words.listing(f"{v.name} ({_ratio(v)})" for v in reached if v is not best)
    return f"Near by: {told}" if told else ""


def _open(record: Record, point: Point, best: Variant | None) -> list[str]:
    """Return the unresolved variants that may yet be better, by why they are unresolved."""
    there = words.find(point, best.name) if best else None
    least = best.effect.speedup if _is_faster(there) else 1
    unresolved = [v for v in point.variants if v.verdict == "unresolved"]
    hopeful = [v for v in unresolved if v.effect is None or v.effect.high is None or v.effect.high > least]
    by_reason: dict[str, list[Variant]] = {}
    for variant in hopeful:
        by_reason.setdefault(_why_open(record, variant), []).append(variant)
    return [f"Open: {words.listing(map(_with_ratio, those))}; {why}" for why, those in by_reason.items()]


def _why_open(record: Record, variant: Variant) -> str:
    reason = words.shown(variant.reason).rstrip(".")
    if reason and "raise seconds=" not in reason:
        return reason
    given = record.asked.parameters.get("seconds")
    seconds = given if isinstance(given, int | float) and not isinstance(given, bool) else record.how.seconds
    return f"more time may tell, seconds= above {seconds:g}"


def _ratio(variant: Variant) -> str:
    return words.with_interval(variant.effect.speedup, variant.effect.low, variant.effect.high)


def _with_ratio(variant: Variant) -> str:
    has = variant.effect is not None and variant.effect.low is not None
    return f"{words.shown(variant.name, 50)} ({_ratio(variant)})" if has else words.shown(variant.name, 60)


def _not_run(point: Point) -> list[str]:
    """Return what was skipped, grouped by the reason, with what to do to have it."""
    return [
        f"{clause}; to have {'them' if ' were not run' in clause else 'it'}: {remedy}" if remedy else clause
        for clause, remedy in words.not_run_and_remedy(point)
    ]


def _spoiled(point: Point) -> list[str]:
    """Return which variants failed or don't count, grouped by the reason."""
    return [
        f"{said}: {'; '.join(_by_reason([v for v in point.variants if v.verdict == verdict]))}"
        for verdict, said in (("failed", "Failed"), ("invalid", "Not to be used"))
        if any(variant.verdict == verdict for variant in point.variants)
    ]


def _by_reason(variants: list[Variant]) -> list[str]:
    grouped: dict[str, list[str]] = {}
    for variant in variants:
        why = words.why_invalid(variant) if variant.verdict == "invalid" else words.shown(variant.reason, 160)
        grouped.setdefault(why.rstrip("."), []).append(variant.name)
    return [words.listing(names) + (f" ({why})" if why else "") for why, names in grouped.items()]
