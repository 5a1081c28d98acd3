"""Pairs the comparisons that A and B have in common, and gives every variant at every size its verdict."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from kit.compare import comparable, verdicts
from kit.compare.comparable import Ground
from kit.compare.run_sets import Side
from kit.compare.verdicts import Change, Level
from kit.record import formatting as fmt
from kit.record.document import Point, Record, Session, Variant
from kit.runs import select

Verdict = Literal[
    "rejected", "failed", "no longer runs", "no longer checked", "slower", "faster", "fixed", "runs now", "equivalent",
    "inconclusive", "not comparable",
]  # fmt: skip
ORDER: tuple[Verdict, ...] = get_args(Verdict)
"""Most important first."""
WORSE = ORDER[:5]
SIGNIFICANT = ("slower", "faster")
MORE_MEMORY = 1.10
"""Memory is listed if it changed by more; it is measured once per run."""
TOO_FEW = "fewer than 10 rounds on one side"


@dataclass(frozen=True)
class Row:
    """The change of one variant at one size."""

    variant: str
    at: str
    """The size: `1,000,000 rows`; empty where there is none."""
    is_baseline: bool
    verdict: Verdict
    change: Change | None = None
    """The change that the verdict is based on, else the one that is known."""
    by: Literal["speed-up", "time", ""] = ""
    """What was tested: the speed-up over the baseline of its own run, or the time; empty: nothing was."""
    seconds: tuple[float | None, float | None] = (None, None)
    notes: tuple[str, ...] = ()
    """Why, and what else changed: a clause each."""

    @property
    def name(self) -> str:
        """`Polars, 1,000,000 rows`."""
        return f"{self.variant}, {self.at}" if self.at else self.variant


@dataclass(frozen=True)
class Pair:
    """One comparison on both sides."""

    name: str
    repeats: tuple[int, int]
    """Runs pooled on each side."""
    ground: Ground
    rows: list[Row]
    nothing: str
    """Why there are no rows; empty if there are some."""
    gone_sizes: list[str]
    """Sizes that only A has."""
    new: list[str]
    """Sizes and variants that only B has."""


def paired(a: Side, b: Side) -> tuple[list[Pair], list[str], list[str]]:
    """Return the comparisons in common with their changes, the most important first, and the names of those of A alone
    and of B alone.

    Of one notebook and comparison those belong together that differ least, a machine counting more than parameters."""
    left, right = a.newest(), b.newest()
    same = [(old, new) for old in left for new in right if select.question(old[0])[:2] == select.question(new[0])[:2]]
    matched: list[tuple[list[Record], list[Record]]] = []
    for old, new in sorted(same, key=lambda groups: _distance(groups[0][0], groups[1][0])):
        if not any(old is before or new is after for before, after in matched):
            matched.append((old, new))
    pairs = [_pair(*groups) for groups in matched]
    pairs.sort(key=lambda pair: (min((ORDER.index(row.verdict) for row in pair.rows), default=len(ORDER)), pair.name))
    used = {id(group) for groups in matched for group in groups}
    gone, new = (sorted({_name(g[0]) for g in groups if id(g) not in used}) for groups in (left, right))
    return pairs, gone, new


def _distance(a: Record, b: Record) -> tuple[bool, int]:
    return a.machine.key != b.machine.key, len(select.differing([a.asked.parameters, b.asked.parameters]))


def _pair(before: list[Record], after: list[Record]) -> Pair:
    a, b = before[0], after[0]
    on, is_same = comparable.ground(a, b), a.id == b.id
    old, new = ({point.size: fmt.count(point.size, one.asked.unit) for point in one.points} for one in (a, b))
    common = [size for size, text in new.items() if old.get(size) == text]
    sizes = [] if is_same else sorted(common, key=lambda size: -(size or 0))
    rows = [row for size in sizes for row in _AtSize(before, after, size, on).rows]
    names_a, names_b = ({v.name for point in one.points for v in point.variants} for one in (a, b))
    why = "the same run on both sides" if is_same else "no size was measured both before and after"
    return Pair(
        name=_name(b),
        repeats=(len(before), len(after)),
        ground=on,
        rows=sorted(rows, key=lambda row: ORDER.index(row.verdict)),
        nothing="" if rows else why,
        gone_sizes=[text for size, text in old.items() if text and size not in common],
        new=[text for size, text in new.items() if text and size not in common] + sorted(names_b - names_a),
    )


def _name(record: Record) -> str:
    return fmt.shown(" · ".join(filter(None, select.question(record)[:2])))


def _point(record: Record, size) -> Point | None:
    return next((point for point in record.points if point.size == size), None)


# ------------------------------------------------------------------------------------------------ one size


@dataclass(frozen=True)
class _AtSize:
    """One size of one comparison on both sides, the newest record of each first."""

    before: list[Record]
    after: list[Record]
    size: int | float | None
    on: Ground

    @property
    def rows(self) -> list[Row]:
        """A row for each variant of both sides, but for those skipped on both, and for each that is gone."""
        a, b = _point(self.before[0], self.size), _point(self.after[0], self.size)
        both = [(old, new) for new in b.variants if (old := fmt.find(a, new.name))]
        rows = [self._compared(old, new) for old, new in both if (old.state, new.state) != ("skipped", "skipped")]
        gone = [old for old in a.variants if not fmt.find(b, old.name) and _standing(old) == "good"]
        left_out = {"verdict": "no longer runs", "notes": ("it is not in the run after",)}
        return rows + [self._row(old, seconds=(old.median_s, None), **left_out) for old in gone]

    def _row(self, variant: Variant, **fields) -> Row:
        name, at = fmt.shown(variant.name, 60), fmt.count(self.size, self.after[0].asked.unit)
        return Row(name, at, self._is_baseline(variant), **fields)

    def _compared(self, a: Variant, b: Variant) -> Row:
        verdict, by, why = self._verdict(a, b)
        change = self.time(b.name) if by == "time" else self.speedup(b.name) or self.time(b.name)
        code = "its code changed" if comparable.other_source(self.before[0], self.after[0], b.name) else ""
        notes = tuple(filter(None, (why, code, _memory(a, b), _check(a, b))))
        return self._row(b, verdict=verdict, change=change, by=by, seconds=(a.median_s, b.median_s), notes=notes)

    def _verdict(self, a: Variant, b: Variant) -> tuple[Verdict, str, str]:
        """Return the verdict, which change it is based on, and why."""
        if state := _state(a, b):
            return state[0], "", state[1]
        moved, time = self.baseline_moved, self.time(b.name)
        speedup = None if moved else self.speedup(b.name)
        if speedup and not self.on.same_machine:
            return "not comparable", "", "another machine: the change of its speed-up is listed, and not tested"
        if speedup:
            return speedup.verdict, "speed-up", ""
        if time:
            return time.verdict, "time", f"{moved}, so its time is tested" if moved and not self._is_baseline(b) else ""
        by_time = moved or self._is_baseline(b)
        return ("not comparable", "", "") if by_time and self.on.why_not else ("inconclusive", "", TOO_FEW)

    @cached_property
    def baseline_moved(self) -> str:
        """Why speed-ups can't be compared: the baseline is another one, or changed significantly."""
        time = self.time(self.after[0].asked.baseline)
        changed = f"the baseline itself changed, {fmt.speed(time)}" if time and time.verdict in SIGNIFICANT else ""
        return self.on.no_speedups or changed

    def _is_baseline(self, variant: Variant) -> bool:
        return variant.name == self.after[0].asked.baseline

    def speedup(self, name: str) -> Change | None:
        """Change of the speed-up over the baseline of the same run; null under ten rounds."""
        return self._change(lambda session, baseline: verdicts.relative(session, baseline, name), name)

    def time(self, name: str) -> Change | None:
        """Change of the time; null where times aren't comparable."""
        if self.on.probes is None:
            return None
        return self._change(lambda session, _: verdicts.absolute(session, name), name, self.on.probes)

    def _change(self, level: Callable[[Session, str], Level | None], name: str, floor: float = 0) -> Change | None:
        """Return the change between the sessions of all records in which the variant was good."""
        sides = []
        for records in (self.before, self.after):
            sessions = [(_session(record, self.size, name), record.asked.baseline) for record in records]
            sides.append([found for one, baseline in sessions if one and (found := level(one, baseline))])
        return verdicts.change(*map(verdicts.pooled, sides), floor) if all(sides) else None


def _session(record: Record, size, name: str) -> Session | None:
    point = _point(record, size)
    variant = fmt.find(point, name) if point else None
    if variant is None or variant.session is None or _standing(variant) != "good":
        return None
    return point.sessions[variant.session] if 0 <= variant.session < len(point.sessions) else None


def _state(a: Variant, b: Variant) -> tuple[Verdict, str] | None:
    """Return the verdict on a variant that was not good on one side; None if it was measured and good on both."""
    before, after = _standing(a), _standing(b)
    if before == after == "good":
        return None
    why = fmt.note(b) or (fmt.shown(b.check.note) if b.check else "") or after
    if after == before:
        return "not comparable", f"{after} before and after: {why}" if after in ("rejected", "failed") else why
    if after in ("rejected", "failed"):
        return after, why
    if after == "good":
        became = {"rejected": "fixed", "failed": "fixed", "skipped": "runs now"}.get(before, "not comparable")
        return became, f"before: {before}{': ' + a.reason if a.reason else ''}"
    if before != "good":
        return "not comparable", why
    return ("no longer checked" if after == "not checked" else "no longer runs"), why


def _standing(variant: Variant) -> str:
    if variant.verdict in ("rejected", "failed", "skipped", "checked, not timed"):
        return variant.verdict
    return "not checked" if variant.check and variant.check.state == "not checked" and variant.check.asked else "good"


# ------------------------------------------------------------------------------------------------ text


def of_row(row: Row) -> str:
    """Return the change that a row's verdict is based on, `—` for none: `takes 1.3× as long (95 % CI 1.2–1.4)`; the
    ratio alone where that is not the verdict."""
    if row.change is None or row.verdict in ("rejected", "failed"):
        return "—"
    if row.verdict in SIGNIFICANT:
        return fmt.speed(row.change)
    return fmt.with_interval(row.change.speedup, row.change.low, row.change.high)


def _memory(a: Variant, b: Variant) -> str:
    before, after = fmt.memory_mib(a.memory), fmt.memory_mib(b.memory)
    if not before or not after or before <= 0 or after <= 0 or 1 / MORE_MEMORY < after / before < MORE_MEMORY:
        return ""
    return f"memory {fmt.mib(before)} → {fmt.mib(after)} ({fmt.amount(after / before)})"


def _check(a: Variant, b: Variant) -> str:
    if not a.check or not b.check or a.check.value is None or b.check.value is None:
        return ""
    before, after = fmt.number(a.check.value, 4), fmt.number(b.check.value, 4)
    return f"{fmt.shown(b.check.metric, 40)} {before} → {after}" if before != after else ""
