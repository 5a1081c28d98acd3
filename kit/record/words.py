"""Says what a record holds in words: numbers with their units, verdicts as sentences, tables as plain data.

Pure functions over `document.py`'s types. They never raise on what a record may hold, however absurd the number, and
whatever they return is safe to print: one line, no control characters, cut where it is too long to read.
"""

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from kit.record.document import Effect, Engagement, Memory, Point, Quality, Reach, Record, Scaling, Variant
from kit.record.masking import masked

SAME_MEMORY = 1.05
"""Ratios of memory closer to 1 than this are called the same."""

LONGEST = 200
"""Characters of a name or a reason that are shown."""
LONGEST_CELL = 800
"""Of a text in a technique's own table, which may be a whole answer."""

_HIDDEN = re.compile("[\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")


def shown(value: object, most: int = LONGEST) -> str:
    """Return `value` as one line of printable text of at most `most` characters.

    Control characters and the marks that turn the direction of text round are left out, and secrets are masked.
    """
    head = str(value)[: 8 * most + 64]
    spaced = " ".join(masked(_HIDDEN.sub("", head)).split())
    text = "".join(c for c in spaced if not unicodedata.category(c).startswith("C")).strip()
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


# ------------------------------------------------------------------------------------------------ numbers


def number(value: float | None, digits: int = 3) -> str:
    """Return `value` with `digits` significant digits and thousands separated: `1,230`, `0.0123`, `—` for nothing."""
    if value is None or not math.isfinite(value):
        return "—"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e12:
        return f"{value:.{digits - 1}e}"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(0, decimals)}f}"


def count(size: int | float | None, unit: str = "") -> str:
    """Return a size with its unit: `1,000,000 rows`, `1 row`; empty for no size."""
    if size is None:
        return ""
    whole = isinstance(size, int) or (math.isfinite(size) and size == int(size))
    plain = f"{int(size):,}" if whole and abs(size) < 1e15 else number(size)
    return f"{plain} {shown(_one(unit) if size == 1 else unit, 40)}".strip()


def _one(unit: str) -> str:
    """Return a unit that counts things for a single one: `samples a request` → `sample a request`."""
    things, *rest = unit.split(" ")
    if len(things) > 3 and things.endswith("s") and not things.endswith(("ss", "us", "is")):
        things = things[: -2 if things.endswith(("sses", "shes", "ches", "xes", "zzes")) else -1]
    return " ".join([things, *rest])


def duration(seconds: float | None) -> str:
    """Return a time in the unit that reads best: `340 µs`, `12.3 ms`, `1.24 s`, `3.2 min`, `1.5 h`."""
    if seconds is None or not math.isfinite(seconds):
        return "—"
    for limit, factor, unit, digits in (
        (999.5e-9, 1e9, "ns", 3),
        (999.5e-6, 1e6, "µs", 3),
        (0.9995, 1e3, "ms", 3),
        (119.5, 1, "s", 3),
        (7170, 1 / 60, "min", 2),
    ):
        if abs(seconds) < limit:
            return f"{number(seconds * factor, digits)} {unit}"
    return f"{number(seconds / 3600, 2)} h"


def mib(value: float | None) -> str:
    """Return an amount of memory: `340 MiB`, `1.2 GiB`."""
    if value is None or not math.isfinite(value):
        return "—"
    return f"{number(value / 1024, 3)} GiB" if abs(value) >= 1023.5 else f"{number(value)} MiB"


_MONTHS = (
    "January February March April May June July August September October November December".split()
)  # not strftime: its names follow the reader's locale


def day(written: str) -> str:
    """Return the day of a time as a record writes it: `23 November 2026`; the text itself if it is none."""
    found = re.match(r"(\d{4})-(\d{2})-(\d{2})", written)
    if not found or not 1 <= int(found[2]) <= 12:
        return shown(written, 30) or "on an unknown day"
    return f"{int(found[3])} {_MONTHS[int(found[2]) - 1]} {found[1]}"


def percent(share: float | None) -> str:
    """Return a share in percent: `3 %`, `0.8 %`; near the whole to what is missing: `99.6 %`, `99.97 %`."""
    if share is None or not math.isfinite(share):
        return "—"
    if 0.95 <= share < 1:
        digits = 3 + sum(1 - share < gap for gap in (5e-4, 5e-5))
        return f"{number(100 * share, digits).rstrip('0').rstrip('.')} %"
    return f"{number(100 * share, 2 if abs(share) >= 0.095 or abs(share) < 0.00995 else 1)} %"


def plus_minus(share: float | None) -> str:
    """Return a half-width: `±3 %`."""
    return f"±{percent(share)}"


def times(ratio: float | None) -> str:
    """Return a ratio: `6.1×`, `0.42×`, `13×`, and `1.02×` where two digits would say 1."""
    if ratio is None or not math.isfinite(ratio):
        return "—"
    return f"{number(ratio, 3 if 0.995 <= ratio <= 1.1 else 2)}×"


def interval(low: float | None, high: float | None, decimals: int = 2) -> str:
    """Return an interval: `[5.8, 6.4]`; empty if there is none."""
    if low is None or high is None:
        return ""
    ends = (f"{end:,.{decimals}f}" if math.isfinite(end) and abs(end) < 1e9 else number(end) for end in (low, high))
    return f"[{', '.join(ends)}]"


def with_interval(ratio: float, low: float | None, high: float | None) -> str:
    """Return a ratio and its interval with as many decimals as the interval deserves: `6.1× [5.8, 6.4]`."""
    if low is None or high is None or not math.isfinite(ratio):
        return f"{times(ratio)} {interval(low, high)}".strip()
    if not 1e-3 < ratio < 1e6:
        return f"{times(ratio)} [{number(low)}, {number(high)}]"
    decimals = _decimals(ratio, (high - low) / 2)
    return f"{ratio:,.{decimals}f}× {interval(low, high, decimals)}"


def _decimals(ratio: float, half_width: float) -> int:
    """Decimals that show the interval's first digit, within two and three significant digits of the ratio."""
    magnitude = math.floor(math.log10(ratio))
    fewest, most = 1 - magnitude, 2 - magnitude
    wanted = -math.floor(math.log10(half_width) + 0.05) if 0 < half_width < math.inf else most
    return max(0, min(max(wanted, fewest), most))


def listing(names: Iterable[str], most: int = 8) -> str:
    """Return names as a person lists them: `a, b and c`; beyond `most` the rest is counted."""
    shown_names = [shown(name, 60) for name in names]
    if len(shown_names) > most:
        shown_names = [*shown_names[: most - 1], f"{len(shown_names) - most + 1} more"]
    return " and ".join([", ".join(shown_names[:-1]), shown_names[-1]] if len(shown_names) > 1 else shown_names)


# ------------------------------------------------------------------------------------------------ ceilings


_PER_SECOND = {
    "_gib_per_s": "GiB/s",
    "_mib_per_s": "MiB/s",
    "_gflop_per_s": "GFLOP/s",
    "_tflop_per_s": "TFLOP/s",
    "_gop_per_s": "GOP/s",
    "_per_s": "/s",
    "_us": "µs",
    "_ms": "ms",
    "_s": "s",
}
"""How a ceiling's name ends, and the unit that this means; the first that fits."""

_PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8")

_PREFIXES = {"B": (" KMGT", "iB", 1024), "FLOP": (" kMGTP", "FLOP", 1000), "OP": (" kMGTP", "OP", 1000)}
"""What a prefix before a unit may be, what stands after it, and the step between two."""

_ABOVE = {
    "memory_copy": ("from caches", "from the processor's caches, or read without being written as a copy is"),
    "disk_read": ("from caches", "from the page cache"),
    "disk_write": ("from caches", "into the page cache"),
}
"""Why more than the whole of a ceiling may have been reached: in a cell, and in a sentence."""


_ITS_TIME = "time_s_per_s"
"""The ceiling of work whose own seconds are known: a second holds one."""


def ceiling_name(name: str) -> tuple[str, str]:
    """Return a ceiling's name for people and its unit: `memory_copy_gib_per_s` is ("memory copy", "GiB/s")."""
    if name == _ITS_TIME:
        return "its time", "s/s"
    plain = shown(name, 60)
    ending = next((ending for ending in _PER_SECOND if plain.endswith(ending)), "")
    words = plain.removesuffix(ending).split("_")
    precise = [word.upper() for word in words if word in _PRECISIONS]
    return " ".join(precise + [word for word in words if word not in _PRECISIONS]), _PER_SECOND.get(ending, "")


def ceiling(name: str, per_second: float | None) -> tuple[str, str]:
    """Return a ceiling of the machine by name and value: ("memory copy", "8.40 GiB/s")."""
    label, unit = ceiling_name(name)
    return label, f"{number(per_second)} {unit}" if per_second is not None else "—"


def reach(found: Reach | None) -> str:
    """Return a share of a ceiling for a cell: `41 % of memory copy`, `97 % of its time in trials`; `—` where none is
    known."""
    if found is None or found.share is None:
        return "—"
    label, _ = ceiling_name(found.ceiling)
    if found.ceiling == _ITS_TIME and (work := re.split("[,;]", shown(found.note))[0]):
        label += f" in {work}"
    why = _above(found)
    share = "under 0.1 %" if 0 < found.share < 0.001 else percent(found.share)
    return f"{share} of {label}" + (f": {why[0]}" if why and why[0] else "")


def reach_arithmetic(variant: Variant) -> str:
    """Return how that share came about: `1.20 GiB in 350 ms = 3.43 GiB/s of 8.40 GiB/s (memory copy, measured in the
    same session); counted: columns read once`; empty where there is no share."""
    found, seconds = variant.reach, variant.warm_s
    if found is None or not found.share or not seconds:
        return ""
    why = _above(found)
    counted = f"counted: {shown(found.note)}" if shown(found.note) else ""
    return "; ".join(filter(None, [_rates(found, seconds), counted, f"above 100 %: {why[1]}" if why else ""]))


def _rates(found: Reach, seconds: float) -> str:
    if found.ceiling == _ITS_TIME:
        return f"{duration(found.amount)} of {duration(seconds)}"
    label, unit = ceiling_name(found.ceiling)
    work, rate = unit.removesuffix("/s"), found.amount / seconds
    told = f"{_work(found.amount, work)} in {duration(seconds)} = {_work(rate, work)}/s"
    return f"{told} of {_work(rate / found.share, work)}/s ({label}, measured in the same session)"


def _above(found: Reach) -> tuple[str, str] | None:
    if found.share is None or not found.share > 1.005:
        return None
    kind = next((kind for kind in _ABOVE if found.ceiling.startswith(kind)), None)
    return _ABOVE[kind] if kind else ("", "the ceiling is what one library reached at another moment")


def _work(value: float, unit: str) -> str:
    """Return an amount of work with the prefix that reads best: 0.0012 GiB is `1.23 MiB`."""
    kind = next((kind for kind in ("FLOP", "OP", "B") if unit.endswith(kind)), None)
    if kind is None or not 0 < value < 1e30:
        return _whole(value, unit)
    prefixes, rest, step = _PREFIXES[kind]
    value *= step ** (prefixes.find(unit[0]) if unit != kind else 0)
    power = max(0, min(len(prefixes) - 1, int(math.log(value * 1.0005, step))))
    return f"{number(value / step**power)} {prefixes[power] + rest}" if power else _whole(value, kind)


def _whole(value: float, unit: str) -> str:
    return f"{int(value):,} {unit}".strip() if value == value // 1 < 1e6 else f"{number(value)} {unit}".strip()


# ------------------------------------------------------------------------------------------------ parts of a record


def largest(record: Record) -> Point | None:
    """Return the point with the largest size, or the last one where sizes are not numbers; None without points."""
    sized = [point for point in record.points if point.size is not None]
    if sized:
        return max(sized, key=lambda point: point.size)
    return record.points[-1] if record.points else None


def find(point: Point, name: str) -> Variant | None:
    """Return the variant of that name at this point, or None."""
    return next((variant for variant in point.variants if variant.name == name), None)


def noise_floor(point: Point, variant: Variant) -> float | None:
    """Return the noise floor of the session in which the variant took part."""
    if variant.session is None or not 0 <= variant.session < len(point.sessions):
        return None
    return point.sessions[variant.session].noise_floor


def memory_mib(memory: Memory | None) -> float | None:
    """Return the highest resident memory of the process: what stood after preparation and the call's growth on it."""
    if memory is None:
        return None
    return memory.standing_mib + memory.peak_mib


def memory_ratio(point: Point, variant: Variant, baseline: str) -> float | None:
    """Return the variant's highest memory as a multiple of the baseline's."""
    reference = find(point, baseline)
    ours = memory_mib(variant.memory)
    theirs = memory_mib(reference.memory) if reference else None
    return ours / theirs if ours and theirs and ours > 0 and theirs > 0 else None


# ------------------------------------------------------------------------------------------------ verdicts


def speed(effect: Effect) -> str:
    """Return an effect in words: `6.1× [5.8, 6.4] faster` or `1.4× [1.3, 1.5] slower`."""
    if effect.speedup >= 1 or not effect.speedup > 0:
        return f"{with_interval(effect.speedup, effect.low, effect.high)} faster"
    low, high = (1 / end if end else None for end in (effect.high, effect.low))
    return f"{with_interval(1 / effect.speedup, low, high)} slower"


def sentence(record: Record, point: Point, variant: Variant, with_size: bool = True) -> str:
    """Return the verdict on one variant at one size as a clause without a full stop.

    `Polars is 6.1× [5.8, 6.4] faster than pandas at 1,000,000 rows and uses 0.4× the memory`
    """
    name, baseline = shown(variant.name, 60), shown(record.asked.baseline, 60)
    at = f" at {count(point.size, record.asked.unit)}" if with_size and point.size is not None else ""
    match variant.verdict:
        case "baseline":
            timed = f": {duration(variant.warm_s)}" if variant.warm_s is not None else ""
            return f"{name} is the baseline{timed}{at}{_because(variant.reason)}"
        case "skipped":
            return f"{name} was not run{_because(variant.reason)}"
        case "correctness only":
            how = "answers correctly" if variant.quality and variant.quality.state == "held" else "ran"
            return f"{name} {how}{at}, and no speed is claimed of it{_because(variant.reason)}"
        case "failed":
            return f"{name} failed{at}{_because(variant.reason)}"
        case "invalid":
            return f"{name} is invalid{at}{_because(why_invalid(variant))}"
    if variant.effect is None:
        return f"{name} can't be told apart from {baseline}{at}{_because(variant.reason)}"
    if variant.verdict in ("faster", "slower"):
        return f"{name} is {speed(variant.effect)} than {baseline}{at}{_memory_clause(record, point, variant)}"
    how = f"is as fast as {baseline}" if variant.verdict == "same" else f"can't be told apart from {baseline}"
    return f"{name} {how}{at}: {_evidence(point, variant)}"


def _because(reason: str) -> str:
    return f": {shown(reason).rstrip('.')}" if shown(reason) else ""


def _memory_clause(record: Record, point: Point, variant: Variant) -> str:
    ratio = memory_ratio(point, variant, record.asked.baseline)
    if ratio is None:
        return ""
    if 1 / SAME_MEMORY < ratio < SAME_MEMORY:
        return " and uses the same memory"
    return f" and uses {times(ratio) if 0.9 < ratio < 1.1 else _coarse(ratio)} the memory"


def _coarse(ratio: float) -> str:
    return f"{number(ratio, 1 if ratio < 1 else 2)}×"


def _evidence(point: Point, variant: Variant) -> str:
    effect, floor = variant.effect, noise_floor(point, variant)
    parts = [with_interval(effect.speedup, effect.low, effect.high)]
    if effect.low is None:
        parts.append(f"{effect.rounds} {'round is' if effect.rounds == 1 else 'rounds are'} too few for an interval")
    if floor is not None:
        parts.append(f"the noise floor is {percent(floor)}")
    if variant.verdict == "unresolved" and shown(variant.reason):
        parts.append(shown(variant.reason).rstrip("."))
    return ", ".join(parts)


def why_invalid(variant: Variant) -> str:
    """Return why a variant's speed does not count: what it fell back to, or how its answer is wrong."""
    if variant.engagement and variant.engagement.state == "fell back":
        return f"it fell back to {shown(variant.engagement.note) or 'something else'}"
    if variant.quality and variant.quality.state == "broken":
        return f"its answer differs: {shown(variant.quality.note) or quality(variant.quality)}"
    return shown(variant.reason)


def at_point(record: Record, point: Point) -> str:
    """Return the verdicts at one size as one sentence, the variants that were not run grouped by their reason."""
    told = [variant for variant in point.variants if variant.verdict not in ("baseline", "skipped")]
    clauses = [sentence(record, point, variant, with_size=variant is told[0]) for variant in told] + not_run(point)
    return f"{'; '.join(clauses)}." if clauses else "Nothing but the baseline was asked for."


def not_run(point: Point) -> list[str]:
    """Return one clause a reason: `cuDF and Dask-cuDF were not run: no NVIDIA driver`."""
    return [clause for clause, _ in not_run_and_remedy(point)]


def not_run_and_remedy(point: Point) -> list[tuple[str, str]]:
    """Return the same with what to do to have them run, empty where nothing is known to help."""
    by_reason: dict[str, list[Variant]] = {}
    for variant in point.variants:
        if variant.verdict == "skipped":
            by_reason.setdefault(_because(variant.reason), []).append(variant)
    return [
        (
            f"{listing(variant.name for variant in those)} {'were' if len(those) > 1 else 'was'} not run{reason}",
            next((shown(v.remedy).rstrip(".") for v in those if shown(v.remedy)), ""),
        )
        for reason, those in by_reason.items()
    ]


def overtaking(scaling: Scaling | None, baseline: str, unit: str = "") -> str:
    """Return from what size on a variant beats the baseline, to follow its name; empty where it is not known."""
    baseline = shown(baseline, 60)
    match scaling.overtakes if scaling else None:
        case "always":
            return "is faster at every size measured"
        case "never":
            return f"does not overtake {baseline} within the sizes measured"
        case "between":
            return f"overtakes {baseline} from about {_from_size(scaling, unit)}"
        case "unresolved":
            return f"may overtake {baseline}, but from what size on can't be told"
    return ""


def _from_size(scaling: Scaling, unit: str) -> str:
    low, high = scaling.from_low, scaling.from_high
    between = f" [{_about(low)}, {_about(high)}]" if low is not None and high is not None else ""
    return f"{_about(scaling.from_size)} {shown(unit, 40)}".strip() + between


def _about(size: float | None) -> str:
    return number(size, 2) if size is not None and size >= 1 else number(size, 1)


def from_what_size(scaling: Scaling | None, unit: str = "") -> str:
    """Return the same for the cell of a table: `from about 40,000 rows [30,000, 55,000]`, `every size`, …"""
    match scaling.overtakes if scaling else None:
        case "always":
            return "every size measured"
        case "never":
            return "none measured"
        case "between":
            return f"about {_from_size(scaling, unit)}"
        case "unresolved":
            return "can't be told"
    return "—"


def sentences(record: Record) -> list[str]:
    """Return what a record says over all its sizes, a sentence a variant: at the largest size, and from what size on;
    then a sentence for each reason why variants were not run."""
    point = largest(record)
    if point is None:
        return ["Nothing was measured."]
    told = [_over_sizes(record, point, v) for v in point.variants if v.verdict not in ("baseline", "skipped")]
    return [f"{text}." for text in told + not_run(point)] or ["Nothing but the baseline was asked for."]


def summary(record: Record) -> str:
    """Return the sentences of a record as one paragraph."""
    return " ".join(sentences(record))


def _over_sizes(record: Record, point: Point, variant: Variant) -> str:
    clause = sentence(record, point, variant)
    if variant.verdict in ("failed", "invalid", "correctness only") or len(record.points) < 2:
        return clause
    more = overtaking(record.scaling.get(variant.name), record.asked.baseline, record.asked.unit)
    return f"{clause}; it {more}" if more else clause


def headline(record: Record) -> str:
    """Return the one sentence that matters most: the fastest valid variant at the largest size, or that none is."""
    point = largest(record)
    if point is None:
        return "Nothing was measured."
    winners = [v for v in point.variants if v.verdict == "faster" and v.effect]
    if winners:
        return f"{_over_sizes(record, point, max(winners, key=lambda v: v.effect.speedup))}."
    at = f" at {count(point.size, record.asked.unit)}" if point.size is not None else ""
    judged = [v for v in point.variants if v.verdict not in ("baseline", "skipped")]
    if not judged and not record.complete:
        return f"It was interrupted before anything could be compared{at}."
    if not judged:
        return f"{shown(record.asked.baseline, 60)} had nothing to be compared with{at}."
    if all(v.verdict == "correctness only" for v in judged):
        names = listing(variant.name for variant in judged)
        return f"{names} ran{at} for correctness only{_because(judged[0].reason)}."
    counts = {verdict: sum(v.verdict == verdict for v in judged) for verdict in (v.verdict for v in judged)}
    tally = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
    return f"Nothing was shown to beat {shown(record.asked.baseline, 60)}{at}: {tally}."


# ------------------------------------------------------------------------------------------------ tables


def quality(found: Quality | None) -> str:
    """Return a quality in a few words: `equal tables`, `accuracy 0.981 (bound 0.97)`, `broken: 3 rows differ`."""
    if found is None:
        return "—"
    measured = shown(found.measure, 60)
    if found.value is not None:
        measured += f" {number(found.value)}"
    if found.bound is not None:
        measured += f" (bound {found.bound:g})"
    note = shown(found.note)
    match found.state:
        case "reference":
            return "reference" if found.value is None else f"reference: {measured}"
        case "held":
            return measured
        case "broken":
            return f"broken: {note or measured}"
    return ("not checked" if found.asked else "not asked for") + (f": {note}" if note else "")


def engagement(found: Engagement | None) -> str:
    """Return the proof in a few words: `device NVIDIA H100, fallbacks 0`, `fell back to pandas`, `not stated`."""
    if found is None:
        return "—"
    facts = ", ".join(f"{shown(name, 40)} {_fact(value)}" for name, value in list(found.facts.items())[:12])
    note = shown(found.note)
    match found.state:
        case "engaged":
            return ", ".join(part for part in (facts, note) if part) or "engaged"
        case "fell back":
            return f"fell back to {note or 'something else'}" + (f" ({facts})" if facts else "")
    return "not stated"


def _fact(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return count(value)
    return "unknown" if value is None else shown(value, 80)


def cell(value: str | float | bool | None) -> str:
    """Return what stands in a technique's own table as text: `1,200`, `0.975`, `yes`, `—` for nothing."""
    if isinstance(value, str):
        return shown(value, LONGEST_CELL)
    return number(value) if isinstance(value, float) else "—" if value is None else _fact(value)


def is_numeric(column: Iterable[str | float | bool | None]) -> bool:
    """Return whether a column holds numbers, and nothing else but gaps: it is then set to the right."""
    kinds = {type(value) for value in column if value is not None}
    return bool(kinds) and kinds <= {int, float}


def break_even(variant: Variant) -> str:
    """Return after how many calls the extra preparation has paid for itself."""
    if variant.effect is None or variant.verdict in ("invalid", "failed", "skipped"):
        return "—"
    if variant.breakeven_calls is None:
        return "never"
    calls = variant.breakeven_calls
    if calls <= 0:
        return "at once"
    whole = math.ceil(calls) if math.isfinite(calls) else calls
    return f"after {count(whole, 'call' if whole == 1 else 'calls')}"


@dataclass(frozen=True)
class Row:
    """One variant at one size, as text for any table. `note` is why, where the verdict alone does not say it."""

    variant: str
    median: str
    speedup: str
    memory: str
    quality: str
    engagement: str
    verdict: str
    note: str
    prepare: str
    cold: str
    breakeven: str
    reach: str = "—"
    arithmetic: str = ""
    """How the share of the ceiling in `reach` came about."""


COLUMNS = {
    "variant": "variant",
    "median": "median",
    "speedup": "speed-up [interval]",
    "memory": "memory",
    "quality": "quality",
    "engagement": "engagement",
    "verdict": "verdict",
}
"""The columns of the compact table, as attribute of `Row` and heading."""


def cells(row: Row) -> list[str]:
    """Return a row's cells in the order of `COLUMNS`. Why there is no speed stands beside the verdict; where nothing
    ran, why stands in the place of the proof that it ran; the share of a ceiling stands behind that proof."""
    told = {name: getattr(row, name) for name in COLUMNS}
    if row.note and row.verdict in ("correctness only", "baseline", "unresolved") and row.speedup == "—":
        told["verdict"] += f": {row.note}"
    elif row.engagement == "—":
        told["engagement"] = row.note
    elif row.reach != "—":
        told["engagement"] += f"; {row.reach}"
    return list(told.values())


def rows(record: Record, point: Point) -> list[Row]:
    """Return the table of one size, a row a variant, in the order in which they were declared."""
    return [row(record, point, variant) for variant in point.variants]


def row(record: Record, point: Point, variant: Variant) -> Row:
    """Return one variant at one size as text."""
    timed = variant.verdict != "correctness only"  # its first call and preparation stay in the record
    return Row(
        variant=shown(variant.name, 60),
        median=duration(variant.warm_s),
        speedup=_speedup_cell(variant),
        memory=_memory_cell(record, point, variant),
        quality=quality(variant.quality),
        engagement=engagement(variant.engagement),
        verdict=variant.verdict,
        note=note(variant),
        prepare=duration(variant.prepare_s if timed else None),
        cold=duration(variant.cold_s if timed else None),
        breakeven=break_even(variant),
        reach=reach(variant.reach),
        arithmetic=reach_arithmetic(variant),
    )


def _speedup_cell(variant: Variant) -> str:
    if variant.verdict == "baseline":
        return "1×" if variant.warm_s is not None else "—"
    if variant.effect is None:
        return "—"
    return with_interval(variant.effect.speedup, variant.effect.low, variant.effect.high)


def _memory_cell(record: Record, point: Point, variant: Variant) -> str:
    total = mib(memory_mib(variant.memory))
    ratio = memory_ratio(point, variant, record.asked.baseline)
    return total if variant.verdict == "baseline" or ratio is None else f"{total} ({times(ratio)})"


def note(variant: Variant) -> str:
    """Return why a variant has its verdict, and what to do about it, where there is something to say."""
    reason = why_invalid(variant) if variant.verdict == "invalid" else shown(variant.reason)
    remedy = shown(variant.remedy)
    if variant.verdict in ("faster", "slower", "same", "baseline") and not reason:
        return ""
    return "; ".join(part.rstrip(".") for part in (reason, f"to have it: {remedy}" if remedy else "") if part)
