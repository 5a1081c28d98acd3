"""Numbers, names and a record's values as text: one wording for notebook, terminal, page and Markdown.

Pure functions. They never raise on what a record may hold, however absurd the number, and whatever they return is safe
to print: one line, no control characters, secrets redacted, cut where it is too long to read.
"""

import math
import re
from collections.abc import Iterable
from html import escape

from kit.record.document import CheckResult, Effect, ExecutionProof, Memory, PeakShare, Point, Record, Variant
from kit.record.redaction import masked

TIMED = ("faster", "slower", "equivalent", "inconclusive")
"""Verdicts that rest on a speed-up."""
LONGEST, LONGEST_CELL = 200, 800
"""Characters that are shown: of a name or a reason, and of a text in a technique's own table."""


def shown(value: object, most: int = LONGEST) -> str:
    """Return `value` as one line of printable text of at most `most` characters.

    Control characters and the marks that reverse the direction of text are left out, and secrets are redacted.
    """
    head = "".join(c for c in str(value)[: 8 * most + 64] if c.isprintable() or c.isspace())
    text = " ".join(masked(head).split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def markdown(text: str, most: int = 400) -> str:
    """Return text as a comment on GitHub shows it: nothing in it becomes markup, a mention or a link."""
    safe = shown(text, most).replace("&", "&amp;").replace("<", "&lt;")
    safe = re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w)|^>|^[#+-](?![\w.]))", r"\\\1", safe)
    safe = re.sub(r"^(\d{1,9})([.)])(?=\s)", r"\1\\\2", safe)
    return safe.replace("@", "&#64;").replace("://", ":&#8203;//").replace("www.", "www&#8203;.")


def markdown_table(heads: Iterable[str], rows: Iterable[Iterable[str]], right: Iterable[bool]) -> str:
    """Return a table of Markdown. heads, rows: plain text; right: whether a column is set to the right."""
    lines = ["| " + " | ".join(markdown(cell, 240) for cell in line) + " |" for line in (heads, *rows)]
    return "\n".join([lines[0], "|" + "".join(" ---: |" if numeric else " --- |" for numeric in right), *lines[1:]])


def folded(summary: str, body: str) -> str:
    """Return Markdown under a line that opens it. summary: plain text; body: Markdown."""
    line = escape(shown(summary)).replace("@", "&#64;")
    return f"<details><summary>{line}</summary>\n\n{body}\n\n</details>"


def number(value: float | None, digits: int = 3) -> str:
    """Return `value` with significant digits and thousands separated: `1,230`, `0.0123`, `—` for nothing."""
    if value is None or not math.isfinite(value):
        return "—"
    if value == 0:
        return "0"
    rounded = f"{value:.{digits - 1}e}"
    if not 1e-4 <= abs(value) < 1e12:
        return rounded
    return f"{float(rounded):,.{max(0, digits - 1 - int(rounded.partition('e')[2]))}f}"


def short(value: float | None) -> str:
    """Return a number for a tick or a sentence: `337k`, `1.5M`, `0.25`."""
    for factor, suffix in ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "B"), (1e12, "T")):
        if value is not None and abs(value) < 999.5 * factor:
            return f"{float(f'{value / factor:.3g}'):g}{suffix}"
    return number(value)


def count(size: int | float | None, unit: str = "") -> str:
    """Return a size with its unit: `1,000,000 rows`, `1 row`; empty for no size."""
    if size is None:
        return ""
    plain = f"{int(size):,}" if abs(size) < 1e15 and size == int(size) else number(size)
    return f"{plain} {shown(_one(unit) if size == 1 else unit, 40)}".strip()


def _one(unit: str) -> str:
    """Return a unit that counts things for a single one: `samples per request` → `sample per request`."""
    things, rest = re.match(r"([^ /]*)(.*)", unit, re.DOTALL).groups()
    if len(things) > 3 and things.endswith("s") and not things.endswith(("ss", "us", "is")):
        things = things[: -2 if things.endswith(("sses", "shes", "ches", "xes", "zzes")) else -1]
    return things + rest


def duration(seconds: float | None) -> str:
    """Return a time in the unit that reads best: `340 µs`, `12.3 ms`, `1.24 s`, `3.2 min`, `1.5 h`."""
    if seconds is None or not math.isfinite(seconds):
        return "—"
    for limit, factor, unit in ((999.5e-9, 1e9, "ns"), (999.5e-6, 1e6, "µs"), (0.9995, 1e3, "ms"), (119.5, 1, "s")):
        if abs(seconds) < limit:
            return f"{number(seconds * factor)} {unit}"
    return f"{number(seconds / 60, 2)} min" if abs(seconds) < 7170 else f"{number(seconds / 3600, 2)} h"


def mib(value: float | None) -> str:
    """Return an amount of memory: `340 MiB`, `1.2 GiB`."""
    if value is None or not math.isfinite(value):
        return "—"
    return f"{number(value / 1024)} GiB" if abs(value) >= 1023.5 else f"{number(value)} MiB"


def percent(share: float | None) -> str:
    """Return a share in per cent: `3 %`, `0.8 %`; near the whole by what is missing: `99.6 %`, `99.97 %`."""
    if share is None or not math.isfinite(share):
        return "—"
    if 0.95 <= share < 1:
        digits = 3 + sum(1 - share < gap for gap in (5e-4, 5e-5))
        return f"{number(100 * share, digits).rstrip('0').rstrip('.')} %"
    return f"{number(100 * share, 2 if abs(share) >= 0.095 or abs(share) < 0.00995 else 1)} %"


def listing(names: Iterable[str], most: int = 8, last: str = "and") -> str:
    """Return names as a sentence lists them: `a, b and c`; beyond `most` the rest is counted."""
    listed = [shown(name, 60) for name in names]
    if len(listed) > most:
        listed = [*listed[: most - 1], f"{len(listed) - most + 1} more"]
    return ", ".join([*listed[:-2], f" {last} ".join(listed[-2:])])


def cell(value: str | float | bool | None) -> str:
    """Return a cell of a technique's own table: `1,200`, `0.975`, `yes`, `—` for nothing."""
    if isinstance(value, bool | str):
        return shown(value, LONGEST_CELL) if isinstance(value, str) else "yes" if value else "no"
    return count(value) if isinstance(value, int) else number(value)


def is_numeric(column: Iterable[str | float | bool | None]) -> bool:
    """Return whether a column holds numbers, and nothing else but gaps: it is then set to the right."""
    kinds = {type(value) for value in column if value is not None}
    return bool(kinds) and kinds <= {int, float}


def times(ratio: float | None) -> str:
    """Return a ratio: `6.1×`, `0.42×`, `13×`, and `1.02×` where two digits would be 1."""
    return "—" if ratio is None or not math.isfinite(ratio) else f"{_ratio(ratio, 0.95 <= ratio < 1.095)}×"


def _ratio(ratio: float, fine: bool) -> str:
    """Return a ratio with two significant digits; fine: three, and two decimals under 10."""
    return f"{ratio:.2f}" if fine and 0.1 <= ratio < 9.995 else number(ratio, 3 if fine and ratio >= 9.995 else 2)


def ratios(effects: Iterable[tuple[float, float | None, float | None]]) -> list[tuple[str, str]]:
    """Return ratios and their intervals with the digits that all need: [(`2.4`, `2.0–2.6`)]; empty without interval.

    They need a third digit near 1, and where the ends would be equal or one of them would be 1."""
    known = [[ratio, *([] if None in (low, high) else [low, high])] for ratio, low, high in effects]
    fine = any(0.95 <= ratio < 1.095 for ratio, *_ in known)
    for _, *ends in known:
        short = [_ratio(end, False) for end in ends]
        fine = fine or "1.0" in short or len(set(short)) < len(short)
    texts = [[_ratio(value, fine) for value in found] for found in known]
    return [(ratio, "–".join(ends)) for ratio, *ends in texts]


def with_interval(ratio: float, low: float | None, high: float | None) -> str:
    """Return a ratio and its interval: `2.4× (95 % CI 2.0–2.6)`."""
    middle, ends = ratios([(ratio, low, high)])[0]
    return f"{middle}× (95 % CI {ends})" if ends else f"{middle}×"


def claimed(variant: Variant) -> Effect | None:
    """Return the speed-up of a variant that is timed and sound: none is a result of what is rejected or failed."""
    return variant.effect if variant.verdict in TIMED else None


def ratio_cell(effect: Effect | None) -> str:
    """Return a speed-up for a column whose head names the interval: `2.4× (2.0–2.6)`."""
    return with_interval(effect.speedup, effect.low, effect.high).replace("95 % CI ", "") if effect else "—"


def speed(effect: Effect | None, than: str = "") -> str:
    """Return an effect in words: `2.4× as fast as pandas (95 % CI 2.0–2.6)`, `takes 1.4× as long (95 % CI 1.3–1.5)`."""
    if effect is None:
        return "not timed"
    other = f" as {shown(than, 60)}" if than else ""
    if effect.speedup >= 1 or not effect.speedup > 0:
        return with_interval(effect.speedup, effect.low, effect.high).replace("×", f"× as fast{other}")
    low, high = (1 / end if end else None for end in (effect.high, effect.low))
    return "takes " + with_interval(1 / effect.speedup, low, high).replace("×", f"× as long{other}")


def amount(ratio: float) -> str:
    """Return how a positive amount differs from another: `60 % less`, `35 % more`, `3.2× as much`."""
    if ratio < 2:
        return f"{percent(abs(ratio - 1))} {'more' if ratio > 1 else 'less'}"
    return f"{times(ratio)} as much"


def largest(record: Record) -> Point | None:
    """Return the point with the largest size, or the last one where sizes are not numbers; None without points."""
    sized = [point for point in record.points if point.size is not None]
    return max(sized or record.points[-1:], key=lambda point: point.size or 0, default=None)


def find(point: Point, name: str) -> Variant | None:
    """Return the variant of that name, or None."""
    return next((variant for variant in point.variants if variant.name == name), None)


def because(reason: str) -> str:
    """Return a reason to follow what it is of, without parentheses in parentheses: ` (no GPU)`, `, 3× (2.9–3.4)`."""
    return f", {reason}" if "(" in reason else f" ({reason})" if reason else ""


def label(variant: Variant) -> str:
    """Return the noun phrase for a variant in a sentence."""
    return shown(variant.label or variant.name, 60)


def noise_floor(point: Point, variant: Variant) -> float | None:
    """Return the noise floor of the session in which the variant took part."""
    known = variant.session is not None and 0 <= variant.session < len(point.sessions)
    return point.sessions[variant.session].noise_floor if known else None


def floor_name(point: Point) -> str:
    """Return what a difference must exceed: `noise floor`, or where rounds differ by seeds `A/A floor over seeds`."""
    return "A/A floor over seeds" if any(one.variance == "seeds" for one in point.sessions) else "noise floor"


def memory_mib(memory: Memory | None) -> float | None:
    """Return the highest resident memory of the process: after setup, and the call's growth on it."""
    return None if memory is None else memory.after_setup_mib + memory.peak_mib


def memory_ratio(point: Point, variant: Variant, baseline: str) -> float | None:
    """Return the variant's highest memory as a multiple of the baseline's."""
    ours, theirs = (memory_mib(one.memory) if one else None for one in (variant, find(point, baseline)))
    return ours / theirs if ours and theirs and ours > 0 and theirs > 0 else None


def check(found: CheckResult | None) -> str:
    """Return a check in a few words: `passed: accuracy 0.981, threshold 0.970`, `failed: 3 rows differ`."""
    if found is None or not found.asked:
        return "—"
    if found.state in ("failed", "not checked") and found.note:
        return f"{found.state}: {shown(found.note)}"
    value = "" if found.value is None else f" {number(found.value)}"
    threshold = "" if found.threshold is None else f", threshold {number(found.threshold)}"
    return f"{found.state}: {shown(found.metric, 60)}{value}{threshold}"


def execution_proof(found: ExecutionProof | None) -> str:
    """Return the proof in a few words: `device NVIDIA H100, fallbacks 0`, `fell back to pandas`, `unverified`."""
    if found is None:
        return "—"
    named = {shown(name, 40).replace("_", " "): cell(value) for name, value in list(found.facts.items())[:12]}
    facts = ", ".join(map(" ".join, named.items()))
    if found.state == "fell back":
        return f"fell back to {shown(found.note) or 'something else'}{because(facts)}"
    return ", ".join(filter(None, (facts, shown(found.note)))) or found.state


_UNITS = {"gib": "GiB/s", "mib": "MiB/s", "gflop": "GFLOP/s", "gop": "GOP/s"}
_PRECISIONS = ("fp32", "bf16", "fp16", "int8")


def peak(name: str, per_second: float | None) -> tuple[str, str]:
    """Return a peak of the machine by name and value: ("memory copy", "8.40 GiB/s"), ("INT8 matrix product", "—")."""
    *words, last = shown(name, 60).removesuffix("_per_s").split("_")
    words, unit = (words, _UNITS[last]) if last in _UNITS else ([*words, last], "/s" * name.endswith("_per_s"))
    words.sort(key=lambda word: word not in _PRECISIONS)
    title = " ".join(word.upper() if word in _PRECISIONS else word for word in words)
    return title, f"{number(per_second)} {unit}".rstrip() if per_second is not None else "—"


def peak_share(found: PeakShare | None) -> str:
    """Return the share of a peak: `41 % of peak memory copy`; `—` below 1 %, where the work is too small to mean
    anything, and at most 100 %: what was reached is then the peak."""
    if found is None or found.share is None or not found.share >= 0.01:
        return "—"
    of_what = "its time" if found.peak == "time_s_per_s" else f"peak {peak(found.peak, None)[0]}"
    return f"{percent(min(found.share, 1.0))} of {of_what}"


def note(variant: Variant) -> str:
    """Return why a variant has its verdict, and the remedy, where there is something to say."""
    reason, proof = shown(variant.reason).rstrip("."), variant.execution_proof
    if variant.verdict == "rejected" and proof and proof.state == "fell back":
        reason = execution_proof(proof)
    elif variant.verdict == "rejected" and variant.check and variant.check.state == "failed":
        reason = check(variant.check).replace("failed: ", "check failed: ")
    remedy = shown(variant.remedy).rstrip(".")
    return f"{reason}; to run it: {remedy}" if reason and remedy else reason


COLUMNS = ("variant", "median", "speed-up (95 % CI)", "memory", "check", "ran on", "verdict")


def cells(record: Record, point: Point, variant: Variant) -> dict[str, str]:
    """Return one variant at one size as text for a table, by the headings of `COLUMNS`."""
    ratio, used = memory_ratio(point, variant, record.asked.baseline), mib(memory_mib(variant.memory))
    ran = [text for text in (execution_proof(variant.execution_proof), peak_share(variant.peak_share)) if text != "—"]
    is_baseline, why = variant.verdict == "baseline" and point.together, note(variant)
    verdict = variant.verdict if point.together else variant.state
    return dict(zip(COLUMNS, (
        shown(variant.name, 60),
        duration(variant.median_s),
        "1×" if is_baseline and variant.median_s is not None else ratio_cell(claimed(variant)),
        used if ratio is None or is_baseline else f"{used} ({times(ratio)})",
        check(variant.check),
        "; ".join(ran) or "—",
        verdict + (f": {why}" if why and variant.verdict not in ("faster", "slower", "equivalent") else ""),
    ), strict=True))  # fmt: skip
