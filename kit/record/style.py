"""The one style of every figure: colours, canvas, axes, and SVG that follows the page's light and dark.

Nothing here is global: a figure is matplotlib's own `Figure`, drawn within `applied()` and written by `to_svg`.
"""

import hashlib
import math
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kit.record import words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER, BASELINE, BAND = "#1c2026", "#5c6570", "#e4e7eb", "#ffffff", "#6d7580", "#eceef1"
PALETTE = ("#2271b5", "#c1530c", "#0d8463", "#8f55b5", "#996c0e", "#127f94", "#bf4578", "#6b7234")
"""Told apart by people with any common colour blindness, at least 4.5:1 against white paper, since names
are written in them, and 3:1 against near-black, where the page has lighter ones."""
MARKERS = "osD^vPX*"

THEME = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    BASELINE: "--baseline",
    BAND: "--band",
    **{colour: f"--series-{place}" for place, colour in enumerate(PALETTE, start=1)},
}
"""The CSS variable that stands for each colour in a themed SVG."""

LONGEST_LABEL = 30
"""Characters of a row's name."""

WIDTH = 6.4
"""Inches, at 100 SVG units an inch."""

FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
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
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
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
        yield


# ------------------------------------------------------------------------------------------------ axes


def canvas(height: float, left: float = 1.3, right: float = 0.4, bottom: float = 0.44, top: float = 0.76):
    """Return a figure and its axes with fixed margins in inches, so that equal figures stand in line on a page."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=100)
    box = (left / WIDTH, bottom / height, 1 - (left + right) / WIDTH, 1 - (bottom + top) / height)
    return figure, figure.add_axes(box)


def short_count(size: float) -> str:
    """Return a number for a tick: `250 k`, `1.5 M`."""
    for limit, factor, suffix in ((1e3, 1, ""), (1e6, 1e3, " k"), (1e9, 1e6, " M"), (1e12, 1e9, " G")):
        if abs(size) < limit:
            return f"{size / factor:g}{suffix}"
    return f"{size:g}"


def steps(low: float, high: float, digits: tuple[int, ...], most: int = 9) -> list[float]:
    """Return at most `most` round numbers from low to high: `digits` times powers of ten."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [step for d in decades for m in digits if low <= (step := float(f"{m}e{d}")) <= high]
    return inside[:: math.ceil(len(inside) / most)] if inside else []


def ratio_span(edges: list[float]) -> tuple[float, float]:
    """Return the ends of a logarithmic axis of ratios that holds `edges` with room on both sides."""
    low, high = min(edges), max(edges)
    room = max((high / low) ** 0.08, 1.04)
    return max(low / room, 1e-300), min(high * room, 1e300)


def fixed_ticks(axis, ticks: list[float], text) -> None:
    """Put ticks at `ticks` alone; text(tick, position) names each."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(text))


def room(labels: list[str], longest: int = LONGEST_LABEL) -> float:
    """Inches that the rows' labels take at the left."""
    return 0.2 + 0.085 * max([7, *(len(words.shown(label, longest)) for label in labels)])


def name_rows(axes: "Axes", labels: list[str], longest: int = LONGEST_LABEL) -> None:
    """Name the rows 0, 1, … from the top down."""
    axes.set_yticks(range(len(labels)), [words.shown(label, longest) for label in labels])
    axes.set_ylim(max(len(labels), 1) - 0.4, -0.6)
    axes.yaxis.grid(False)
    for text in axes.get_yticklabels():
        text.set_color(INK)


def spread(positions: list[float], gap: float) -> list[float]:
    """Return ascending `positions` moved as little as it takes to be `gap` apart.

    Neighbours that touch form a block around their common middle; blocks that touch merge.
    """
    blocks: list[tuple[float, int]] = []
    for position in positions:
        middle, size = position, 1
        while blocks and blocks[-1][0] + gap * blocks[-1][1] / 2 > middle - gap * size / 2:
            last, many = blocks.pop()
            middle, size = (last * many + middle * size) / (many + size), many + size
        blocks.append((middle, size))
    return [middle + gap * (place - (size - 1) / 2) for middle, size in blocks for place in range(size)]


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
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: 'DejaVu Sans'[^;\"]*", f"font-family: {FONT}", svg)
    svg = _slim(re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, flags=re.DOTALL))
    return _open_tag(figure, _own_ids(_with_theme(svg) if themed else svg), themed)


def _slim(svg: str) -> str:
    """Drop what no eye sees: digits beyond a hundredth of a point, line breaks, a font named at each text."""
    svg = re.sub(
        r' (?:d|x|y|transform|points|width|height)="[^"]*"',
        lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0].replace("\n", " ").replace(' "', '"')),
        svg,
    )
    svg = svg.replace(f"; font-family: {FONT}", "").replace(f"font-family: {FONT}; ", "")
    svg = re.sub(r' transform="rotate\(-?0(?:\.0+)? [^"]*\)"', "", svg)
    svg = re.sub(r">\s*\n\s*<", "><", svg)
    svg = re.sub(r'(?:<use [^>]*? style="([^"]*)"/>)(?:<use [^>]*? style="\1"/>)+', _in_one_style, svg)
    return re.sub(r"<g>((?:(?!</?g\b).)*)</g>", r"\1", svg, flags=re.DOTALL)


def _in_one_style(run: re.Match) -> str:
    """Say once what neighbouring markers all say."""
    style = f' style="{run[1]}"'
    return f"<g{style}>{run[0].replace(style, '')}</g>"


def _with_theme(svg: str) -> str:
    for colour, variable in THEME.items():
        svg = svg.replace(colour, f"var({variable}, {colour})")
    return svg


def _own_ids(svg: str) -> str:
    """Drop the ids that nothing refers to and make the rest this figure's own: many SVGs share one page."""
    svg = svg.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace("xlink:href", "href")
    own = f"k{hashlib.sha256(svg.encode()).hexdigest()[:8]}"
    used = set(re.findall(r'url\(#([^)"]+)\)|href="#([^"]+)"', svg))
    names = {name for pair in used for name in pair if name}
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{own}{found[1]}"' if found[1] in names else "", svg)
    return re.sub(r'(url\(#|href="#)', rf"\1{own}", svg)


def _open_tag(figure: "Figure", svg: str, themed: bool) -> str:
    """Give the element a name for those who can't see it, and the joins that matplotlib sets for a whole document."""
    from html import escape

    width, height = (figure.get_figwidth() * 72, figure.get_figheight() * 72)
    label = escape(words.shown(figure.get_label(), 600), quote=True)
    size = "" if themed else f' width="{width:g}pt" height="{height:g}pt"'
    joins = f"stroke-linejoin: round; stroke-linecap: butt; font-family: {FONT}"
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}"{size}'
        f' viewBox="0 0 {width:g} {height:g}" style="{joins}">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
