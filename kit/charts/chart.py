"""Draws a technique's own charts in the style of all figures: lines, points, grouped bars, stacked bars.

What is modelled is dashed and hollow and labelled so; an ideal is a dotted grey line; intervals are drawn. A series or
a category with a variant's name has that variant's colour.
"""

import math
from itertools import accumulate
from typing import TYPE_CHECKING

from kit.charts import style
from kit.record import formatting as fmt
from kit.record.document import Chart, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kit.charts.figures import Look

MOST_SERIES = 12
MOST_CATEGORIES = 24
MOST_POINTS = 600
"""Of a longer series every second, third, … point is drawn; what is left out is counted and kept in the record."""
MOST_MARKERS = 20
"""Points of a line that are marked one by one."""
DASHES = (0, (4, 2.2))


def draw(chart: Chart, look: "Look | None" = None) -> "Figure":
    """Return the figure of a chart. look: colour and marker of the variants by name, as `figures.looks` gives."""
    drawn = [_thinned(series) for series in chart.series[:MOST_SERIES]]
    look = (look or {}) | _looks(chart, look or {})
    with style.applied():
        figure, axes = SHAPES[chart.shape](chart, drawn, look)
        style.legend(figure, axes)
        figure.set_label(in_words(chart))
    return figure


def in_words(chart: Chart) -> str:
    """Return a chart as text, for a reader who can't see it: lines from first to last value, points by their range."""
    listed = "; ".join(_series_in_words(series, chart.shape) for series in chart.series[:MOST_SERIES])
    return f"{fmt.shown(chart.title)}. {fmt.shown(chart.y, 60)} over {fmt.shown(chart.x, 60)}. {listed}."


def _series_in_words(series: Series, shape: str) -> str:
    known = [(x, y) for x, y in zip(series.x, series.y, strict=True) if y is not None]
    if shape == "points" and series.style != "ideal" and len(known) > 1:
        lowest, *_, highest = sorted(known, key=lambda spot: spot[1])
        return f"{label(series)} {len(known)} points, from {_spot(*lowest)} to {_spot(*highest)}"
    along = shape in ("lines", "points", "timeline")
    listed = [_spot(*each) for each in (known[:1] + known[1:][-1:] if along else known[:MOST_CATEGORIES])]
    return f"{label(series)} {(' to ' if along else ', ').join(listed) or 'unknown'}"


def _spot(x: float | str, y: float) -> str:
    return f"{fmt.number(y)} at {fmt.cell(x)}"


def label(series: Series) -> str:
    """Return a series' name as the legend has it: modelled is always named so."""
    modelled = series.style == "modelled" and "modelled" not in series.name
    return fmt.shown(series.name, 18 if modelled else style.LONGEST_LABEL) + (", modelled" if modelled else "")


def _looks(chart: Chart, look: "Look") -> "Look":
    """Return colour and marker of each series by name: a variant's own, else the next that is free in this chart."""
    names = dict.fromkeys(series.name for series in chart.series if series.style != "ideal")
    found = {name: look[name] for name in names if name in look}
    taken = {colour for colour, _ in found.values()}
    free = [colour for colour in style.PALETTE if colour not in taken] or style.PALETTE
    for place, name in enumerate(name for name in names if name not in found):
        found[name] = (free[place % len(free)], style.MARKERS[(place + place // len(free)) % len(style.MARKERS)])
    return found


def _thinned(series: Series) -> Series:
    from msgspec.structs import replace

    step = math.ceil(len(series.x) / MOST_POINTS) or 1
    low, high = (None, None) if series.low is None else (series.low[::step], series.high[::step])
    return replace(series, x=series.x[::step], y=series.y[::step], low=low, high=high)


def _subtitle(chart: Chart, what: str, drawn: list[Series], categories: int = 0) -> str:
    intervals = "bars: interval" if any(series.low is not None for series in chart.series) else ""
    points = sum(len(s.x) for s in chart.series[: len(drawn)]) - sum(len(s.x) for s in drawn)
    more = len(chart.series) - len(drawn) + points + max(0, categories - MOST_CATEGORIES)
    return " · ".join(part for part in (what, intervals, f"{more} more in the record" if more > 0 else "") if part)


# ------------------------------------------------------------------------------------------------ lines and points


def _along(chart: Chart, drawn: list[Series], look: "Look") -> tuple["Figure", "Axes"]:
    figure, axes = style.canvas(2.9, chart.title, _subtitle(chart, fmt.shown(chart.y, 60), drawn))
    ys = [y for series in drawn for values in (series.y, series.low or [], series.high or []) for y in values]
    xs, known = [x for series in drawn for x in series.x], style.drawable(ys, False)
    whole = all(x == int(x) for x in style.drawable(xs, False))
    for axis, values, log, by_one in ((axes.xaxis, xs, chart.log_x, whole), (axes.yaxis, ys, chart.log_y, False)):
        style.log_axis(axis, values) if log else style.linear_axis(axis, by_one)
    for series in drawn:
        _draw_along(axes, series, chart, look)
    if not chart.log_y and known and 0 <= min(known) < 0.6 * max(known):
        axes.set_ylim(bottom=0)
    axes.xaxis.grid(False)
    axes.set_xlabel(fmt.shown(chart.x, 70))
    return figure, axes


def _draw_along(axes: "Axes", series: Series, chart: Chart, look: "Look") -> None:
    """Draw one series as a line or as points: full, dashed and hollow where modelled, dotted and grey where ideal."""
    log_x, log_y = chart.log_x, chart.log_y
    spots = [
        (x, y if style.drawable([y], log_y) else math.nan, place)
        for place, (x, y) in enumerate(zip(series.x, series.y, strict=True))
        if style.drawable([x], log_x)
    ]
    xs, ys = [x for x, *_ in spots], [y for _, y, _ in spots]
    if series.style == "ideal":
        axes.plot(xs, ys, color=style.BASELINE, linewidth=1.4, linestyle=":", zorder=1.5, label=label(series))
        return
    colour, marker = look[series.name]
    modelled, points = series.style == "modelled", chart.shape == "points"
    longest = max(len(one.x) for one in chart.series if one.style == series.style)  # alike ones are drawn alike
    marked = points or longest <= MOST_MARKERS
    axes.plot(xs, ys, color=colour, marker=marker if marked else "",
              markerfacecolor=style.PAPER if modelled else colour,
              markersize=5 if longest <= MOST_MARKERS else 3.5, linestyle="none" if points else DASHES if modelled
              else "-", alpha=0.8 if points else 1, label=label(series), zorder=3, clip_on=False)  # fmt: skip
    ends = [(x, series.low[p], series.high[p]) for x, _, p in spots] if series.low is not None else []
    ends = [end for end in ends if len(style.drawable(end[1:], log_y)) == 2]
    if ends and marked:
        axes.vlines(*zip(*ends, strict=True), color=colour, linewidth=1.4, zorder=2.5)
    elif ends:
        axes.fill_between(*zip(*ends, strict=True), color=colour, alpha=0.18, linewidth=0, zorder=2)


# ------------------------------------------------------------------------------------------------ bars


def _bars(chart: Chart, drawn: list[Series], look: "Look") -> tuple["Figure", "Axes"]:
    rows, figure, axes = _bar_canvas(chart, drawn, 0.1 + 0.19 * len(drawn))
    values = [
        v for s in drawn for found in (s.y, s.low or [], s.high or []) for v in style.drawable(found, chart.log_y)
    ]
    start = 0.5 * min(values, default=1) if chart.log_y else 0.0
    _value_axis(axes, [start, *values] if chart.log_y else values, chart.log_y)
    thick = 0.8 / len(drawn)
    for place, series in enumerate(drawn):
        shift = (place - (len(drawn) - 1) / 2) * thick
        axes.barh([-9], [0], label=label(series), **_face(series, look))
        for row, value, *ends in _cells(series, rows):
            face = _face(series, look, rows[row] if len(drawn) == 1 and rows[row] in look else series.name)
            _draw_bar(axes, row + shift, (start, value), ends, face, thick, chart.log_y)
    return figure, axes


def _bar_canvas(chart: Chart, drawn: list[Series], row_inches: float) -> tuple[list[str], "Figure", "Axes"]:
    categories = list(dict.fromkeys(fmt.cell(x) for series in chart.series for x in series.x))
    rows = categories[:MOST_CATEGORIES]
    height = 0.6 + 0.2 * (len(drawn) > 1) + max(0.24, row_inches) * max(1, len(rows))
    figure, axes = style.canvas(height, chart.title, _subtitle(chart, "", drawn, len(categories)))
    style.name_rows(axes, rows, 28)
    axes.set_xlabel(fmt.shown(chart.y, 70))
    return rows, figure, axes


def _value_axis(axes: "Axes", values: list[float], log: bool) -> None:
    if log:
        style.log_axis(axes.xaxis, values)
        return
    low, high = min([0.0, *values]), max([0.0, *values])
    room = 0.16 * (high - low) or 1.0
    axes.set_xlim(low - room * (low < 0), high + room * (high > 0 or low == 0))
    style.linear_axis(axes.xaxis)


def _cells(series: Series, rows: list[str]) -> list[tuple]:
    """Return row, value, low and high of each bar."""
    ends = zip(series.low or [None] * len(series.x), series.high or [None] * len(series.x), strict=True)
    found = {fmt.cell(x): (y, *end) for x, y, end in zip(series.x, series.y, ends, strict=True)}
    return [(row, *found[name]) for row, name in enumerate(rows) if name in found]


def _face(series: Series, look: "Look", name: str = "") -> dict:
    """Return how a bar is filled: full, hollow and dashed where modelled, grey where ideal. name: whose colour it has,
    instead of the series' own."""
    colour = look.get(name or series.name, (style.BASELINE,))[0]
    if series.style == "modelled":
        return {"facecolor": style.PAPER, "edgecolor": colour, "linewidth": 1.3, "linestyle": (0, (3, 1.6))}
    return {"facecolor": style.BASELINE if series.style == "ideal" else colour, "linewidth": 0}


def _draw_bar(axes: "Axes", at: float, span: tuple, ends: list, face: dict, thick: float, log: bool) -> None:
    start, value = span
    if not style.drawable([value], log):
        axes.annotate("—", (start, at), (4, 0), textcoords="offset points", va="center", size=9, color=style.MUTED)
        return
    axes.barh(at, value - start, left=start, height=0.82 * thick, zorder=2, **face)
    known = style.drawable(ends, log)
    if len(known) == 2:
        axes.plot(known, [at, at], color=style.INK, linewidth=1.1, marker="|", markersize=4, zorder=3)
    _value_beside(axes, fmt.number(value), min([value, *known]) if value < 0 else max(value, *known, start), at)


def _value_beside(axes: "Axes", text: str, end: float, at: float) -> None:
    side = -1 if end < 0 else 1
    axes.annotate(text, (end, at), (4 * side, 0), textcoords="offset points", size=9, color=style.MUTED, va="center",
                  ha="left" if side > 0 else "right")  # fmt: skip


def _stacked(chart: Chart, drawn: list[Series], look: "Look") -> tuple["Figure", "Axes"]:
    rows, figure, axes = _bar_canvas(chart, drawn, 0.3)
    parts = [{row: value for row, value, *_ in _cells(series, rows)} for series in drawn]
    heights = [[max(0.0, *style.drawable([part.get(row)], False), 0.0) for part in parts] for row in range(len(rows))]
    _value_axis(axes, [sum(row) for row in heights], log=False)
    for place, series in enumerate(drawn):
        left = [[0.0, *accumulate(row)][place] for row in heights]
        face = {"edgecolor": style.PAPER, **_face(series, look), "linewidth": 1.2}
        widths = [row[place] for row in heights]
        axes.barh(range(len(rows)), widths, left=left, height=0.62, zorder=2, label=label(series), **face)
    for row, found in enumerate(heights):
        unknown = all(part.get(row) is None for part in parts)
        _value_beside(axes, "—" if unknown else fmt.number(sum(found)), sum(found), row)
    return figure, axes


def _timeline(chart: Chart, drawn: list[Series], look: "Look") -> tuple["Figure", "Axes"]:
    """Draw blocks of one slot, in each row numbered in the order in which their series has them."""
    rows, figure, axes = _bar_canvas(chart, drawn, 0.24)
    for series in drawn:
        axes.barh([-9], [0], label=label(series), **_face(series, look))
        for row, name in enumerate(rows):
            starts = [y for x, y in zip(series.x, series.y, strict=True) if fmt.cell(x) == name]
            axes.barh([row] * len(starts), 0.92, left=starts, height=0.78, zorder=2, **_face(series, look))
            for number, start in enumerate(starts, 1):
                axes.text(start + 0.46, row + 0.03, number, ha="center", va="center", size=8, color=style.PAPER)
    style.linear_axis(axes.xaxis, whole=True)
    axes.set_xlim(0, 1 + max(y for series in drawn for y in series.y))
    axes.xaxis.grid(False)
    return figure, axes


SHAPES = {"lines": _along, "points": _along, "bars": _bars, "stacked": _stacked, "timeline": _timeline}
