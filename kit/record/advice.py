"""Says what to do about what a record found: one plain recommendation, its condition, and what could change it.

Pure functions over `document.py`'s types, like `words.py`, whose promises they share.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from kit.record import words
from kit.record.document import Point, Record, Table, Variant

WHAT_TO_DO = "What to do"
"""Title of the table in which a technique answers its own questions; reports set it beside the recommendation."""

FEWEST_ROUNDS = 10
"""Under this number nothing is resolved (see `measure.statistics`)."""
MORE_MEMORY = 1.1
"""From this ratio on the memory that a variant needs is a condition of using it."""


@dataclass(frozen=True)
class Advice:
    """What to do. variant: whose numbers stand for it, the baseline's name where nothing beats it."""

    do: str
    condition: str
    variant: str
    change: tuple[str, ...]
    """What could change it, a clause each: what is open, what was skipped or failed, and what to do to know."""


def answers(told: Mapping[str, str], note: str = "") -> Table:
    """Return a technique's own answers, by question, as the table that reports look for."""
    return Table(WHAT_TO_DO, ["question", "answer"], [[question, answer] for question, answer in told.items()], note)


def of(record: Record) -> Advice:
    """Return the recommendation that one record allows: by its largest size, with what holds at the others."""
    point, baseline = words.largest(record), words.shown(record.asked.baseline, 60)
    if point is None:
        return Advice("Nothing can be said yet", "Nothing was measured", baseline, ())
    best = winner(point)
    if best is not None:
        name = words.shown(best.name, 60)
        do = f"Use {name} instead of {baseline}"
        return Advice(do, _condition(record, point, best), name, _changes(record, point, best))
    return _without_winner(record, point, baseline)


def winner(point: Point) -> Variant | None:
    """Return the fastest variant that was shown to be faster, with an answer that holds; None where there is none."""
    faster = [variant for variant in point.variants if variant.verdict == "faster" and variant.effect]
    return max(faster, key=lambda variant: variant.effect.speedup, default=None)


def _without_winner(record: Record, point: Point, baseline: str) -> Advice:
    judged = [v for v in point.variants if v.verdict not in ("baseline", "skipped", "correctness only")]
    changes = _changes(record, point, None)
    at = _at(record, point)
    if not judged:
        said = "Nothing to choose from" if record.complete else "Nothing can be said yet"
        return Advice(said, f"{baseline} had nothing to be compared with by speed{at}", baseline, changes)
    rounds = max((len(session.order) for session in point.sessions), default=0)
    if rounds < FEWEST_ROUNDS and any(variant.verdict == "unresolved" for variant in judged):
        few = f"{words.count(rounds, 'rounds')} were taken{at}, and {FEWEST_ROUNDS} are needed for any verdict"
        return Advice("Nothing can be said yet", few, baseline, (_longer(record).capitalize(), *changes))
    open_ones = [variant for variant in judged if variant.verdict == "unresolved"]
    condition = f"Nothing was shown to be faster{at}"
    if not open_ones:
        tally = ", ".join(f"{words.shown(v.name, 60)} {_short(v)}" for v in judged[:4])
        condition = f"{condition}: {tally}"
    return Advice(f"Stay with {baseline}", condition, baseline, changes)


def _short(variant: Variant) -> str:
    if variant.verdict == "slower" and variant.effect:
        return f"is {words.speed(variant.effect)}"
    return {"same": "is as fast", "failed": "failed"}.get(variant.verdict, f"is {variant.verdict}")


def _condition(record: Record, point: Point, best: Variant) -> str:
    """Return when the recommendation holds: sizes, answers, memory, preparation."""
    parts = [_sizes(record, point, best), _answers(best), _memory(record, point, best), _calls(best)]
    told = "; ".join(part for part in parts if part)
    return told[:1].upper() + told[1:]


def _at(record: Record, point: Point) -> str:
    return f" at {words.count(point.size, record.asked.unit)}" if point.size is not None else ""


def _sizes(record: Record, point: Point, best: Variant) -> str:
    sizes = sorted({p.size for p in record.points if p.size is not None})
    unit = record.asked.unit
    if len(sizes) < 2:
        return f"shown{_at(record, point)}, the only size measured" if sizes else ""
    found = record.scaling.get(best.name)
    if found and found.overtakes == "always":
        return f"at every size measured, {words.count(sizes[0])} to {words.count(sizes[-1], unit)}"
    other = _elsewhere(record, sizes[0], best)
    if found and found.overtakes == "between":
        return f"from {words.from_what_size(found, unit)} on; below, {other}"
    return f"shown{_at(record, point)}; at {words.count(sizes[0], unit)} {other}"


def _elsewhere(record: Record, size: float, best: Variant) -> str:
    """Return what to do at another size, where `best` is not what was shown to be fastest there."""
    point = next(p for p in record.points if p.size == size)
    other = winner(point)
    if other is None or other.name == best.name:
        return f"stay with {words.shown(record.asked.baseline, 60)}"
    return f"{words.shown(other.name, 60)} is ahead, {words.speed(other.effect)}"


def _answers(best: Variant) -> str:
    found = best.quality
    if found is None or (found.state == "unchecked" and not found.asked):
        return "its answers were not compared"
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
    if calls is None or calls <= 1:
        return ""
    return f"its preparation pays for itself {words.break_even(best)}"


def _changes(record: Record, point: Point, best: Variant | None) -> tuple[str, ...]:
    """Return what could change the recommendation: close runners-up, what is open, what did not run and why."""
    clauses = [_near(point, best)] if best else []
    unresolved = [v for v in point.variants if v.verdict == "unresolved" and v is not best]
    hopeful = [v for v in unresolved if v.effect and (v.effect.high or 0) > (best.effect.speedup if best else 1)]
    if hopeful and not (best is None and not any(v.effect and v.effect.low for v in hopeful)):
        told = words.listing(f"{v.name} ({_ratio(v)})" for v in hopeful[:4])
        clauses.append(f"Open: {told}; {_longer(record)}")
    return tuple(clause for clause in clauses if clause) + _not_run(point) + _spoiled(point)


def _near(point: Point, best: Variant) -> str:
    near = [
        v
        for v in point.variants
        if v.verdict == "faster" and v is not best and v.effect.high and v.effect.high >= (best.effect.low or 0)
    ]
    told = words.listing(f"{v.name} ({_ratio(v)})" for v in near[:4])
    return f"Near by: {told}" if near else ""


def _ratio(variant: Variant) -> str:
    return words.with_interval(variant.effect.speedup, variant.effect.low, variant.effect.high)


def _longer(record: Record) -> str:
    return f"more time may tell, seconds= above {record.how.seconds:g}"


def _not_run(point: Point) -> tuple[str, ...]:
    """Return what was skipped, grouped by the reason, with what to do to have it."""
    remedies: dict[str, str] = {}
    for variant in point.variants:
        if variant.verdict == "skipped":
            remedies.setdefault(words.shown(variant.reason), words.shown(variant.remedy).rstrip("."))
    clauses = words.not_run(point)
    return tuple(
        f"{clause}; to have {'them' if ' were not run' in clause else 'it'}: {remedy}" if remedy else clause
        for clause, remedy in zip(clauses, remedies.values(), strict=False)
    )


def _spoiled(point: Point) -> tuple[str, ...]:
    """Return which variants failed or don't count, with the reason of the first."""
    found = []
    for verdict, said in (("failed", "Failed"), ("invalid", "Not to be used")):
        those = [variant for variant in point.variants if variant.verdict == verdict]
        if those:
            why = words.why_invalid(those[0]) if verdict == "invalid" else words.shown(those[0].reason, 120)
            found.append(f"{said}: {words.listing(v.name for v in those)}" + (f" ({why.rstrip('.')})" if why else ""))
    return tuple(found)
