"""Draws records in one style: baseline grey, one colour per variant, intervals drawn, direction in the title.

Every function returns a matplotlib `Figure` of its own (no global state, no backend), which draws the same in a
notebook, a script and the report. Failed, rejected and untimed variants are named with their reason and without a
speed-up, and skipped ones are left to the tables.
"""

import math
from statistics import median
from typing import TYPE_CHECKING

from kit.charts import style
from kit.record import formatting as fmt
from kit.record import recommendation
from kit.record.document import CONTROL, Measurements, Point, Record, Variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_DRAWN = 12
"""Variants in one figure; the rest are counted in its subtitle and listed in the tables."""
MOST_DOTS = 120
HOLLOW = ("equivalent", "inconclusive")

Look = dict[str, tuple[str, str]]
"""Colour and marker of each variant, by name."""


def looks(*records: Record) -> Look:
    """Return colour and marker of each variant by name, the measured ones first, in order of declaration.

    What is a baseline in all of them is grey. Give it all records of one page to have a variant look the same in each.
    """
    baselines = {record.asked.baseline for record in records}
    variants = [v for one in records for point in one.points for v in point.variants if v.name != one.asked.baseline]
    others = dict.fromkeys(one.name for one in sorted(variants, key=lambda variant: variant.state != "measured"))
    found = {name: (style.BASELINE, "o") for name in [*baselines, CONTROL]}
    for place, name in enumerate(others):
        turn = place // len(style.PALETTE)
        found[name] = (style.PALETTE[place % len(style.PALETTE)], style.MARKERS[(place + turn) % len(style.MARKERS)])
    return found


# ------------------------------------------------------------------------------------------------ the figures


def scaling_curve(record: Record, look: Look | None = None) -> "Figure":
    """Return time over size, both axes logarithmic, with the 95 % interval of each median."""
    look, curves = look or looks(record), _curves(record)
    unit, drawn = fmt.shown(record.asked.unit, 40), dict(list(curves.items())[:MOST_DRAWN])
    with style.applied():
        marks = _marks(record, None, "bars: 95 % CI", len(curves))
        figure, axes = style.canvas(2.9, "Time per call, lower is better", marks)
        for name, spots in drawn.items():
            _draw_curve(axes, name, spots, look, name == record.asked.baseline)
        style.log_axis(axes.yaxis, [t for spots in drawn.values() for spot in spots for t in spot[1:4]], fmt.duration)
        style.log_axis(axes.xaxis, [spot[0] for spots in drawn.values() for spot in spots])
        axes.set_xlabel(unit or "size")
        style.legend(figure, axes)
        figure.set_label(f"Time per call over {unit or 'size'}. {recommendation.summary(record)}")
    return figure


def speedups(record: Record, point: Point, look: Look | None = None) -> "Figure":
    """Return each variant's speed-up with its interval against the baseline at 1×, and the noise floor as a band."""
    look = look or looks(record)
    others = [v for v in point.variants if v.name != record.asked.baseline and v.verdict != "skipped"]
    drawn = others[:MOST_DRAWN]
    with style.applied():
        marks = f"line: 95 % CI · band: {fmt.floor_name(point)}"
        marks += " · hollow: no significant difference" if any(v.verdict in HOLLOW and v.effect for v in drawn) else ""
        title = f"Speed-up over {fmt.shown(record.asked.baseline, 30)}, higher is better"
        figure, axes = style.canvas(0.45 + 0.38 * max(1, len(drawn)), title, _marks(record, point, marks, len(others)))
        _band_and_line(axes, point)
        edges = [edge for row, variant in enumerate(drawn) for edge in _draw_effect(axes, row, variant, look)]
        axes.set_ylim(max(len(drawn), 1) - 0.45, -0.75)
        axes.set_yticks([])
        style.log_axis(axes.xaxis, [1.0, *edges], fmt.times)
        for row, variant in enumerate(drawn):
            _write_row(axes, row, variant, look)
        figure.set_label(recommendation.at_point(record, point))
    return figure


def memory(record: Record, point: Point | None = None, look: Look | None = None) -> "Figure":
    """Return the highest memory of each variant at one size (the largest, unless given): after setup, and the call."""
    point, look = point or fmt.largest(record), look or looks(record)
    valid = [variant for variant in (point.variants if point else []) if variant.verdict != "rejected"]
    measured = [variant for variant in valid if style.drawable([fmt.memory_mib(variant.memory)])]
    drawn = measured[:MOST_DRAWN]
    with style.applied():
        marks = _marks(record, point, "pale: after setup · full: added by the call", len(measured))
        figure, axes = style.canvas(0.45 + 0.27 * max(1, len(drawn)), "Memory, lower is better", marks)
        for row, variant in enumerate(drawn):
            _draw_memory(axes, row, variant, look[variant.name][0])
        style.name_rows(axes, [variant.name for variant in drawn])
        axes.set_xlim(0, 1.25 * max((fmt.memory_mib(variant.memory) for variant in drawn), default=1))
        style.linear_axis(axes.xaxis)
        axes.set_xlabel("MiB")
        listed = "; ".join(f"{fmt.shown(v.name, 60)} {fmt.mib(fmt.memory_mib(v.memory))}" for v in drawn)
        figure.set_label(f"Highest memory: {listed}.")
    return figure


def measurements(record: Record, point: Point, look: Look | None = None) -> "Figure":
    """Return every round's ratio to the baseline as a dot, up to MOST_DOTS evenly chosen ones, A/A first."""
    look, found = look or looks(record), _ratios(point, record.asked.baseline)
    drawn = found[: MOST_DRAWN + 1]
    with style.applied():
        floor, title = fmt.floor_name(point), "Speed-up in every round, higher is better"
        marks = _marks(record, point, f"dots: rounds, up to {MOST_DOTS} · line: median · band: {floor}", len(found) - 1)
        figure, axes = style.canvas(0.45 + 0.32 * max(1, len(drawn)), title, marks)
        _band_and_line(axes, point)
        for row, (name, ratios) in enumerate(drawn):
            _draw_dots(axes, row, ratios, look.get(name, (style.BASELINE, "o"))[0])
        style.name_rows(axes, [name for name, _ in drawn])
        style.log_axis(axes.xaxis, [1.0, *(ratio for _, ratios in drawn for ratio in ratios)], fmt.times)
        counts = "; ".join(f"{fmt.shown(name, 60)} {len(ratios)} rounds" for name, ratios in drawn)
        figure.set_label(f"Ratios of all rounds: {counts}")
    return figure


def _marks(record: Record, point: Point | None, marks: str, variants: int) -> str:
    """Return the subtitle: at which size, what the marks mean, and how many variants are left out."""
    at = fmt.count(point.size, record.asked.unit) if point else ""
    more = f"{variants - MOST_DRAWN} more in the table" if variants > MOST_DRAWN else ""
    return " · ".join(part for part in (at, marks, more) if part)


# ------------------------------------------------------------------------------------------------ numbers to draw


def median_interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median by order statistics (normal approximation of the sign test's ranks);
    the whole range under six values."""
    ordered = sorted(values)
    k = math.floor(len(ordered) / 2 - 1.96 * math.sqrt(len(ordered)) / 2)
    return (ordered[k], ordered[-1 - k]) if k >= 0 and len(ordered) >= 6 else (ordered[0], ordered[-1])


def _measured(point: Point, variant: Variant) -> Measurements | None:
    if variant.session is None or not 0 <= variant.session < len(point.sessions):
        return None
    return point.sessions[variant.session].measurements.get(variant.name)


def _curves(record: Record) -> dict[str, list[tuple]]:
    """Return for each variant (size, median, low, high, whether it counts) in seconds, by ascending size."""
    curves: dict[str, list[tuple]] = {}
    sized = [point for point in record.points if point.size is not None and 0 < point.size < 1e300]
    for point in sorted(sized, key=lambda point: point.size):
        for variant in point.variants:
            taken = _measured(point, variant)
            if seconds := style.drawable(taken.wall_s if taken else []):
                spot = (point.size, median(seconds), *median_interval(seconds), variant.verdict != "rejected")
                curves.setdefault(variant.name, []).append(spot)
    return curves


def _ratios(point: Point, baseline: str) -> list[tuple[str, list[float]]]:
    """Return the per-round ratios of every variant that has a speed-up, A/A first."""
    found: dict[str, list[float]] = {}
    for session in point.sessions:
        reference = session.measurements.get(baseline)
        for name, taken in session.measurements.items() if reference else ():
            if name != baseline:
                pairs = zip(reference.wall_s, taken.wall_s, strict=False)
                found.setdefault(name, []).extend(style.drawable(b / v for b, v in pairs if b > 0 and v > 0))
    order = [CONTROL, *(variant.name for variant in point.variants if fmt.claimed(variant))]
    return [(name, found[name]) for name in order if found.get(name)]


# ------------------------------------------------------------------------------------------------ marks


def _draw_curve(axes: "Axes", name: str, spots: list[tuple], look: Look, is_baseline: bool) -> None:
    colour, marker = look[name]
    sizes, middle, low, high, valid = zip(*spots, strict=True)
    shown = fmt.shown(name, 22) + ("" if all(valid) else ", rejected")
    axes.plot(sizes, middle, marker, color=colour, linestyle="-" if all(valid) else (0, (2, 2)), markersize=5,
              markerfacecolor=colour if all(valid) else style.PAPER, zorder=3 - is_baseline, label=shown)  # fmt: skip
    axes.vlines(sizes, low, high, color=colour, linewidth=1.4, zorder=3)


def _band_and_line(axes: "Axes", point: Point) -> None:
    floor = max((session.noise_floor or 0 for session in point.sessions), default=0)
    if 0 < floor < 10:
        axes.axvspan(1 / (1 + floor), 1 + floor, color=style.BAND, linewidth=0, zorder=0)
    axes.axvline(1, color=style.BASELINE, linewidth=1.2, zorder=1)


def _draw_effect(axes: "Axes", row: int, variant: Variant, look: Look) -> list[float]:
    """Draw one dot with its interval and return the ratios that the axis must hold."""
    effect = fmt.claimed(variant)
    if effect is None or not style.drawable([effect.speedup]):
        return []
    colour, marker = look[variant.name]
    ends = style.drawable([effect.low, effect.high])
    if len(ends) == 2:
        axes.plot(ends, [row + 0.12] * 2, color=colour, linewidth=2.2, zorder=3)
    face = style.PAPER if variant.verdict in HOLLOW else colour
    axes.plot([effect.speedup], [row + 0.12], marker, color=colour, markerfacecolor=face, markersize=6, zorder=4)
    return [effect.speedup, *ends]


def _write_row(axes: "Axes", row: int, variant: Variant, look: Look) -> None:
    """Write the variant's name, and next to it its ratio; in the place of its interval why it has none."""
    mark = variant.verdict if variant.verdict not in ("faster", "slower") else ""
    paper = {"facecolor": style.PAPER, "edgecolor": "none", "pad": 0.8}
    written = {"transform": axes.get_yaxis_transform(), "va": "center", "size": 9, "zorder": 6, "bbox": paper}
    if effect := fmt.claimed(variant):
        text = fmt.shown(f"{fmt.ratio_cell(effect)}{', ' * bool(mark)}{mark}", 40)
        axes.text(1, row - 0.3, text, ha="right", color=style.MUTED if mark else style.INK, **written)
    else:
        text = fmt.shown(f"{mark}: {fmt.note(variant)}".removesuffix(": "), 62)
        axes.text(0, row + 0.12, text, color=style.MUTED, **written)
    most = 54 - len(text) if effect else 50
    axes.text(0, row - 0.3, fmt.shown(variant.name, most), weight="bold", color=look[variant.name][0], **written)


def _draw_memory(axes: "Axes", row: int, variant: Variant, colour: str) -> None:
    standing, peak = max(0.0, variant.memory.after_setup_mib), max(0.0, variant.memory.peak_mib)
    axes.barh(row, standing, height=0.5, color=colour, alpha=0.35, linewidth=0)
    axes.barh(row, peak, left=standing, height=0.5, color=colour, linewidth=0)
    total = fmt.mib(fmt.memory_mib(variant.memory))
    axes.annotate(total, (standing + peak, row), (4, 0), textcoords="offset points", va="center", color=style.INK)


def _draw_dots(axes: "Axes", row: int, ratios: list[float], colour: str) -> None:
    heights = [row + 0.26 * (((7 * place) % 11) / 5 - 1) for place in range(len(ratios))]
    shape = {"marker": "o", "markersize": 3, "markeredgewidth": 0}
    every = len(ratios) // MOST_DOTS + 1
    axes.plot(ratios[::every], heights[::every], linestyle="none", color=colour, alpha=0.6, zorder=3, **shape)
    axes.plot([median(ratios)] * 2, [row - 0.36, row + 0.36], color=style.INK, linewidth=1.6, zorder=4)
