"""Draws speed-ups over the dates of their runs: intervals as bars, a change of level as a line where it happened."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kit.record import words
from kit.record.style import INK, MUTED, PALETTE, WIDTH, applied, canvas, fixed_ticks, ratio_span, spread, steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 6
"""Variants in one figure, those that changed first."""


@dataclass(frozen=True)
class Dated:
    """One variant: dates as records write them, ratios, their intervals, and the positions at which it changed."""

    name: str
    written: list[str]
    ratios: list[float]
    lows: list[float | None]
    highs: list[float | None]
    turns: list[int]


def history(
    lines: list[Dated], baseline: str, at: str, said: list[str], look: dict[str, tuple[str, str]] | None = None
) -> "Figure":
    """Return the speed-ups over `baseline` by date. at: the size in words; said: what is told of each, for those who
    can't see it; look: colour and marker of each variant, see `figures.looks`."""
    drawn = sorted(lines, key=lambda line: not line.turns)[:MOST_LINES]
    with applied():
        names = max((len(line.name) for line in drawn), default=0)
        figure, axes = canvas(3.4, left=0.9, right=min(0.5 + 0.09 * names, 2.4), bottom=0.5)
        axes.axhline(1, color=MUTED, linewidth=1.2, zorder=1)
        ends = [_draw(axes, line, *_look(look, line.name, place)) for place, line in enumerate(drawn)]
        _ratios(axes, [1.0, *(edge for line in drawn for edge in _edges(line))])
        _dates(axes, [date for line in drawn for date in map(moment, line.written)])
        _label_ends(axes, ends)
        title = f"Speed-up over {words.shown(baseline, 24)} by date, higher is better"
        more = f"{len(lines) - len(drawn)} more variants" if len(lines) > len(drawn) else ""
        marks = " · ".join(part for part in (at, "bars: interval", "dashed: a change of level", more) if part)
        left, height = 0.1 / WIDTH, figure.get_figheight()
        figure.text(left, 1 - 0.27 / height, title, size=12, weight="bold", color=INK)
        figure.text(left, 1 - 0.5 / height, words.shown(marks, 110), size=9.5, color=MUTED)
        figure.set_label(f"{title}. {'. '.join(said)}.")
    return figure


def moment(written: str) -> datetime:
    """Return when a record was written; the first of all days for a text that is no date."""
    try:
        found = datetime.fromisoformat(written)
    except ValueError:
        return datetime(1970, 1, 1, tzinfo=UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _look(look: dict | None, name: str, place: int) -> tuple[str, str]:
    return (look or {}).get(name, (PALETTE[place % len(PALETTE)], "o"))


def _edges(line: Dated) -> list[float]:
    return [edge for edges in (line.ratios, line.lows, line.highs) for edge in edges if edge and edge > 0]


def _draw(axes: "Axes", line: Dated, colour: str, marker: str) -> tuple:
    """Draw one variant; return its last point, name and colour for the label."""
    dates = [moment(written) for written in line.written]
    for date, low, high in zip(dates, line.lows, line.highs, strict=True):
        if low and high and low > 0:
            axes.plot([date, date], [low, high], color=colour, linewidth=1.4, alpha=0.5, zorder=2)
    axes.plot(dates, line.ratios, color=colour, marker=marker, markersize=4.5, linewidth=1.2, zorder=3)
    for turn in line.turns:
        axes.axvline(dates[turn], color=colour, linewidth=1.4, linestyle=(0, (4, 3)), zorder=1)
    return dates[-1], line.ratios[-1], words.shown(line.name, 24), colour


CLOSEST = 0.11
"""Share of the axis that is left between two ticks, so that their names don't touch."""


def _ratios(axes: "Axes", edges: list[float]) -> None:
    """Make the y axis a logarithmic one of ratios, ticks near 1 where it is short."""
    low, high = ratio_span(edges)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    fixed_ticks(axes.yaxis, _ticks(low, high), lambda ratio, _: f"{ratio:,.6g}×")


def _ticks(low: float, high: float) -> list[float]:
    """Return round ratios from low to high, 1 among them where it lies there, and none too near another."""
    kept: list[float] = []
    gap = CLOSEST * (math.log(high) - math.log(low))
    for ratio in sorted(_round(low, high), key=lambda ratio: (ratio != 1, abs(math.log(ratio)))):
        if all(abs(math.log(ratio) - math.log(other)) >= gap for other in kept):
            kept.append(ratio)
    return sorted(kept) or [1.0]


def _round(low: float, high: float) -> list[float]:
    if high / low > 4:
        digits = (1, 2, 3, 5) if high / low < 30 else (1, 2, 5) if high / low < 200 else (1,)
        return steps(low, high, digits, most=1000)
    tens = range(math.floor(math.log10(low)) - 2, 302)
    step = next(step for d in tens for m in (1, 2, 5) if (high - low) / (step := float(f"{m}e{d}")) <= 8)
    return [float(f"{n * step:.6g}") for n in range(math.ceil(low / step), math.floor(high / step) + 1) if n]


def _label_ends(axes: "Axes", ends: list[tuple]) -> None:
    """Name each line beside its last point, names pushed apart where they would touch."""
    from matplotlib.dates import date2num

    def height(end: tuple) -> float:
        return float(axes.transData.transform((date2num(end[0]), end[1]))[1])

    placed = sorted(ends, key=height)
    heights = spread([height(end) for end in placed], axes.figure.dpi * 0.19)
    for at, (_, _, name, colour) in zip(heights, placed, strict=True):
        spot = (1.02, (at - axes.bbox.y0) / axes.bbox.height)
        axes.text(*spot, name, transform=axes.transAxes, color=colour, va="center", weight="bold", clip_on=False)


def _dates(axes: "Axes", dates: list[datetime]) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=2, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    first, last = min(dates), max(dates)
    room = (last - first) * 0.03
    if first < last:
        axes.set_xlim(first - room, last + room)
    axes.xaxis.grid(False)
