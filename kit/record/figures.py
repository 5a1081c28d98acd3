"""Draws records in one style: baseline grey, one colour a variant, intervals drawn, direction in the title.

Every function returns a matplotlib `Figure` of its own (no global state, no backend), which draws the same in a
notebook, a script and the report. Only what was measured is drawn as measured: skipped and failed variants are named
with their reason where there is a row for them, and invalid ones are hollow and say so.
"""

import math
import re
from collections.abc import Iterable
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from kit.record import words
from kit.record.document import Point, Readings, Record, Variant
from kit.record.style import (
    BAND,
    BASELINE,
    INK,
    LONGEST_LABEL,
    MARKERS,
    MUTED,
    PALETTE,
    PAPER,
    WIDTH,
    applied,
    canvas,
    fixed_ticks,
    name_rows,
    ratio_span,
    room,
    short_count,
    spread,
    steps,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MOST_DRAWN = 12
"""Variants in one figure; the rest are counted in a note and stand in the tables."""

HOLLOW = ("same", "unresolved")


# ------------------------------------------------------------------------------------------------ colours


def looks(*records: Record) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each variant by name, the measured ones first, in order of declaration.

    Every baseline is grey. Give it all records of one page to have a variant look the same in each of its figures.
    """
    baselines = {record.asked.baseline for record in records}
    variants = [variant for record in records for point in record.points for variant in point.variants]
    measured_first = sorted(variants, key=lambda variant: variant.state != "measured")
    others = [name for name in dict.fromkeys(variant.name for variant in measured_first) if name not in baselines]
    found = {name: (BASELINE, "o") for name in [*baselines, "A/A"]}
    for place, name in enumerate(others):
        turn = place // len(PALETTE)
        found[name] = (PALETTE[place % len(PALETTE)], MARKERS[(place + turn) % len(MARKERS)])
    return found


# ------------------------------------------------------------------------------------------------ the figures


def scaling_curve(record: Record, look: dict | None = None) -> "Figure":
    """Return time over size, both axes logarithmic, with the 95 % interval of each median."""
    look = look or looks(record)
    curves = _curves(record)
    unit = words.shown(record.asked.unit, 40)
    with applied():
        longest = max((len(_end_label(name, True)) for name, *_ in curves[:MOST_DRAWN]), default=0)
        figure, axes = canvas(3.9, left=0.9, right=min(0.5 + 0.09 * longest, 2.8), bottom=0.56)
        ends = [
            _draw_curve(axes, name, sizes, found, look, name == record.asked.baseline)
            for name, sizes, found in curves[:MOST_DRAWN]
        ]
        _time_axis(axes, [t for _, _, found in curves[:MOST_DRAWN] for spot in found for t in spot[:3]])
        _size_axis(axes, {size for _, sizes, _ in curves for size in sizes}, unit or "size")
        _label_ends(axes, ends)
        _title(figure, "Time of one call, lower is better", "bars: 95 % interval of the median", len(curves))
        figure.set_label(f"Time of one call over {unit or 'size'}. {words.summary(record)}")
    return figure


def speedups(record: Record, point: Point, look: dict | None = None) -> "Figure":
    """Return each variant's speed-up with its interval against the baseline at 1×, and the noise floor as a band."""
    look = look or looks(record)
    others = [variant for variant in point.variants if variant.name != record.asked.baseline]
    drawn = others[:MOST_DRAWN]
    with applied():
        figure, axes = canvas(_height(drawn), room([variant.name for variant in drawn]), right=2.45)
        _band_and_line(axes, point)
        edges = [edge for row, variant in enumerate(drawn) for edge in _draw_effect(axes, row, variant, look)]
        name_rows(axes, [variant.name for variant in drawn])
        _ratio_axis(axes, [1.0, *edges])
        for row, variant in enumerate(drawn):
            _tell(axes, row, variant)
        marks = "bars: interval · band: noise floor"
        marks += " · hollow: not shown to differ" if any(v.verdict in HOLLOW and v.effect for v in drawn) else ""
        title = f"Speed-up over {words.shown(record.asked.baseline, 24)}, higher is better"
        _title(figure, title, f"{_at(record, point)}{marks}", len(others))
        figure.set_label(words.at_point(record, point))
    return figure


def memory(record: Record, point: Point | None = None, look: dict | None = None) -> "Figure":
    """Return the highest memory of each variant at one size (the largest, unless given): standing and call."""
    point = point or words.largest(record)
    look = look or looks(record)
    valid = [variant for variant in (point.variants if point else []) if variant.verdict != "invalid"]
    measured = [variant for variant in valid if _positive([words.memory_mib(variant.memory)])]
    drawn = measured[:MOST_DRAWN]
    with applied():
        figure, axes = canvas(_height(drawn), room([variant.name for variant in drawn]))
        for row, variant in enumerate(drawn):
            _draw_memory(axes, row, variant, look[variant.name][0])
        name_rows(axes, [variant.name for variant in drawn])
        _memory_axis(axes, max((words.memory_mib(variant.memory) for variant in drawn), default=1))
        marks = f"{_at(record, point) if point else ''}pale: after preparation · full: added by the call"
        _title(figure, "Memory, lower is better", marks, len(measured))
        listed = "; ".join(f"{words.shown(v.name, 60)} {words.mib(words.memory_mib(v.memory))}" for v in drawn)
        figure.set_label(f"Highest memory: {listed}.")
    return figure


def readings(record: Record, point: Point, look: dict | None = None) -> "Figure":
    """Return every round's ratio to the baseline as a dot, the baseline against itself first: nothing is dropped."""
    look = look or looks(record)
    found = _ratios(point, record.asked.baseline)
    drawn = found[: MOST_DRAWN + 1]
    invalid = {variant.name for variant in point.variants if variant.verdict == "invalid"}
    with applied():
        figure, axes = canvas(_height(drawn), room(_row_labels([name for name, _ in drawn], invalid)))
        _band_and_line(axes, point)
        for row, (name, ratios) in enumerate(drawn):
            _draw_strip(axes, row, ratios, look.get(name, (BASELINE, "o"))[0], name in invalid)
        name_rows(axes, _row_labels([name for name, _ in drawn], invalid))
        _ratio_axis(axes, [1.0, *(ratio for _, ratios in drawn for ratio in ratios)])
        title = "Speed-up in every round, higher is better"
        marks = "a dot a round · line: median · band: noise floor"
        _title(figure, title, f"{_at(record, point)}{marks}", len(found) - 1)
        figure.set_label(
            "Ratios of all rounds: " + "; ".join(f"{words.shown(n, 60)} {len(r)} rounds" for n, r in drawn)
        )
    return figure


# ------------------------------------------------------------------------------------------------ numbers to draw


def median_interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median by order statistics (normal approximation of the sign test's ranks);
    the whole range under six values."""
    ordered = sorted(values)
    k = math.floor(len(ordered) / 2 - 1.96 * math.sqrt(len(ordered)) / 2)
    return (ordered[k], ordered[-1 - k]) if k >= 0 and len(ordered) >= 6 else (ordered[0], ordered[-1])


def _positive(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and 0 < value < 1e300]


def _readings(point: Point, variant: Variant) -> Readings | None:
    if variant.session is None or not 0 <= variant.session < len(point.sessions):
        return None
    return point.sessions[variant.session].readings.get(variant.name)


def _curves(record: Record) -> list[tuple[str, list[float], list[tuple[float, float, float, bool]]]]:
    """Return for each variant its name, sizes, and at each size median, low, high, and whether it is valid."""
    curves: dict[str, dict[float, tuple[float, float, float, bool]]] = {}
    for point in record.points:
        if point.size is None or not 0 < point.size < 1e300:
            continue
        for variant in point.variants:
            taken = _readings(point, variant)
            seconds = _positive(taken.wall_s if taken else [])
            if seconds:
                spot = (median(seconds), *median_interval(seconds), variant.verdict != "invalid")
                curves.setdefault(variant.name, {})[point.size] = spot
    return [(name, sorted(spots), [spots[size] for size in sorted(spots)]) for name, spots in curves.items()]


def _ratios(point: Point, baseline: str) -> list[tuple[str, list[float]]]:
    """Return the per-round ratios of every variant, A/A first."""
    found: dict[str, list[float]] = {}
    for session in point.sessions:
        reference = session.readings.get(baseline)
        for name, taken in session.readings.items() if reference else ():
            if name != baseline:
                pairs = zip(reference.wall_s, taken.wall_s, strict=False)
                found.setdefault(name, []).extend(_positive(b / v for b, v in pairs if b > 0 and v > 0))
    order = ["A/A", *(variant.name for variant in point.variants)]
    return [(name, found[name]) for name in order if found.get(name)]


# ------------------------------------------------------------------------------------------------ marks


def _draw_curve(axes: "Axes", name: str, sizes: list, found: list, look: dict, is_baseline: bool) -> tuple:
    colour, marker = look[name]
    middle = [spot[0] for spot in found]
    errors = [[spot[0] - spot[1] for spot in found], [spot[2] - spot[0] for spot in found]]
    valid = all(spot[3] for spot in found)
    axes.plot(sizes, middle, color=colour, linestyle="-" if valid else (0, (2, 2)), zorder=3 - is_baseline)
    axes.errorbar(sizes, middle, errors, color=colour, fmt="none", elinewidth=1.4, capsize=2.5, zorder=3)
    for size, spot in zip(sizes, found, strict=True):
        face = colour if spot[3] else PAPER
        axes.plot([size], [spot[0]], marker, color=colour, markerfacecolor=face, markersize=5.5, zorder=4)
    return sizes[-1], middle[-1], _end_label(name, valid), colour


def _end_label(name: str, valid: bool) -> str:
    return words.shown(name, LONGEST_LABEL) if valid else f"{words.shown(name, LONGEST_LABEL - 10)} (invalid)"


def _band_and_line(axes: "Axes", point: Point) -> None:
    floor = max((session.noise_floor or 0 for session in point.sessions), default=0)
    if 0 < floor < 10:
        axes.axvspan(1 / (1 + floor), 1 + floor, color=BAND, linewidth=0, zorder=0)
    axes.axvline(1, color=BASELINE, linewidth=1.2, zorder=1)


def _draw_effect(axes: "Axes", row: int, variant: Variant, look: dict) -> list[float]:
    """Draw one dot with its interval and return the ratios that the axis must hold."""
    effect = variant.effect
    if effect is None or not _positive([effect.speedup]) or variant.verdict in ("skipped", "failed"):
        return []
    colour, marker = look[variant.name]
    ends = _positive([effect.low, effect.high])
    if len(ends) == 2:
        axes.plot(ends, [row, row], color=colour, linewidth=2.4, zorder=3)
    if variant.verdict == "invalid":
        axes.plot([effect.speedup], [row], "x", color=colour, markersize=8, markeredgewidth=1.8, zorder=5)
    else:
        face = PAPER if variant.verdict in HOLLOW else colour
        axes.plot([effect.speedup], [row], marker, color=colour, markerfacecolor=face, markersize=7, zorder=4)
    return [effect.speedup, *ends]


def _tell(axes: "Axes", row: int, variant: Variant) -> None:
    """Write beside the row what it says: the ratio, or why there is none."""
    effect, place = variant.effect, axes.get_yaxis_transform()
    if effect is None or variant.verdict in ("skipped", "failed"):
        reason = words.shown(variant.reason, 44)
        text = f"{variant.verdict}: {reason}" if reason else variant.verdict
        paper = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
        axes.text(0.01, row, text, transform=place, color=MUTED, style="italic", va="center", bbox=paper, zorder=6)
        return
    text = words.with_interval(effect.speedup, effect.low, effect.high)
    mark = f", {variant.verdict}" if variant.verdict in ("invalid", *HOLLOW) else ""
    axes.text(1.02, row, text + mark, transform=place, color=MUTED if mark else INK, va="center")


def _draw_memory(axes: "Axes", row: int, variant: Variant, colour: str) -> None:
    standing, peak = max(0.0, variant.memory.standing_mib), max(0.0, variant.memory.peak_mib)
    axes.barh(row, standing, height=0.5, color=colour, alpha=0.35, linewidth=0)
    axes.barh(row, peak, left=standing, height=0.5, color=colour, linewidth=0)
    total = words.mib(words.memory_mib(variant.memory))
    axes.annotate(total, (standing + peak, row), (6, 0), textcoords="offset points", va="center", color=INK)


def _draw_strip(axes: "Axes", row: int, ratios: list[float], colour: str, invalid: bool) -> None:
    shown = ratios if len(ratios) <= 400 else ratios[:: math.ceil(len(ratios) / 400)]
    heights = [row + 0.26 * (((7 * place) % 11) / 5 - 1) for place in range(len(shown))]
    shape = {"marker": "x", "markersize": 3.6} if invalid else {"marker": "o", "markersize": 3.2, "markeredgewidth": 0}
    axes.plot(shown, heights, linestyle="none", color=colour, alpha=0.6, zorder=3, **shape)
    axes.plot([median(ratios)] * 2, [row - 0.36, row + 0.36], color=INK, linewidth=1.6, zorder=4)


# ------------------------------------------------------------------------------------------------ axes


def _height(rows: list) -> float:
    return 1.24 + 0.35 * max(1, len(rows))


def _at(record: Record, point: Point) -> str:
    return f"{words.count(point.size, record.asked.unit)} · " if point.size is not None else ""


def _title(figure: "Figure", title: str, marks: str, variants: int) -> None:
    """Write the title with its direction, and under it what the marks mean and how many variants are left out."""
    left, height = 0.1 / WIDTH, figure.get_figheight()
    more = f" · {variants - MOST_DRAWN} more in the table" if variants > MOST_DRAWN else ""
    figure.text(left, 1 - 0.27 / height, title, size=12, weight="bold", color=INK)
    figure.text(left, 1 - 0.5 / height, words.shown(marks + more, 110), size=9.5, color=MUTED)


def _time_axis(axes: "Axes", seconds: list[float]) -> None:
    """Make the y axis logarithmic with ticks at every decade, or at 1-2-5 steps where there are few of them."""
    low, high = (min(seconds), max(seconds)) if seconds else (1.0, 1.0)
    room = max((high / low) ** 0.06, 1.15)
    low, high = max(low / room, 1e-300), min(high * room, 1e300)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    fixed_ticks(axes.yaxis, steps(low, high, (1, 2, 5) if high / low < 200 else (1,)), _short_duration)


def _short_duration(seconds: float, _: int = 0) -> str:
    return re.sub(r"\.0+(?= )", "", words.duration(float(f"{seconds:.6g}")))


def _size_axis(axes: "Axes", sizes: set[float], label: str) -> None:
    low, high = (min(sizes), max(sizes)) if sizes else (1, 1)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.25, high * 1.25)
    ticks = sorted(sizes) if len(sizes) <= 7 else steps(low, high, (1,))
    fixed_ticks(axes.xaxis, ticks, lambda size, _: short_count(size))
    axes.xaxis.grid(False)
    axes.set_xlabel(label)


def _ratio_axis(axes: "Axes", edges: list[float]) -> None:
    """Make the x axis a logarithmic one of ratios with 1× inside and room on both sides."""
    low, high = ratio_span(edges)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    fixed_ticks(axes.xaxis, _ratio_ticks(low, high, axes.bbox.width / axes.figure.dpi), _short_ratio)


def _ratio_ticks(low: float, high: float, inches: float) -> list[float]:
    """Return the most ticks that do not touch on a logarithmic axis of so many inches: near 1 where it is short."""
    near = [[step for step in one if low <= step <= high] for one in NEAR] if high / low < 8 else []
    fine = [steps(low, high, digits, most=2_000) for digits in ((1, 2, 5), (1, 3))]
    decades = steps(low, high, (1,), most=2_000)
    coarse = [[one for one in decades if round(math.log10(one)) % every == 0] for every in (1, 2, 3, 4, 6, 100)]
    scale = inches / math.log(high / low)
    return next((ticks for ticks in (*near, *fine, *coarse) if len(ticks) > 1 and _apart(ticks, scale)), [1.0])


NEAR = (
    (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.3, 1.5, 1.7, 2),
    (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.7, 2),
    (0.2, 0.3, 0.5, 0.7, 1, 1.2, 1.5, 2, 3, 5),
    (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5),
    (0.2, 0.3, 0.5, 1, 2, 3, 5),
    (0.2, 0.5, 1, 2, 5),
)
"""Ticks of a short axis, the most first."""


def _apart(ticks: list[float], scale: float) -> bool:
    """Return whether labels at these ratios leave room between them. scale: inches for a factor of e."""
    if len(ticks) > 9:
        return False
    widths = [0.09 * len(_short_ratio(tick)) for tick in ticks]
    gaps = [scale * math.log(b / a) for a, b in pairwise(ticks)]
    return all(gap > (a + b) / 2 + 0.1 for gap, (a, b) in zip(gaps, pairwise(widths), strict=True))


def _short_ratio(ratio: float, _: int = 0) -> str:
    return f"{ratio:g}×"


def _memory_axis(axes: "Axes", highest: float) -> None:
    from matplotlib.ticker import MaxNLocator

    highest = min(max(highest, 1e-3), 1e300)
    unit, name = (1024, "GiB") if highest >= 1024 else (1, "MiB")
    ticks = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(0, highest / unit)
    axes.set_xlim(0, 1.2 * highest)
    fixed_ticks(axes.xaxis, [t * unit for t in ticks if 0 <= t * unit <= highest], lambda v, _: f"{v / unit:g} {name}")


def _row_labels(names: list[str], invalid: set[str]) -> list[str]:
    spare = len(", invalid")
    return [f"{words.shown(name, LONGEST_LABEL - spare)}, invalid" if name in invalid else name for name in names]


def _label_ends(axes: "Axes", ends: list[tuple]) -> None:
    """Name each curve beside its last point, names pushed apart where they would touch; there is no legend."""
    placed = sorted(((axes.transData.transform((x, y))[1], name, colour) for x, y, name, colour in ends))
    height = axes.figure.dpi * 0.19
    heights = spread([where for where, _, _ in placed], height)
    bottom = axes.bbox.y0
    for at, (_, name, colour) in zip(heights, placed, strict=True):
        spot = (1.02, (at - bottom) / axes.bbox.height)
        axes.text(*spot, name, transform=axes.transAxes, color=colour, va="center", weight="bold", clip_on=False)
