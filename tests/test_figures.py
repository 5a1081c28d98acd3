"""What is drawn from a record, and how."""

import math
import re
import subprocess
import sys
from itertools import pairwise
from xml.etree import ElementTree

import msgspec
import pytest
from record_factory import Made, make_record

from kit.record import figures, style
from kit.record.document import Effect

MIXED = {
    "pandas": Made(),
    "Polars": Made(ratio=6),
    "Wrong": Made(ratio=9, broken="3 rows differ"),
    "cuDF": Made(state="skipped", reason="no NVIDIA driver"),
    "Boom": Made(state="failed", reason="killed by SIGKILL"),
}


def drawn(record) -> dict:
    point = record.points[-1]
    return {
        "curve": figures.scaling_curve(record),
        "speedups": figures.speedups(record, point),
        "memory": figures.memory(record),
        "readings": figures.readings(record, point),
    }


def texts(svg: str) -> str:
    return " | ".join(ElementTree.fromstring(svg).itertext())


@pytest.fixture(scope="module")
def mixed():
    return make_record(MIXED)


def test_every_title_says_its_direction(mixed):
    """Each figure says in its title whether lower or higher is better."""
    titles = {name: texts(style.to_svg(figure)) for name, figure in drawn(mixed).items()}
    assert all("lower is better" in titles[name] for name in ("curve", "memory"))
    assert all("higher is better" in titles[name] for name in ("speedups", "readings"))


def test_a_variant_has_one_colour_everywhere_and_the_baseline_is_grey(mixed):
    """Colours go by name in the order of declaration over all records of a page; baselines are grey."""
    other = make_record({"pandas": Made(), "DuckDB": Made(), "Polars": Made()})
    look = figures.looks(mixed, other)
    assert look["pandas"][0] == look["A/A"][0] == style.BASELINE
    assert look["Polars"] == figures.looks(mixed)["Polars"]
    many = figures.looks(make_record({f"v{i}": Made() for i in range(40)}, sizes=[100]))
    assert len({pair for name, pair in many.items() if name not in ("v0", "A/A")}) == 39


def test_what_was_not_measured_is_not_drawn_as_measured(mixed):
    """Skipped and failed variants are named with their reason and have no mark; an invalid one says so."""
    look = figures.looks(mixed)
    svg = style.to_svg(figures.speedups(mixed, mixed.points[-1]))
    assert "skipped: no NVIDIA driver" in svg and "failed: killed by SIGKILL" in svg and ", invalid" in svg
    assert look["Polars"][0] in svg and look["cuDF"][0] not in svg and look["Boom"][0] not in svg
    curve = texts(style.to_svg(figures.scaling_curve(mixed)))
    assert "Wrong (invalid)" in curve and "cuDF" not in curve
    assert "Wrong" not in texts(style.to_svg(figures.memory(mixed)))


def test_axes_have_units(mixed):
    """Times, sizes, ratios and memory are ticked with their units."""
    found = {name: texts(style.to_svg(figure)) for name, figure in drawn(mixed).items()}
    assert "ms" in found["curve"] and "rows" in found["curve"] and "1×" in found["speedups"] and "iB" in found["memory"]


def test_intervals_are_drawn(mixed):
    """The interval of each median spans its order statistics, and of few readings the whole range."""
    assert figures.median_interval([float(n) for n in range(1, 21)]) == (6.0, 15.0)
    assert figures.median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


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


@pytest.mark.parametrize("bad", [0.0, -1.0, 1e308, 5e-324, math.inf, math.nan])
def test_absurd_numbers_are_left_out(bad):
    """A number that has no place on an axis is not drawn, and never breaks the figure."""
    record = make_record({"pandas": Made(), "Odd": Made(ratio=2)}, sizes=[10, 100])
    point = record.points[-1]
    odd = msgspec.structs.replace(
        point.variants[1],
        effect=Effect(speedup=bad, low=bad, high=bad, rounds=20, confidence=0.99),
        memory=msgspec.structs.replace(point.variants[1].memory, peak_mib=bad),
    )
    point.sessions[0].readings["Odd"].wall_s[0] = bad
    broken = msgspec.structs.replace(point, variants=[point.variants[0], odd], size=bad)
    for figure in drawn(msgspec.structs.replace(record, points=[record.points[0], broken])).values():
        ElementTree.fromstring(style.to_svg(figure))


def test_many_variants_are_capped_and_counted():
    """Beyond twelve variants the figure says how many more stand in the table."""
    record = make_record({f"v{i}": Made(ratio=1 + i / 10) for i in range(40)}, sizes=[100])
    assert "27 more in the table" in texts(style.to_svg(figures.speedups(record, record.points[0])))


def test_correctness_only_is_named_without_a_mark():
    """What was not timed has a row that says why, and neither dot nor curve."""
    record = make_record({"a": Made(), "b": Made(ratio=2), "crowd": Made(correctness_only="4 ranks on 2 cores")})
    assert "correctness only: 4 ranks on 2 cores" in texts(style.to_svg(drawn(record)["speedups"]))
    assert "crowd" not in texts(style.to_svg(drawn(record)["curve"]))


def test_labels_are_spread_without_touching():
    """Labels that would touch are pushed apart by the gap, around where they belong, and others stay."""
    placed = style.spread([0.0, 1.0, 1.5, 100.0], 10.0)
    assert all(b - a >= 10 - 1e-9 for a, b in pairwise(placed))
    assert placed[3] == 100.0 and sum(placed[:3]) == pytest.approx(2.5)


def test_drawing_leaves_matplotlib_as_it_was(mixed):
    """No backend is chosen, no global figure made, no style kept: a notebook's own settings stay."""
    code = (
        "import sys; sys.path.insert(0, 'tests'); from matplotlib import rcParams;"
        "state = lambda: {key: rcParams[key] for key in rcParams if key != 'backend'}; before = state();"
        "from record_factory import make_record; from kit.record import figures, style;"
        "style.to_svg(figures.scaling_curve(make_record()));"
        "assert 'matplotlib.pyplot' not in sys.modules; assert state() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_figures_imports_no_matplotlib():
    """Reading words and figures stays light until something is drawn."""
    code = "import sys, kit.record.figures, kit.record.style, kit.record.words; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("ratios", [(0.01, 0.9), (0.8, 1.1), (0.3, 40), (1e-4, 1e3), (0.99, 1.01), (1e-250, 1e250)])
def test_ticks_of_speedups_do_not_touch(ratios):
    """Whatever the range and however long the names, ticks stand apart, and 1× is one of them."""
    made = {"baseline": Made()} | {f"with a very long name: {ratio}": Made(ratio=ratio) for ratio in ratios}
    record = make_record(made, sizes=[1000])
    figure = figures.speedups(record, record.points[-1])
    with style.applied():
        figure.draw_without_rendering()
        (axes,) = figure.axes
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert "1×" in [label.get_text() for label in axes.get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
