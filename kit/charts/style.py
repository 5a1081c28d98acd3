"""The one style of every figure: colours, layout, axes, and SVG that follows the page's light and dark.

Nothing here is global: a figure is matplotlib's own `Figure`, drawn within `applied()` and written by `to_svg`.
"""

import hashlib
import re
import textwrap
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING

from kit.record import formatting as fmt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER, BASELINE, BAND = "#1c2026", "#5c6570", "#e4e7eb", "#ffffff", "#6d7580", "#eceef1"
PALETTE = ("#2271b5", "#c1530c", "#0d8463", "#8f55b5", "#996c0e", "#127f94", "#bf4578", "#6b7234")
"""Different to people with any common colour blindness; at least 4.5:1 against white paper, since names are written in
them, and 3:1 against near-black, where the page has lighter ones."""
MARKERS = "osD^vPX*"

THEME = {
    **{INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper", BASELINE: "--baseline", BAND: "--band"},
    **{colour: f"--series-{place}" for place, colour in enumerate(PALETTE, start=1)},
}
"""The CSS variable that replaces each colour in a themed SVG."""

WIDTH = 4.8
"""Inches: a figure is legible when a page of 390 pixels scales it to its width."""
LONGEST_LABEL = 30

FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "kit",
}


@contextmanager
def applied():
    """Set the style around drawing and saving; glyphs that the measuring font lacks are the browser's concern."""
    import warnings

    from matplotlib import rc_context

    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        yield


def canvas(height: float, title: str, subtitle: str = "") -> tuple["Figure", "Axes"]:
    """Return a figure and its axes of `height` inches below a title, with its direction, and a line under it."""
    from matplotlib.figure import Figure
    from matplotlib.transforms import ScaledTranslation

    lines = textwrap.wrap(fmt.shown(title, 160), 52)
    under = textwrap.wrap(fmt.shown(subtitle, 200), 68)
    figure = Figure(figsize=(WIDTH, height), dpi=100, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.04)
    down = 0.08
    for text, (size, step) in [*((line, (10, 0.19)) for line in lines), *((line, (9, 0.165)) for line in under)]:
        below_top = figure.transFigure + ScaledTranslation(0, -down, figure.dpi_scale_trans)
        style = {"weight": "bold", "color": INK} if size == 10 else {"color": MUTED}
        figure.text(0.02, 1, text, size=size, va="top", transform=below_top, **style)
        down += step
    _heighten(figure, down)
    return figure, figure.add_subplot()


def _heighten(figure: "Figure", inches: float) -> None:
    """Add so much room above the axes."""
    engine, height = figure.get_layout_engine(), figure.get_figheight()
    inside = engine.get()["rect"][3] * height
    figure.set_figheight(height + inches)
    engine.set(rect=(0, 0, 1, inside / (height + inches)))


def legend(figure: "Figure", axes: "Axes") -> None:
    """Name the series above the axes, if there is more than one."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) < 2 and not any(name.endswith(", modelled") for name in names):
        return
    columns = max(1, min(len(names), int(60 / (max(map(len, names)) + 6))))
    rows = -(-len(names) // columns)
    top = figure.get_layout_engine().get()["rect"][3] * figure.get_figheight() + 0.18 * rows + 0.06
    _heighten(figure, 0.18 * rows + 0.06)
    place = (0.005, top / figure.get_figheight())
    box = figure.legend(handles, names, loc="upper left", bbox_to_anchor=place, ncols=columns, borderaxespad=0)
    box.set_in_layout(False)


def name_rows(axes: "Axes", labels: list[str], longest: int = 24) -> None:
    """Name the rows 0, 1, … from the top down."""
    axes.set_yticks(range(len(labels)), [fmt.shown(label, longest) for label in labels])
    axes.set_ylim(max(len(labels), 1) - 0.4, -0.6)
    axes.yaxis.grid(False)
    for text in axes.get_yticklabels():
        text.set_color(INK)


def drawable(values: Iterable[float | None], log: bool = True) -> list[float]:
    """Return the values that matplotlib can place on an axis."""
    return [v for v in values if v is not None and abs(v) < 1e300 and (not log or v > 1e-300)]


def log_axis(axis, values: Iterable[float | None], text: Callable[[float], str] = fmt.short) -> None:
    """Make an axis logarithmic with room around `values`: ticks at 1-2-5 steps, or evenly where it is short."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    found = drawable(values) or [1.0]
    low, high = min(found), max(found)
    room = max((high / low) ** 0.07, 1.06)
    low, high = max(low / room, 1e-300), min(high * room, 1e300)
    axes = axis.axes
    across = axis.axis_name == "x"
    (axes.set_xscale if across else axes.set_yscale)("log")
    (axes.set_xlim if across else axes.set_ylim)(low, high)
    steps = (1.0, 2.0, 5.0) if high / low < 200 else (1.0,)
    locator = MaxNLocator(5, steps=[1, 2, 5, 10]) if high / low < 4 else LogLocator(subs=steps, numticks=7)
    axis.set_major_locator(locator)
    axis.set_minor_locator(NullLocator())
    zeros = r"\.0+(?!\d)|(?<=\.\d)0+(?!\d)"  # 0.50× is 0.5×
    axis.set_major_formatter(FuncFormatter(lambda value, _: re.sub(zeros, "", text(float(f"{value:.6g}")))))


def linear_axis(axis, whole: bool = False) -> None:
    """Give a linear axis a few round ticks."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(6, integer=whole, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.5g}" if 0.01 < abs(value) < 999 else fmt.short(value))
    )


# ------------------------------------------------------------------------------------------------ SVG


def to_svg(figure: "Figure", themed: bool = False) -> str:
    """Return the figure as one `<svg>` element, text as text, the same bytes for the same figure.

    themed: colours become CSS variables with the light colours as fall-back (`var(--ink, #1c2026)`), the paper is
    transparent, and the size is left to the page, for inlining in HTML that follows light and dark.
    """
    from io import StringIO

    page = StringIO()
    with applied():
        figure.savefig(page, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = page.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: 'DejaVu Sans'[^;\"]*", f"font-family: {FONT}", svg)
    svg = re.sub(r' (?:d|x|y|transform|points|width|height)="[^"]*"', _rounded, svg)
    svg = re.sub(r">\s*\n\s*<", "><", svg.replace(f"; font-family: {FONT}", "").replace(f"font-family: {FONT}; ", ""))
    if themed:
        for colour, variable in THEME.items():
            svg = svg.replace(colour, f"var({variable}, {colour})")
    return _open_tag(figure, _own_ids(svg), themed)


def _rounded(found: re.Match) -> str:
    """Drop digits below a hundredth of a point, and line breaks."""
    return re.sub(r"(\.\d\d)\d+", r"\1", found[0].replace("\n", " ").replace(' "', '"'))


def _own_ids(svg: str) -> str:
    """Drop the ids that nothing refers to and make the rest this figure's own: many SVGs share one page."""
    svg = svg.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace("xlink:href", "href")
    own = f"k{hashlib.sha256(svg.encode()).hexdigest()[:8]}"
    used = {name for pair in re.findall(r'url\(#([^)"]+)\)|href="#([^"]+)"', svg) for name in pair if name}
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{own}{found[1]}"' if found[1] in used else "", svg)
    return re.sub(r'(url\(#|href="#)', rf"\1{own}", svg)


def _open_tag(figure: "Figure", svg: str, themed: bool) -> str:
    """Give the element its description as text, and the joins that matplotlib sets for a whole document."""
    width, height = (figure.get_figwidth() * 72, figure.get_figheight() * 72)
    size = "" if themed else f' width="{width:g}pt" height="{height:g}pt"'
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(fmt.shown(figure.get_label(), 600))}"'
        f'{size} viewBox="0 0 {width:g} {height:g}" style="stroke-linejoin: round; stroke-linecap: butt; '
        f'font-family: {FONT}">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
