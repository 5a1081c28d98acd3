"""Pairs what A and B asked alike, and says of every variant at every size what became of it."""

from dataclasses import dataclass
from typing import Literal, get_args

from kit.compare import comparable, judged
from kit.compare.comparable import Ground
from kit.compare.judged import Change, Level
from kit.compare.sides import Held, Side, whole
from kit.record import words
from kit.record.document import Point, Record, Session, Variant
from kit.stored import choose

Verdict = Literal[
    "broke", "failed", "no longer runs", "no longer checked", "slower", "faster", "mended", "runs now", "same",
    "speed-up smaller", "speed-up larger", "same speed-up", "cannot be told", "not comparable",
]  # fmt: skip
ORDER: tuple[Verdict, ...] = get_args(Verdict)
"""Most important first."""
WORSE = ORDER[:5]
ELSEWHERE: dict[str, Verdict] = {"slower": "speed-up smaller", "faster": "speed-up larger", "same": "same speed-up"}
"""What a change of the speed-up is called across machines, where it says nothing of how long anything takes."""

MORE_MEMORY = 1.10
"""Memory is told if it changed by more; it is weighed once a run."""


@dataclass(frozen=True)
class Row:
    """What became of one variant at one size."""

    variant: str
    size: int | float | None
    is_baseline: bool
    verdict: Verdict
    by: Literal["speed-up", "time", ""]
    """What the verdict stands on: the change against the baseline of its own run, or of the time itself."""
    speedup: Change | None
    """Ratio of the two speed-ups: above 1 = faster, held against the baseline of its own run."""
    time: Change | None
    """Ratio of the two times: above 1 = faster. Null where times aren't comparable."""
    seconds: tuple[float | None, float | None]
    notes: tuple[str, ...]
    """Why, and what else changed: a clause each."""
    is_judged: bool
    """Whether it could have been told slower or faster: there is an interval, and it is of one machine."""

    @property
    def change(self) -> Change | None:
        """The change that the verdict stands on."""
        return self.time if self.by == "time" else self.speedup or self.time


@dataclass(frozen=True)
class Pair:
    """One comparison on both sides."""

    notebook: str
    comparison: str
    unit: str
    baseline: str
    title: str
    a: Record
    b: Record
    repeats: tuple[int, int]
    """Runs taken together on each side."""
    ground: Ground
    rows: list[Row]
    gone: list[str]
    """Variants and sizes that only A has, in words."""
    gone_sizes: list[str]
    new: list[str]
    skipped: dict[str, list[str]]
    """Variants that were run on neither side, by the reason."""

    @property
    def sizes(self) -> list:
        """The sizes with rows, the largest first."""
        found = list(dict.fromkeys(row.size for row in self.rows))
        return found if None in found else sorted(found, reverse=True)

    @property
    def worst(self) -> int:
        """Place of its most important verdict in `ORDER`."""
        return min((ORDER.index(row.verdict) for row in self.rows), default=len(ORDER))


@dataclass(frozen=True)
class Paired:
    """What both sides asked, the most important first; names of what only one asked, and of what is one run on both."""

    pairs: list[Pair]
    gone: list[str]
    new: list[str]
    identical: list[str]


def paired(a: Side, b: Side) -> Paired:
    """Return which comparison of A belongs to which of B, and what became of their variants."""
    left, right = a.newest(), b.newest()
    scatters = _scatters([a, b])
    matched = _matched(left, right)
    used = {id(group) for groups in matched for group in groups}
    identical = [mine for mine, theirs in matched if mine[0].record.id == theirs[0].record.id]
    made = [(mine, _pair(mine, theirs, scatters)) for mine, theirs in matched if mine not in identical]
    used -= {id(mine) for mine, pair in made if pair is None}  # its file has gone since, so that it counts as not there
    pairs = sorted(
        (pair for _, pair in made if pair), key=lambda pair: (pair.worst, pair.notebook or "~", pair.comparison)
    )
    return Paired(pairs, _names(left, used), _names(right, used), _names(identical, set()))


def _scatters(sides: list[Side]) -> dict[str, dict[str, float]]:
    machines: dict[str, dict[str, Record]] = {}
    for held in (held for side in sides for held in side.held):
        machines.setdefault(held.record.machine.key, {})[held.record.id] = held.record
    return {key: comparable.scatter(list(records.values())) for key, records in machines.items()}


def _names(groups: list[list[Held]], used: set[int]) -> list[str]:
    names = (" ".join(group[0].question) for group in groups if id(group) not in used)
    return sorted({words.shown(name.strip(), 100) for name in names})


def _matched(left: list[list[Held]], right: list[list[Held]]) -> list[tuple[list[Held], list[Held]]]:
    """Return which group of A belongs to which of B: of one notebook and comparison those that differ least, a machine
    counting more than any parameter."""
    found = []
    for question in dict.fromkeys(group[0].question for group in left):
        mine = [group for group in left if group[0].question == question]
        theirs = [group for group in right if group[0].question == question]
        apart = sorted(
            ((_distance(a[0].record, b[0].record), i, j) for i, a in enumerate(mine) for j, b in enumerate(theirs)),
        )
        taken: set[tuple[str, int]] = set()
        for _, i, j in apart:
            if ("a", i) not in taken and ("b", j) not in taken:
                taken |= {("a", i), ("b", j)}
                found.append((mine[i], theirs[j]))
    return found


def _distance(a: Record, b: Record) -> tuple[bool, int]:
    return a.machine.key != b.machine.key, len(choose.differing([a.asked.parameters, b.asked.parameters]))


def _pair(mine: list[Held], theirs: list[Held], scatters: dict[str, dict[str, float]]) -> Pair | None:
    before, after = whole(mine), whole(theirs)
    if not before or not after:
        return None
    a, b = before[0], after[0]
    on = comparable.ground(a, b, scatters.get(a.machine.key))
    gone_sizes, new_sizes = _only_sizes(a, b, on.units), _only_sizes(b, a, on.units)
    sizes = [point.size for point in b.points if _point(a, point.size) and (point.size is None or not on.units)]
    rows = [row for size in sizes for row in _rows(before, after, size, on)]
    rows.sort(key=lambda row: ORDER.index(row.verdict))
    asked = b.asked
    return Pair(
        notebook=words.shown(asked.notebook, 80),
        comparison=words.shown(asked.comparison, 120),
        unit=asked.unit,
        baseline=words.shown(asked.baseline, 60),
        title=words.shown(asked.title, 120),
        a=a,
        b=b,
        repeats=(len(before), len(after)),
        ground=on,
        rows=rows,
        gone=gone_sizes + _only_variants(a, b),
        gone_sizes=gone_sizes,
        new=new_sizes + _only_variants(b, a),
        skipped=_skipped(a, b),
    )


def _skipped(a: Record, b: Record) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for point in b.points:
        before = _point(a, point.size)
        for variant in point.variants:
            if before and _neither(words.find(before, variant.name), variant):
                found.setdefault(words.shown(variant.reason), {})[words.shown(variant.name, 60)] = None
    return {reason: list(names) for reason, names in found.items()}


def _neither(a: Variant | None, b: Variant) -> bool:
    return a is not None and (a.state, b.state) == ("skipped", "skipped")


def _only_sizes(record: Record, other: Record, units: str) -> list[str]:
    own = [p.size for p in record.points if p.size is not None and (units or not _point(other, p.size))]
    return [words.count(size, record.asked.unit) for size in own]


def _only_variants(record: Record, other: Record) -> list[str]:
    mine, theirs = ({v.name for p in r.points for v in p.variants} for r in (record, other))
    return sorted(words.shown(name, 60) for name in mine - theirs)


def _point(record: Record, size) -> Point | None:
    return next((point for point in record.points if point.size == size), None)


# ------------------------------------------------------------------------------------------------ one size


def _rows(before: list[Record], after: list[Record], size, on: Ground) -> list[Row]:
    a, b = _point(before[0], size), _point(after[0], size)
    both = [(words.find(a, variant.name), variant) for variant in b.variants]
    names = [variant.name for old, variant in both if old and not _neither(old, variant)]
    baseline = after[0].asked.baseline
    moved = "" if on.alone else _baseline_moved(before, after, size, on)
    rows = [_row(before, after, size, name, on, moved, name == baseline and not on.alone) for name in names]
    there = {variant.name for variant in b.variants}
    return rows + [_dropped(v, size) for v in a.variants if v.name not in there and _standing(v) == "good"]


def _dropped(variant: Variant, size) -> Row:
    return Row(
        variant=words.shown(variant.name, 60),
        size=size,
        is_baseline=variant.verdict == "baseline",
        verdict="no longer runs",
        by="",
        speedup=None,
        time=None,
        seconds=(variant.warm_s, None),
        notes=("it is not in the run after",),
        is_judged=False,
    )


def _baseline_moved(before: list[Record], after: list[Record], size, on: Ground) -> str:
    """Return why speed-ups can't stand for the variants: the baseline is another, or was seen to change."""
    if on.baseline:
        return on.baseline
    time = _time(before, after, size, after[0].asked.baseline, on)
    if time is not None and time.verdict in ("faster", "slower"):
        return f"the baseline itself is {in_words(time)}"
    return ""


def _row(before: list[Record], after: list[Record], size, name: str, on: Ground, moved: str, is_baseline: bool) -> Row:
    a, b = (words.find(_point(records[0], size), name) for records in (before, after))
    speedup = None if is_baseline else _speedup(before, after, size, name)
    time = _time(before, after, size, name, on)
    verdict, by, why = _verdict(a, b, speedup, time, on, moved, is_baseline)
    if unfit := comparable.unfit(before[0]) or comparable.unfit(after[0]):
        verdict, by, why = "not comparable", "", unfit
    if by == "speed-up" and not on.same_machine and verdict in ELSEWHERE:
        verdict, why = ELSEWHERE[verdict], "on another machine; which of them takes longer is not told by it"
    notes = [why, *_source(before[0], after[0], name), *_memory(a, b), *_quality(a, b)]
    return Row(
        variant=words.shown(name, 60),
        size=size,
        is_baseline=is_baseline,
        verdict=verdict,
        by=by,
        speedup=speedup,
        time=time,
        seconds=(a.warm_s, b.warm_s),
        notes=tuple(note for note in notes if note),
        is_judged=bool(by) and on.same_machine,
    )


def _verdict(a: Variant, b: Variant, speedup, time, on: Ground, moved: str, is_baseline: bool) -> tuple:
    """Return the verdict, what it stands on, and why."""
    if (state := _state(a, b)) is not None:
        return state[0], "", state[1]
    if is_baseline:
        return (time.verdict, "time", "") if time else (on.untold, "", "" if on.why_not else TOO_FEW)
    if moved:
        if time is None:
            return on.untold, "", "" if on.why_not else TOO_FEW
        return time.verdict, "time", "judged by its time" if on.baseline else f"{moved}, so it is judged by its time"
    if speedup is not None:
        return speedup.verdict, "speed-up", ""
    if time is not None:
        return time.verdict, "time", ""
    return on.untold, "", "" if on.alone and on.why_not else TOO_FEW


TOO_FEW = "fewer than 10 rounds on a side"


def _state(a: Variant, b: Variant) -> tuple[Verdict, str] | None:
    """Return what became of a variant that was not good on one side; None if it was measured and good on both."""
    before, after = _standing(a), _standing(b)
    if (before, after) == ("good", "good"):
        return None
    if after == "invalid":
        why = words.why_invalid(b)
        return ("broke", why) if before != "invalid" else ("not comparable", f"invalid before and after: {why}")
    if after == "failed":
        return ("failed", b.reason) if before != "failed" else ("not comparable", "it failed before and after")
    if after == "good":
        verdict = "mended" if before in ("invalid", "failed") else "runs now" if before == "skipped" else None
        return (verdict or "not comparable", f"before: {before}{': ' + a.reason if a.reason else ''}")
    why = words.note(b) or (words.shown(b.quality.note) if b.quality else "") or after
    if before != "good":
        return "not comparable", why
    return ("no longer checked" if after == "unchecked" else "no longer runs"), why


def _standing(variant: Variant) -> str:
    quality, engagement = variant.quality, variant.engagement
    if variant.state != "measured":
        return variant.state
    broken = (quality and quality.state == "broken") or (engagement and engagement.state == "fell back")
    if broken or variant.verdict == "invalid":
        return "invalid"
    if variant.verdict == "correctness only":
        return "correctness only"
    return "unchecked" if quality and quality.state == "unchecked" and quality.asked else "good"


# ------------------------------------------------------------------------------------------------ levels


def _sessions(records: list[Record], size, name: str) -> list[tuple[Record, Session]]:
    found = []
    for record in records:
        point = _point(record, size)
        variant = words.find(point, name) if point else None
        if variant is None or _standing(variant) != "good":
            continue
        held = [s for s in point.sessions if name in s.readings]
        if variant.session is not None and 0 <= variant.session < len(point.sessions):
            held = [point.sessions[variant.session]]
        found += [(record, held[0])] if held else []
    return found


def _speedup(before: list[Record], after: list[Record], size, name: str) -> Change | None:
    return _changed(*([judged.relative(s, r.asked.baseline, name) for r, s in _sessions(records, size, name)]
                      for records in (before, after)))  # fmt: skip


def _time(before: list[Record], after: list[Record], size, name: str, on: Ground) -> Change | None:
    if on.probes is None:
        return None
    return _changed(*([judged.absolute(s, name) for _, s in _sessions(records, size, name)]
                      for records in (before, after)), on.probes)  # fmt: skip


def _changed(before: list[Level | None], after: list[Level | None], floor: float = 0.0) -> Change | None:
    a, b = ([level for level in levels if level is not None] for levels in (before, after))
    if not a or not b:
        return None
    return judged.change(judged.pooled(a), judged.pooled(b), floor)


# ------------------------------------------------------------------------------------------------ words


def in_words(change: Change) -> str:
    """Return a change in words: `1.3× [1.2, 1.4] slower`; where none is told, the ratio alone: `0.97× [0.9, 1.1]`."""
    return _told(change, "faster", "slower")


def of_row(row: Row) -> str:
    """Return the change that a row's verdict stands on in words, a speed-up on another machine as larger or smaller."""
    if row.change is None:
        return "—"
    return _told(row.change, "larger", "smaller") if row.verdict in ELSEWHERE.values() else in_words(row.change)


def _told(change: Change, more: str, less: str) -> str:
    if change.verdict not in ("faster", "slower"):
        return words.with_interval(change.ratio, change.low, change.high)
    if change.ratio >= 1:
        return f"{words.with_interval(change.ratio, change.low, change.high)} {more}"
    told = change.inverse
    return f"{words.with_interval(told.ratio, told.low, told.high)} {less}"


def _source(a: Record, b: Record, name: str) -> list[str]:
    sources = a.asked.sources.get(name), b.asked.sources.get(name)
    return ["its code changed"] if all(sources) and sources[0] != sources[1] else []


def _memory(a: Variant, b: Variant) -> list[str]:
    before, after = words.memory_mib(a.memory), words.memory_mib(b.memory)
    if not before or not after or before <= 0 or after <= 0 or 1 / MORE_MEMORY < after / before < MORE_MEMORY:
        return []
    return [f"memory {words.mib(before)} → {words.mib(after)} ({words.times(after / before)})"]


def _quality(a: Variant, b: Variant) -> list[str]:
    before, after = a.quality, b.quality
    if not before or not after or before.value is None or after.value is None:
        return []
    told = words.number(before.value, 4), words.number(after.value, 4)
    return [f"{words.shown(after.measure, 40)} {told[0]} → {told[1]}"] if told[0] != told[1] else []
