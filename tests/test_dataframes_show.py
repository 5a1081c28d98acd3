"""The code of a question, side by side: what is shown is the source that runs, escaped and highlighted."""

import html
import inspect
import re

import pytest

from kit.errors import UserError
from kit.techniques.dataframes import QUESTIONS, in_dask, in_pandas, in_polars, in_sql, show

MODULES = {"pandas": in_pandas, "Polars": in_polars, "Dask": in_dask, "SQL": in_sql}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_source_shown_is_the_source_that_runs(question):
    """All four idioms are shown, each with the very text of its function first."""
    shown = show.side_by_side(question)
    assert list(shown.sources) == list(MODULES)
    for idiom, module in MODULES.items():
        assert shown.sources[idiom].startswith(inspect.getsource(getattr(module, question)).strip())
        assert shown.sources[idiom] in repr(shown)


def test_functions_that_a_question_calls_are_shown_with_it():
    """What a question calls in its idiom stands below it; what Dask calls on pandas' frames is named."""
    sources = show.side_by_side("delay_features").sources
    assert "def late_week(" in sources["pandas"] and "def _late_week(" in sources["Polars"]
    assert "def groupby_1(" not in sources["pandas"]
    assert "in_pandas.late_week" in sources["Dask"]


def test_the_html_is_the_escaped_text(monkeypatch):
    """Tags in a source are text on the page; without its tags the page says what the source says."""
    page = show.side_by_side("groupby_9")._repr_html_()
    text = html.unescape(re.sub(r"<[^>]*>", "", page))
    for source in show.side_by_side("groupby_9").sources.values():
        assert source in text
    hostile = show.SideBySide("groupby_1", {"<b>pandas</b>": 'x = "</pre><script>alert(1)</script>"'})._repr_html_()
    assert "<script>" not in hostile and "<b>pandas" not in hostile


def test_the_page_brings_no_background_and_scrolls():
    """It reads in light and in dark: it sets no background, and no black or white; too wide, it scrolls sideways."""
    page = show.side_by_side("delay_features")._repr_html_()
    assert not re.search(r"background(-color)?:\s*(?!transparent)", page)
    colours = {c.lower() for c in re.findall(r"color:\s*(#[0-9A-Fa-f]{6})", page)}
    assert colours
    for colour in colours:
        light = contrast(colour, "#ffffff")
        dark = contrast(colour, "#111111")
        assert min(light, dark) >= 3, colour
    assert "overflow-x:auto" in page and "<style" not in page


def contrast(one, other):
    """Return the contrast ratio of two colours (WCAG 2)."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_no_such_question():
    """An unknown question is answered with the nearest one."""
    with pytest.raises(UserError, match="did you mean 'join_5'"):
        show.side_by_side("join_6x5")
