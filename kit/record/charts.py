"""Draws a technique's own charts in the style of all figures: lines, points, bars in groups, stacked bars.

What is modelled is dashed and hollow and says so; an ideal is a thin grey line; intervals are drawn. A series or a
category that bears a variant's name has that variant's colour.
"""

import math
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kit.record import words
from kit.record.document import Chart, Series
from kit.record.style import (
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
    room,
    short_count,
    spread,
    steps,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_SERIES = 12
MOST_CATEGORIES = 24
"""What is beyond is counted in the figure and stands in the record."""

LONGEST_CATEGORY = 38
"""Characters of a category's name."""

MOST_MARKERS = 40
"""Points of a line that are marked one by one."""

MOST_POINTS = 600
"""Of a series of more points every other one is drawn, or every third, …; what is left out is counted."""

BAR, GAP = 0.19, 0.15
"""Inches of one bar, and between two groups of bars."""

DASHES = (0, (4, 2.2))


def chart(exhibit: Chart, look: dict[str, tuple[str, str]] | None = None) -> "Figure":
    """Return the figure of `exhibit`. look: colour and marker of the variants by name, as `figures.looks` gives."""
    draw, look = SHAPES[exhibit.shape], look or {}
    with applied():
        figure = draw(exhibit, exhibit.series[:MOST_SERIES], look | _looks(exhibit, look))
        figure.set_label(in_words(exhibit))
    return figure


def in_words(exhibit: Chart) -> str:
    """Return a chart for those who can't see it: lines from first to last value, points by their ends, bar by bar."""
    told = "; ".join(_series_in_words(series, exhibit.shape) for series in exhibit.series[:MOST_SERIES])
    return f"{words.shown(exhibit.title)}. {words.shown(exhibit.y, 60)} over {words.shown(exhibit.x, 60)}. {told}."


def _series_in_words(series: Series, shape: str) -> str:
    known = [(x, y) for x, y in zip(series.x, series.y, strict=True) if y is not None]
    if shape == "points" and series.style != "ideal" and len(known) > 1:
        lowest, *_, highest = sorted(known, key=lambda spot: spot[1])
        return f"{label(series)} {len(known)} points, from {_spot(*lowest)} to {_spot(*highest)}"
    along = shape in ("lines", "points")
    listed = [_spot(*each) for each in (known[:1] + known[1:][-1:] if along else known[:MOST_CATEGORIES])]
    return f"{label(series)} {(' to ' if along else ', ').join(listed) or 'unknown'}"


def _spot(x: float | str, y: float) -> str:
    return f"{words.number(y)} at {words.cell(x)}"


def label(series: Series) -> str:
    """Return a series' name as the legend says it: modelled is always named so."""
    modelled = series.style == "modelled" and "modelled" not in series.name
    return words.shown(series.name, 18 if modelled else LONGEST_LABEL) + (", modelled" if modelled else "")


def _looks(exhibit: Chart, look: dict) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each series by name: a variant's own, else the next that is free in this chart."""
    names = dict.fromkeys(series.name for series in exhibit.series if series.style != "ideal")
    found = {name: look[name] for name in names if name in look}
    taken = {colour for colour, _ in found.values()}
    free = [colour for colour in PALETTE if colour not in taken] or PALETTE
    for place, name in enumerate(name for name in names if name not in found):
        found[name] = (free[place % len(free)], MARKERS[(place + place // len(free)) % len(MARKERS)])
    return found


# ------------------------------------------------------------------------------------------------ lines


def _lines(exhibit: Chart, drawn: list[Series], look: dict) -> "Figure":
    names = [label(series) for series in drawn]
    right = 0.66 + 0.088 * max(map(len, names))
    top, subtitle = _header(exhibit, _under_title(exhibit, exhibit.y, len(exhibit.series) - len(drawn)))
    figure, axes = canvas(3.14 + top, left=0.78, right=min(right, 3.1), bottom=0.56, top=top)
    _along_axes(axes, drawn, exhibit)
    for series in drawn:
        _draw_line(axes, series, exhibit, _marks(series, look))
    _name_lines(axes, [(_end(axes, series, exhibit.log_y), series) for series in drawn], look)
    _write_header(figure, exhibit, subtitle)
    return figure


def _along_axes(axes: "Axes", drawn: list[Series], exhibit: Chart) -> None:
    _x_axis(axes, [x for series in drawn for x in _drawable(series.x, exhibit.log_x)], exhibit)
    _y_axis(axes.yaxis, [y for s in drawn for ys in _values(s) for y in _drawable(ys, exhibit.log_y)], exhibit.log_y)


def _values(series: Series) -> list[list[float | None]]:
    return [series.y, series.low or [], series.high or []]


def _drawable(values: Iterable[float | None], log: bool) -> list[float]:
    return [v for v in values if _can_be_drawn(v, log)]


def _can_be_drawn(value: float | None, log: bool) -> bool:
    return value is not None and abs(value) < 1e300 and (not log or value > 1e-300)


def _marks(series: Series, look: dict) -> dict:
    """Return how a line is drawn: full, dashed and hollow, or thin and grey."""
    if series.style == "ideal":
        return {"color": BASELINE, "linewidth": 1.1, "zorder": 1.5}
    colour, marker = look[series.name]
    modelled = series.style == "modelled"
    return {
        "color": colour,
        "linewidth": 1.5 if modelled else 1.8,
        "linestyle": DASHES if modelled else "-",
        "dash_capstyle": "butt",
        "marker": marker,
        "markersize": 5.5,
        "markerfacecolor": PAPER if modelled else colour,
        "markeredgecolor": colour,
        "zorder": 3 if modelled else 3.5,
    }


def _draw_line(axes: "Axes", series: Series, exhibit: Chart, marks: dict) -> None:
    spots = [
        (x, y if _can_be_drawn(y, exhibit.log_y) else math.nan)
        for x, y in zip(series.x, series.y, strict=True)
        if _can_be_drawn(x, exhibit.log_x)
    ]
    if not spots:
        return
    x, y = zip(*spots, strict=True)
    _draw_intervals(axes, series, exhibit, marks["color"])
    axes.plot(x, y, markevery=_marked(y), **marks)


def _marked(y: tuple[float, ...]) -> list[int]:
    """Return the points to mark: all where they are few, else those that no line leads to."""
    around = (math.nan, *y, math.nan)
    alone = [i for i in range(len(y)) if math.isnan(around[i]) and math.isnan(around[i + 2])]
    return list(range(len(y))) if len(y) <= MOST_MARKERS else alone


def _draw_intervals(axes: "Axes", series: Series, exhibit: Chart, colour: str) -> None:
    ends = _ends(series, exhibit)
    if len(series.x) > MOST_MARKERS and ends:
        axes.fill_between(*zip(*ends, strict=True), color=colour, alpha=0.18, linewidth=0, zorder=2)
        return
    _draw_bars(axes, ends, colour)


def _ends(series: Series, exhibit: Chart) -> list[tuple]:
    """Return where, from and to of each interval that can be drawn."""
    if series.low is None or series.high is None:
        return []
    parallel = zip(series.x, series.low, series.high, strict=True)
    ends = [e for e in parallel if _can_be_drawn(e[0], exhibit.log_x)]
    return [e for e in ends if _can_be_drawn(e[1], exhibit.log_y) and _can_be_drawn(e[2], exhibit.log_y)]


def _draw_bars(axes: "Axes", ends: list[tuple], colour: str) -> None:
    for x, low, high in ends:
        axes.plot([x, x], [low, high], color=colour, linewidth=1.4, marker="_", markersize=5, zorder=2.5)


def _end(axes: "Axes", series: Series, log: bool) -> float:
    """Return at what height of the axes, from 0 to 1, a line ends."""
    last = next((y for y in reversed(series.y) if _can_be_drawn(y, log)), None)
    if last is None:
        return 0.0
    return (axes.transData.transform((1, last))[1] - axes.bbox.y0) / axes.bbox.height


def _name_lines(axes: "Axes", ends: list[tuple[float, Series]], look: dict) -> None:
    """Name each line at the right, in the order in which the lines end, beside a piece of it."""
    from matplotlib.lines import Line2D

    placed = sorted(ends, key=lambda end: end[0])
    gap = 0.2 * axes.figure.dpi / axes.bbox.height
    inch = axes.figure.dpi / axes.bbox.width
    for at, (_, series) in zip(_within(spread([end for end, _ in placed], gap), gap), placed, strict=True):
        marks = _marks(series, look)
        piece_marked = [1] if len(series.x) <= MOST_MARKERS else []
        piece = [1 + 0.12 * inch, 1 + 0.29 * inch, 1 + 0.46 * inch]
        axes.add_artist(
            Line2D(piece, [at] * 3, transform=axes.transAxes, clip_on=False, markevery=piece_marked, **marks)
        )
        style = {"color": MUTED} if series.style == "ideal" else {"color": marks["color"], "weight": "bold"}
        axes.text(1 + 0.54 * inch, at, label(series), transform=axes.transAxes, va="center", size=10, **style)


def _within(heights: list[float], gap: float) -> list[float]:
    """Return ascending heights pushed into 0 to 1, their distances kept to `gap` at least."""
    kept: list[float] = []
    for height in heights:
        kept.append(max(height, kept[-1] + gap if kept else 0.0))
    for place in reversed(range(len(kept))):
        kept[place] = min(kept[place], kept[place + 1] - gap if place + 1 < len(kept) else 1.0)
    return kept


# ------------------------------------------------------------------------------------------------ points


def _points(exhibit: Chart, drawn: list[Series], look: dict) -> "Figure":
    thinned, legend = [_thinned(series) for series in drawn], _legend(drawn)
    left_out = sum(len(series.x) for series in drawn) - sum(len(series.x) for series in thinned)
    more = len(exhibit.series) - len(drawn) + left_out
    top, subtitle = _header(exhibit, _under_title(exhibit, exhibit.y, more))
    under = top + 0.25 * len(legend)
    figure, axes = canvas(3.14 + under, left=0.78, right=0.3, bottom=0.56, top=under)
    _along_axes(axes, thinned, exhibit)
    for series in thinned:
        _draw_points(axes, series, exhibit, _marks(series, look))
    _write_header(figure, exhibit, subtitle)
    for line, entries in enumerate(legend):
        _write_legend(figure, entries, figure.get_figheight() - top - 0.25 * line + 0.04, look, marks=True)
    return figure


def _thinned(series: Series) -> Series:
    from msgspec.structs import replace

    step = math.ceil(len(series.x) / MOST_POINTS) or 1
    low, high = (None, None) if series.low is None else (series.low[::step], series.high[::step])
    return replace(series, x=series.x[::step], y=series.y[::step], low=low, high=high)


def _draw_points(axes: "Axes", series: Series, exhibit: Chart, marks: dict) -> None:
    if series.style == "ideal":
        _draw_line(axes, series, exhibit, marks)
        return
    _draw_bars(axes, _ends(series, exhibit), marks["color"])
    spots = zip(series.x, series.y, strict=True)
    drawn = [(x, y) for x, y in spots if _can_be_drawn(x, exhibit.log_x) and _can_be_drawn(y, exhibit.log_y)]
    if drawn:
        axes.plot(*zip(*drawn, strict=True), clip_on=False, **_dots(marks, len(drawn)))


def _dots(marks: dict, count: int) -> dict:
    """Return how points are drawn: the more there are the smaller, and always so that those beneath can be seen."""
    size = 6 if count <= MOST_MARKERS else 4.5 if count <= 4 * MOST_MARKERS else 3.5
    edge = PAPER if marks["markerfacecolor"] != PAPER else marks["color"]
    return marks | {
        "linestyle": "none",
        "markersize": size,
        "markeredgecolor": edge,
        "markeredgewidth": 0.7,
        "alpha": 0.8,
    }


# ------------------------------------------------------------------------------------------------ bars


def _bars(exhibit: Chart, drawn: list[Series], look: dict) -> "Figure":
    rows = _categories(drawn)
    figure, axes = _bar_canvas(exhibit, drawn, look, rows, len(drawn) * BAR + GAP)
    values = [v for series in drawn for found in _values(series) for v in _drawable(found, exhibit.log_y)]
    start = _y_axis(axes.xaxis, values, exhibit.log_y, bars=True)
    thick = BAR / (len(drawn) * BAR + GAP)
    alone = look if len(drawn) == 1 else {}
    for place, series in enumerate(drawn):
        shift = (place - (len(drawn) - 1) / 2) * thick
        for row, value, low, high in _cells(series, rows):
            colour = alone.get(rows[row], look.get(series.name, (BASELINE,)))[0]
            _draw_bar(axes, row + shift, (start, value), (low, high), series.style, colour, thick, exhibit.log_y)
    return figure


def _categories(drawn: list[Series]) -> list[str]:
    return list(dict.fromkeys(words.cell(x) for series in drawn for x in series.x))[:MOST_CATEGORIES]


def _cells(series: Series, rows: list[str]) -> list[tuple]:
    """Return row, value and interval of each bar."""
    ends = zip(series.low or [None] * len(series.x), series.high or [None] * len(series.x), strict=True)
    found = {words.cell(x): (y, *end) for x, y, end in zip(series.x, series.y, ends, strict=True)}
    return [(row, *found[name]) for row, name in enumerate(rows) if name in found]


def _bar_canvas(exhibit: Chart, drawn: list[Series], look: dict, rows: list[str], row_inches: float):
    legend = _legend(drawn)
    more = len(exhibit.series) - len(drawn) + len(_categories_beyond(exhibit))
    top, subtitle = _header(exhibit, _under_title(exhibit, "", more))
    height = top + 0.25 * len(legend) + row_inches * (len(rows) + 0.2) + 0.62
    figure, axes = canvas(height, room(rows, LONGEST_CATEGORY), right=0.3, bottom=0.62, top=top + 0.25 * len(legend))
    name_rows(axes, rows, LONGEST_CATEGORY)
    axes.tick_params(axis="y", pad=5)
    axes.set_xlabel(words.shown(exhibit.y, 70))
    _write_header(figure, exhibit, subtitle)
    for line, entries in enumerate(legend):
        _write_legend(figure, entries, height - top - 0.25 * line + 0.04, look)
    return figure, axes


def _categories_beyond(exhibit: Chart) -> list[str]:
    return list(dict.fromkeys(words.cell(x) for series in exhibit.series for x in series.x))[MOST_CATEGORIES:]


def _face(style: str, colour: str) -> dict:
    """Return how a bar is filled: full, hollow and dashed where modelled, thin grey where ideal."""
    if style == "modelled":
        return {"facecolor": PAPER, "edgecolor": colour, "linewidth": 1.3, "linestyle": (0, (3, 1.6))}
    return {"facecolor": BASELINE if style == "ideal" else colour, "linewidth": 0}


def _draw_bar(axes: "Axes", at: float, span: tuple, ends: tuple, style: str, colour: str, thick: float, log: bool):
    start, value = span
    if not _can_be_drawn(value, log):
        axes.annotate("—", (start, at), (4, 0), textcoords="offset points", va="center", size=9, color=MUTED)
        return
    height = 0.3 * thick if style == "ideal" else 0.82 * thick
    axes.barh(at, value - start, left=start, height=height, zorder=2, **_face(style, colour))
    reach = value
    if all(_can_be_drawn(end, log) for end in ends):
        axes.plot(ends, [at, at], color=INK, linewidth=1.1, marker="|", markersize=4, zorder=3)
        reach = max(value, *ends)
    text, side = words.number(value), -1 if value < 0 else 1
    end = min(value, *ends) if side < 0 and all(_can_be_drawn(e, log) for e in ends) else reach
    beside = {"ha": "left" if side > 0 else "right", "va": "center", "size": 9, "color": MUTED}
    axes.annotate(text, (end, at), (4 * side, 0), textcoords="offset points", **beside)


def _stacked(exhibit: Chart, drawn: list[Series], look: dict) -> "Figure":
    rows = _categories(drawn)
    figure, axes = _bar_canvas(exhibit, drawn, look, rows, 0.36)
    parts = [{row: value for row, value, *_ in _cells(series, rows)} for series in drawn]
    totals = [sum(_drawable((part.get(row) for part in parts), False)) for row in range(len(rows))]
    _y_axis(axes.xaxis, totals, False, bars=True)
    reached = [0.0] * len(rows)
    for series, part in zip(drawn, parts, strict=True):
        colour = look.get(series.name, (BASELINE,))[0]
        for row, value in part.items():
            if _can_be_drawn(value, False) and value > 0:
                face = {"edgecolor": PAPER} | _face(series.style, colour) | {"linewidth": 1.2}
                axes.barh(row, value, left=reached[row], height=0.62, zorder=2, **face)
                reached[row] += value
    for row, total in enumerate(totals):
        unknown = all(part.get(row) is None for part in parts)
        beside = {"textcoords": "offset points", "va": "center", "size": 9, "color": INK}
        axes.annotate("—" if unknown else words.number(total), (total, row), (5, 0), **beside)
    return figure


# ------------------------------------------------------------------------------------------------ header and legend


def _under_title(exhibit: Chart, what: str, more: int) -> str:
    intervals = any(series.low is not None for series in exhibit.series)
    few = all(len(series.x) <= MOST_MARKERS for series in exhibit.series)
    drawn_as = {"lines": "bars" if few else "band", "points": "bars", "bars": "lines"}.get(exhibit.shape)
    marks = [words.shown(what, 60), f"{drawn_as}: interval" if intervals and drawn_as else ""]
    return " · ".join(part for part in (*marks, f"{more} more in the record" if more > 0 else "") if part)


def _header(exhibit: Chart, subtitle: str) -> tuple[float, str]:
    """Return the inches that title and subtitle take, and the subtitle."""
    return 0.3 + 0.22 * len(_title(exhibit)) + (0.24 if subtitle else 0.0), subtitle


def _title(exhibit: Chart) -> list[str]:
    return textwrap.wrap(words.shown(exhibit.title, 160), 60) or [""]


def _write_header(figure: "Figure", exhibit: Chart, subtitle: str) -> None:
    left, height = 0.1 / WIDTH, figure.get_figheight()
    lines = _title(exhibit)
    for place, line in enumerate(lines):
        figure.text(left, 1 - (0.27 + 0.22 * place) / height, line, size=12, weight="bold", color=INK)
    figure.text(left, 1 - (0.29 + 0.22 * len(lines)) / height, subtitle, size=9.5, color=MUTED)


def _legend(drawn: list[Series]) -> list[list[tuple[float, Series]]]:
    return _legend_rows(drawn) if len(drawn) > 1 or drawn[0].style != "measured" else []


def _legend_rows(drawn: list[Series]) -> list[list[tuple[float, Series]]]:
    """Return the entries of a legend in rows, each with its place in inches from the left."""
    rows: list[list[tuple[float, Series]]] = [[]]
    left = 0.1
    for series in drawn:
        wide = 0.42 + 0.088 * len(label(series))
        if left + wide > WIDTH and rows[-1]:
            rows.append([])
            left = 0.1
        rows[-1].append((left, series))
        left += wide
    return rows


def _write_legend(figure: "Figure", entries: list, up: float, look: dict, marks: bool = False) -> None:
    """Write one row of the legend, `up` inches from the foot. marks: a point instead of a piece of a bar."""
    height = figure.get_figheight()
    for left, series in entries:
        draw = _legend_mark if marks else _legend_patch
        figure.add_artist(draw(figure, series, left, up, look))
        figure.text((left + 0.27) / WIDTH, up / height, label(series), size=10, color=INK, va="center")


def _legend_patch(figure: "Figure", series: Series, left: float, up: float, look: dict):
    from matplotlib.patches import Rectangle

    height = figure.get_figheight()
    thick = 0.05 if series.style == "ideal" else 0.12
    face = _face(series.style, look.get(series.name, (BASELINE,))[0])
    corner = (left / WIDTH, (up - thick / 2) / height)
    return Rectangle(corner, 0.2 / WIDTH, thick / height, transform=figure.transFigure, **face)


def _legend_mark(figure: "Figure", series: Series, left: float, up: float, look: dict):
    from matplotlib.lines import Line2D

    ideal, marks = series.style == "ideal", _marks(series, look)
    xs = [left / WIDTH, (left + 0.2) / WIDTH] if ideal else [(left + 0.12) / WIDTH]
    marks = marks if ideal else _dots(marks, 1)
    return Line2D(xs, [up / figure.get_figheight()] * len(xs), transform=figure.transFigure, **marks)


# ------------------------------------------------------------------------------------------------ axes


def _x_axis(axes: "Axes", values: list[float], exhibit: Chart) -> None:
    """Put ticks at the points themselves where they have room, else at round numbers."""
    low, high = (min(values), max(values)) if values else (1, 1)
    if exhibit.log_x:
        margin = max((high / low) ** 0.035, 1.08)
        axes.set_xscale("log")
        axes.set_xlim(max(low / margin, 1e-300), min(high * margin, 1e300))
        choices = [steps(low, high, (1, 2, 5)), steps(low, high, (1,))]
    else:
        margin = 0.03 * (high - low) or abs(low) / 10 or 1.0
        axes.set_xlim(low - margin, high + margin)
        choices = [_round_ticks(low, high, whole=all(v == int(v) for v in values))]
    points = sorted(set(values))
    choices = [points, *choices] if len(points) <= 10 else choices
    ticks = next((ticks for ticks in choices if ticks and _has_room(axes, ticks)), choices[-1])
    fixed_ticks(axes.xaxis, ticks, lambda value, _: _tick(value))
    axes.xaxis.grid(False)
    axes.set_xlabel(words.shown(exhibit.x, 70))


def _has_room(axes: "Axes", ticks: list[float]) -> bool:
    places = [axes.transData.transform((tick, 1))[0] / axes.figure.dpi for tick in ticks]
    wide = [0.09 * len(_tick(tick)) + 0.08 for tick in ticks]
    return all(b - a > (w + v) / 2 for a, b, w, v in zip(places, places[1:], wide, wide[1:], strict=False))


def _y_axis(axis, values: list[float], log: bool, bars: bool = False) -> float:
    """Set limits and ticks of the axis of values, and return where bars start."""
    axes, across = axis.axes, axis.axis_name == "x"
    ends = (min(values), max(values)) if values else (1.0, 1.0)
    low, high = _log_limits(*ends, bars) if log else _limits(*ends, bars)
    if log:
        (axes.set_xscale if across else axes.set_yscale)("log")
        ticks = steps(low, high, (1, 2, 5) if high / low < 200 else (1,)) or [low]
    else:
        ticks = _round_ticks(low, high)
    (axes.set_xlim if across else axes.set_ylim)(low, high)
    fixed_ticks(axis, ticks, lambda value, _: _tick(value))
    return low if log else 0.0


def _limits(low: float, high: float, bars: bool) -> tuple[float, float]:
    """Return the ends of a linear axis: bars start at 0, and so does the axis of lines that come near to it."""
    if bars or 0 <= low < 0.6 * high:
        low, high = min(low, 0.0), max(high, 0.0)
    margin = (high - low) * (0.14 if bars else 0.06) or abs(high) / 10 or 1.0
    return low if low == 0 else low - margin, high if high == 0 > low else high + margin


def _log_limits(low: float, high: float, bars: bool) -> tuple[float, float]:
    margin = max((high / low) ** 0.06, 1.15)
    low, high = (low / 2, high * margin**2) if bars else (low / margin, high * margin)
    return max(low, 1e-300), min(high, 1e300)


def _round_ticks(low: float, high: float, whole: bool = False) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(low, high)
    return [float(tick) for tick in ticks if low <= tick <= high]


def _tick(value: float) -> str:
    return short_count(float(f"{value:.6g}")) if abs(value) < 1e12 else f"{value:.3g}"


SHAPES = {"lines": _lines, "points": _points, "bars": _bars, "stacked": _stacked}
