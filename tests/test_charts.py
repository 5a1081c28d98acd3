"""A technique's own charts: what is drawn, that it can be read, and that nothing breaks it."""

import itertools
import math
from xml.etree import ElementTree

import pytest
from record_factory import make_record

from kit import Chart, Series
from kit.record import charts, figures, style

RANKS, FAR = [1, 2, 4], [1, 2, 4, 8, 16]
EFFICIENCY = Chart(
    "Efficiency, higher is better",
    "ranks",
    "efficiency, %",
    [
        Series("DDP", RANKS, [100, 91, None], [99, 88, None], [101, 94, None]),
        Series("DDP", FAR, [100, 90, 80, 71, 64], style="modelled"),
        Series("linear", FAR, [100] * 5, style="ideal"),
    ],
    log_x=True,
)
PARTS = ["one process", "DDP", "pipeline"]
SHARES = Chart(
    "Step time, lower is better",
    "strategy",
    "ms a step",
    [Series(name, PARTS, [30, 25.5, 20]) for name in ("forward", "backward", "communication")],
    shape="stacked",
)
MEMORY = Chart("Memory, lower is better", "engine", "MiB", [Series("peak", ["pandas", "Polars"], [800, 320])], "bars")

TRIED = Chart(
    "Loss of each trial, lower is better",
    "learning rate",
    "log loss",
    [
        Series("random", [1e-4, 1e-3, 1e-2, 1e-1], [3, 0.5, None, 2], [2, 0.4, None, 1.5], [4, 0.6, None, 2.5]),
        Series("TPE", [2e-3, 8e-3], [0.3, 0.2], style="modelled"),
        Series("defaults", [1e-4, 1e-1], [0.9, 0.9], style="ideal"),
    ],
    "points",
    log_x=True,
)


def svg(chart: Chart, look=None, themed=False) -> str:
    return style.to_svg(charts.chart(chart, look), themed)


def texts(chart: Chart) -> list[str]:
    return [text.strip() for text in ElementTree.fromstring(svg(chart)).itertext() if text.strip()]


@pytest.mark.parametrize("chart", [EFFICIENCY, SHARES, MEMORY, TRIED], ids=lambda chart: chart.shape)
def test_a_chart_says_title_unit_and_names_as_text(chart):
    """Title, unit and every name stand in the SVG as text, which a reader can search and a screen reader reads."""
    said = " | ".join(texts(chart))
    assert chart.title in said and chart.y in said
    wanted = {
        "lines": ["DDP", "ranks"],
        "points": ["random", "TPE, modelled", "defaults", "learning rate"],
        "bars": ["800"],
        "stacked": [*PARTS, "forward", "90.0", "76.5"],
    }[chart.shape]
    assert not [word for word in wanted if word not in said]


def test_modelled_is_dashed_hollow_and_named_so():
    """What was not measured never looks as if it had been: dashes, hollow marks, and the word itself."""
    assert {"DDP", "DDP, modelled", "linear"} <= set(texts(EFFICIENCY))
    only = Chart("t", "x", "y", [Series("DDP", FAR, [5, 4, 3, 2, 1], style="modelled")])
    drawn, measured = svg(only), svg(Chart("t", "x", "y", [Series("DDP", FAR, [5, 4, 3, 2, 1])]))
    assert "stroke-dasharray" in drawn and "stroke-dasharray" not in measured
    assert drawn.count(f"fill: {style.PAPER}") > measured.count(f"fill: {style.PAPER}")
    bars = svg(Chart("t", "x", "y", [Series("DDP", ["a"], [5], style="modelled")], "bars"))
    assert "stroke-dasharray" in bars and "modelled" in bars


def test_an_ideal_is_a_thin_grey_line():
    """What is ideal takes no colour of a variant."""
    drawn = svg(Chart("t", "x", "y", [Series("linear", FAR, FAR, style="ideal")]))
    assert style.BASELINE in drawn and not any(colour in drawn for colour in style.PALETTE)


def test_a_variant_has_its_colour_in_every_chart():
    """A series or a bar that bears a variant's name has that variant's colour, the baseline grey; others get free
    ones."""
    look = figures.looks(make_record())
    bars = svg(MEMORY, look)
    assert look["Polars"][0] in bars and style.BASELINE in bars
    lines = Chart("t", "x", "y", [Series("new", FAR, FAR), Series("DuckDB", FAR, FAR), Series("pandas", FAR, FAR)])
    drawn = svg(lines, look)
    assert look["DuckDB"][0] in drawn and style.BASELINE in drawn and style.PALETTE[0] in drawn


def test_intervals_are_drawn_and_named():
    """Where there is an interval it is drawn, and the chart says what the bars are."""
    plain = Chart("t", "x", "y", [Series("a", RANKS, [3, 2, 1])])
    known = Chart("t", "x", "y", [Series("a", RANKS, [3, 2, 1], [2.5, 1.5, 0.9], [3.5, 2.5, 1.2])])
    assert any("bars: interval" in text for text in texts(known))
    assert svg(known).count("<path") > svg(plain).count("<path")


def test_a_gap_is_no_zero():
    """A missing value leaves a gap in a line and a dash in place of a bar."""
    assert "—" in texts(Chart("t", "x", "y", [Series("a", ["p", "q"], [1.5, None])], "bars"))
    assert "—" in texts(Chart("t", "x", "y", [Series("a", ["p", "q"], [1.5, None])], "stacked"))
    assert "DDP 100 at 1 to 91.0 at 2; DDP, modelled 100 at 1 to 64.0 at 16" in charts.in_words(EFFICIENCY)


def test_points_have_nothing_between_them():
    """Points are marks without a line, hollow where modelled; a gap is no point; what is ideal is a thin grey line."""
    figure = charts.chart(TRIED)
    drawn = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1 and line.get_marker() != "_"]
    assert [(len(line.get_xdata()), line.get_linestyle()) for line in drawn] == [(3, "None"), (2, "None"), (2, "-")]
    assert [line.get_markerfacecolor() == style.PAPER for line in drawn[:2]] == [False, True]
    assert drawn[2].get_color() == style.BASELINE and any("bars: interval" in text for text in texts(TRIED))


def test_points_in_words():
    """Who can't see points is told how many there are, and where the lowest and the highest are."""
    told = charts.in_words(TRIED)
    assert "random 3 points, from 0.500 at 0.00100 to 3.00 at 0.000100" in told
    assert "defaults 0.900 at 0.000100 to 0.900 at 0.100" in told


def boxes(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    with style.applied():
        FigureCanvasAgg(figure).draw()
        every = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
        found = [(text.get_text(), text.get_window_extent()) for text in every]
    return [(text, box) for text, box in found if box.width > 1]


CROWDED = {
    "8 lines": Chart(
        "Eight lines that end at the same place, lower is better",
        "batch",
        "seconds",
        [Series(f"strategy number {n}", [1, 2, 4, 8], [9 - n / 99, 5, 3, 1]) for n in range(8)],
        log_x=True,
    ),
    "10 points": Chart("Ten points", "size", "s", [Series("a", [1000 * n for n in range(1, 11)], range(10))]),
    "8 clouds": Chart(
        "Eight clouds of points, lower is better",
        "learning rate",
        "loss",
        [Series(f"search number {n}", [10**-k for k in range(6)], [k + n / 9 for k in range(6)]) for n in range(8)],
        "points",
        log_x=True,
        log_y=True,
    ),
    "16 categories": Chart(
        "Sixteen categories with long names, and a title that is so long that it needs a second line",
        "layer",
        "points",
        [
            Series(n, [f"transformer.block.{k}.attention" for k in range(16)], range(16))
            for n in ("int8", "int4", "fp8")
        ],
        "bars",
    ),
    "8 parts": Chart(
        "Eight parts",
        "strategy",
        "ms",
        [Series(f"part number {n}", [f"strategy {k}" for k in range(16)], [5] * 16) for n in range(8)],
        "stacked",
    ),
    "modelled": Chart("Modelled", "x", "y", [Series("a name that goes on", FAR, FAR, style="modelled")]),
}


@pytest.mark.parametrize("name", CROWDED)
def test_nothing_overlaps_and_nothing_is_cut(name):
    """With eight lines, sixteen categories, long names and titles, no two texts touch and none leaves the paper."""
    figure = charts.chart(CROWDED[name])
    found = boxes(figure)
    width, height = figure.get_size_inches() * 100
    outside = [text for text, box in found if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height]
    touching = [
        (text, other) for (text, box), (other, beside) in itertools.combinations(found, 2) if box.overlaps(beside)
    ]
    assert not outside and not touching


@pytest.mark.parametrize("bad", [0.0, -1.0, 1e308, -1e308, 5e-324, math.nan, math.inf, None])
@pytest.mark.parametrize("shape", ["lines", "points", "bars", "stacked"])
@pytest.mark.parametrize("log", [False, True])
def test_absurd_numbers_never_break_a_chart(bad, shape, log):
    """Whatever number a record may hold is drawn or left out, on linear and on logarithmic axes."""
    if shape == "stacked" and (bad or 0) < 0:
        bad = 0.0
    x = [1, 2, 3, 1e307] if shape in ("lines", "points") else ["a", "b", "c", "d"]
    for y in ([bad] * 4, [1.0, bad, 2.0, bad]):
        chart = Chart("t", "x", "y", [Series("a", x, y, y, y), Series("b", x[:1], y[:1])], shape, log, log)
        ElementTree.fromstring(svg(chart))


def test_what_is_too_much_is_counted():
    """Series and categories beyond what can be read are counted in the chart."""
    many = [Series(f"s{n}", RANKS, [n, n, n]) for n in range(20)]
    assert any("8 more in the record" in text for text in texts(Chart("t", "x", "y", many)))
    wide = Chart("t", "x", "y", [Series("a", [f"c{n}" for n in range(30)], range(30))], "bars")
    assert any("6 more in the record" in text for text in texts(wide))
    cloud = Chart("t", "x", "y", [Series("a", range(2000), range(2000))], "points")
    assert any("1500 more in the record" in text for text in texts(cloud))


def test_the_same_chart_is_the_same_bytes_and_follows_the_theme():
    """A chart is drawn the same every time, with colours that a page can turn dark."""
    assert svg(EFFICIENCY, themed=True) == svg(EFFICIENCY, themed=True)
    assert "var(--series-1, #2271b5)" in svg(EFFICIENCY, themed=True)


def test_long_curves_stay_small():
    """A loss curve of ten thousand steps has no mark on every point, and intervals become a band."""
    steps = list(range(10_000))
    loss = [math.exp(-step / 2000) for step in steps]
    drawn = svg(Chart("Loss", "step", "nats", [Series("a", steps, loss, loss, loss)]))
    assert len(drawn) < 1_000_000 and drawn.count("<use") < 60
