"""Figures of records and a technique's own charts: what is drawn, that it can be read, and that nothing breaks it."""

import itertools
import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import msgspec
import pytest
from record_factory import Made, make_record

from kit import Chart, Series
from kit.charts import figures, style
from kit.charts.chart import draw
from kit.record.document import Effect
from kit.techniques.training.figures import timeline

MIXED = {
    "pandas": Made(),
    "Polars": Made(ratio=6),
    "Wrong": Made(ratio=9, broken="3 rows differ"),
    "cuDF": Made(state="skipped", reason="no NVIDIA driver"),
    "Boom": Made(state="failed", reason="killed by SIGKILL"),
    "crowd": Made(not_timed="4 ranks on 2 cores"),
}
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
    "long names": make_record(
        {
            f"tensor parallelism, {number}, on four ranks and two nodes": made
            for number, made in enumerate(
                [
                    Made(),
                    Made(ratio=1.02),
                    Made(ratio=7),
                    Made(not_timed="4 ranks on 2 cores, which measures nothing here"),
                    Made(ratio=2, broken="a step's loss differs by 0.2"),
                ]
            )
        },
        sizes=[32],
        noise=0.1,
        unit="samples/step",
    ),
}


@pytest.fixture(scope="module")
def mixed():
    return make_record(MIXED, sizes=[10_000, 1_000_000])


def drawn(record) -> dict:
    point = record.points[-1]
    return {
        "curve": figures.scaling_curve(record),
        "speedups": figures.speedups(record, point),
        "memory": figures.memory(record),
        "measurements": figures.measurements(record, point),
    }


def svg(chart: Chart, look=None) -> str:
    return style.to_svg(draw(chart, look), themed=True)


def texts(figure) -> str:
    return " | ".join(text.strip() for text in ElementTree.fromstring(style.to_svg(figure)).itertext() if text.strip())


def test_a_figure_of_a_record_has_direction_units_and_intervals(mixed):
    found = {name: texts(figure) for name, figure in drawn(mixed).items()}
    assert all("lower is better" in found[name] for name in ("curve", "memory"))
    assert all("higher is better" in found[name] for name in ("speedups", "measurements"))
    assert (
        "ms" in found["curve"] and "rows" in found["curve"] and "1×" in found["speedups"] and "MiB" in found["memory"]
    )
    assert "95 % CI" in found["speedups"] and "6.0× (6.0–6.1)" in found["speedups"]
    assert figures.median_interval([float(n) for n in range(1, 21)]) == (6.0, 15.0)


def test_what_was_not_measured_is_not_drawn_as_measured(mixed):
    """Failed, rejected and untimed variants are named with their reason; none has a speed-up."""
    found = {name: texts(figure) for name, figure in drawn(mixed).items()}
    for text in ("failed: killed by SIGKILL", "rejected: check failed: 3 rows differ", "checked, not timed: 4 ranks"):
        assert text in found["speedups"]
    assert "9.0×" not in found["speedups"] and "Wrong, rejected" in found["curve"] and "Wrong" not in found["memory"]
    assert not any(name in found["curve"] for name in ("cuDF", "crowd")) and "Wrong" not in found["measurements"]


def test_a_variant_has_one_colour_everywhere_and_the_baseline_is_grey(mixed):
    """Colours go by name in the order of declaration over all records of a page; baselines are grey."""
    other = make_record({"pandas": Made(), "DuckDB": Made(), "Polars": Made()})
    look = figures.looks(mixed, other)
    assert look["pandas"][0] == look["A/A"][0] == style.BASELINE
    assert look["Polars"] == figures.looks(mixed)["Polars"]
    against = make_record({"DuckDB": Made(), "Polars": Made()})  # DuckDB is its baseline, and a variant of the other
    assert figures.looks(other, against)["DuckDB"][0] != style.BASELINE == figures.looks(against)["DuckDB"][0]
    many = figures.looks(make_record({f"v{i}": Made() for i in range(40)}, sizes=[100]))
    assert len({pair for name, pair in many.items() if name not in ("v0", "A/A")}) == 39


def test_svg_is_deterministic_text_without_date(mixed):
    """The same record gives the same bytes, with text as text, no metadata, and one element only."""
    first, second = (style.to_svg(figures.scaling_curve(mixed), themed=True) for _ in range(2))
    assert first == second
    assert first.startswith("<svg") and "<text" in first and "metadata" not in first and "<style" not in first
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", first)


def test_a_themed_svg_has_only_variables_for_colours(mixed):
    """Every colour of a themed SVG is a CSS variable with a fall-back, so that it follows light and dark."""
    for figure in drawn(mixed).values():
        svg = style.to_svg(figure, themed=True)
        assert not re.search(r"(?<!, )#[0-9a-f]{6}", re.sub(r"url\(#[^)]*\)|href=\"#[^\"]*\"|id=\"[^\"]*\"", "", svg))
        assert "var(--ink, #1c2026)" in svg


def test_two_svgs_share_no_id(mixed):
    """The figures of one page have no id in common, and every reference in them is met."""
    svgs = [style.to_svg(figure, themed=True) for figure in drawn(mixed).values()]
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in svgs]
    every = [name for own in ids for name in own]
    assert every and len(every) == len(set(every))
    for svg, own in zip(svgs, ids, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', svg)) <= set(own)


def test_hostile_names_are_drawn_as_text():
    """Markup, dollars, right-to-left marks and very long names are text in the figure, and nothing breaks."""
    names = ["pandas", "<script>alert(1)</script>", "$\\frac{$", "\u202eevil", "x" * 100_000, "名前", ""]
    record = make_record({name: Made(ratio=2) for name in names}, sizes=[10, 100], unit="$\\x$<b>")
    for figure in drawn(record).values():
        svg = style.to_svg(figure, themed=True)
        ElementTree.fromstring(svg)
        assert "<script" not in svg and "\u202e" not in svg and len(svg) < 300_000


@pytest.mark.parametrize("bad", [0.0, -1.0, 1e308, math.nan])
def test_absurd_numbers_are_left_out(bad):
    """A number that has no place on an axis is not drawn, and never breaks the figure."""
    record = make_record({"pandas": Made(), "Odd": Made(ratio=2)}, sizes=[10, 100])
    point = record.points[-1]
    odd = msgspec.structs.replace(
        point.variants[1],
        effect=Effect(speedup=bad, low=bad, high=bad, rounds=20, confidence=0.99),
        memory=msgspec.structs.replace(point.variants[1].memory, peak_mib=bad),
    )
    point.sessions[0].measurements["Odd"].wall_s[0] = bad
    broken = msgspec.structs.replace(point, variants=[point.variants[0], odd], size=bad)
    for figure in drawn(msgspec.structs.replace(record, points=[record.points[0], broken])).values():
        ElementTree.fromstring(style.to_svg(figure))


def test_many_variants_are_capped_and_counted():
    record = make_record({f"v{i}": Made(ratio=1 + i / 10) for i in range(40)}, sizes=[100])
    assert "27 more in the table" in texts(figures.speedups(record, record.points[0]))


def test_figures_import_matplotlib_late_and_leave_it_as_it_was():
    """No backend is chosen, no global figure made, no style kept: a notebook's own settings stay."""
    code = (
        "import sys; import kit.charts.figures, kit.charts.chart; assert 'matplotlib' not in sys.modules;"
        "sys.path.insert(0, 'tests'); from matplotlib import rcParams;"
        "state = lambda: {key: rcParams[key] for key in rcParams if key != 'backend'}; before = state();"
        "from record_factory import make_record; from kit.charts import figures, style;"
        "style.to_svg(figures.scaling_curve(make_record()));"
        "assert 'matplotlib.pyplot' not in sys.modules; assert state() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("chart", [EFFICIENCY, SHARES, MEMORY, TRIED, timeline()], ids=lambda chart: chart.shape)
def test_a_chart_has_title_units_and_names_as_text(chart):
    found = texts(draw(chart))
    assert all(text in found for text in (chart.title, chart.x if chart.shape in ("lines", "points") else chart.y))
    names = {series.name for series in chart.series} if len(chart.series) > 1 else chart.series[0].x
    assert all(name in found for name in names)
    assert chart.title in re.search(r'aria-label="([^"]*)"', svg(chart))[1]


def test_modelled_is_dashed_and_labelled_and_an_ideal_is_grey():
    """A model's numbers are never mistaken for measured ones."""
    found = svg(EFFICIENCY)
    assert "DDP, modelled" in found and "var(--baseline, #6d7580)" in found
    alone = Chart("t", "x", "y", [Series("a", [1, 2], [1, 2], style="modelled")])
    assert "a, modelled" in svg(alone) and "stroke-dasharray" in svg(alone)


def test_a_variant_has_its_colour_in_every_chart():
    """Also as the category of a bar; other series get none of the variants' colours."""
    look = figures.looks(make_record({"pandas": Made(), "Polars": Made()}, sizes=[10]))
    assert look["Polars"][0] in svg(MEMORY, look) and look["pandas"][0] in svg(MEMORY, look)


def test_intervals_are_drawn_and_gaps_are_no_zeros():
    assert "bars: interval" in texts(draw(EFFICIENCY))
    bars = Chart("t", "x", "y", [Series("a", ["p", "q"], [None, 2.0])], "bars")
    assert "—" in texts(draw(bars)) and "unknown" not in texts(draw(bars))


@pytest.mark.parametrize("name", CROWDED)
def test_nothing_overlaps_and_nothing_is_cut(name):
    """With eight lines, sixteen categories, long names and titles, no two texts touch and none leaves the paper."""
    crowded = CROWDED[name]
    figure = draw(crowded) if isinstance(crowded, Chart) else figures.speedups(crowded, crowded.points[0])
    found = boxes(figure)
    width, height = figure.get_size_inches() * 100
    outside = [text for text, box in found if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1]
    touching = [
        (a, b) for (a, one), (b, two) in itertools.combinations(found, 2) if one.padded(-1).overlaps(two.padded(-1))
    ]
    assert not outside and not touching


def boxes(figure) -> list:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    with style.applied():
        FigureCanvasAgg(figure).draw()
        hidden = {text for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for text in axis.get_ticklabels()}
        hidden -= {
            tick.label1 for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for tick in axis._update_ticks()
        }
        every = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
        found = [(text.get_text(), text.get_window_extent()) for text in every if text not in hidden]
    return [(text, box) for text, box in found if box.width > 1]


@pytest.mark.parametrize("bad", [-1.0, 1e308, 5e-324, math.inf, None])
@pytest.mark.parametrize("shape", ["lines", "points", "bars", "stacked"])
@pytest.mark.parametrize("log", [False, True])
def test_absurd_numbers_never_break_a_chart(bad, shape, log):
    """Whatever number a record may hold is drawn or left out, on linear and on logarithmic axes."""
    if shape == "stacked" and (bad or 0) < 0:
        bad = 0.0
    x = [1, 2, 3, 1e307] if shape in ("lines", "points") else ["a", "b", "c", "d"]
    y = [1.0, bad, 2.0, bad]
    chart = Chart("t", "x", "y", [Series("a", x, y, y, y), Series("b", x[1:2], y[1:2])], shape, log, log)
    ElementTree.fromstring(svg(chart))


def test_what_is_too_much_is_counted():
    """Series, categories and points beyond what can be read are counted in the chart."""
    many = [Series(f"s{n}", RANKS, [n, n, n]) for n in range(20)]
    wide = Chart("t", "x", "y", [Series("a", [f"c{n}" for n in range(30)], range(30))], "bars")
    cloud = Chart("t", "x", "y", [Series("a", range(2000), range(2000))], "points")
    for chart, left_out in ((Chart("t", "x", "y", many), 8), (wide, 6), (cloud, 1500)):
        assert f"{left_out} more in the record" in texts(draw(chart))
    assert len(svg(Chart("t", "x", "y", [Series("a", range(10_000), range(10_000))]))) < 60_000
