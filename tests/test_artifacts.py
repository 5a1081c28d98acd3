"""A technique's charts and tables: kept in the record, shown in a notebook and in a terminal."""

import os

import pytest
from record_factory import make_record

from kit import Chart, Series, Table, UserError, read
from kit.charts import figures
from kit.measure.artifacts import Artifacts
from kit.measure.result import Result
from kit.record import store

CHART = Chart("Loss, lower is better", "step", "nats", [Series("Polars", [1, 2, 3], [2.0, 1.5, 1.25])])
TABLE = Table(
    "What to expect", ["devices", "step, ms", "bound by"], [[2, 50.4, "compute"], [1200, None, "<b>link</b>"]]
)


@pytest.fixture
def result(tmp_path):
    record = make_record(sizes=[10, 20])
    return Result(record, store.write(record, tmp_path))


def test_artifacts_are_kept_in_the_record(result):
    """What is added stands in the record and in its file, with all that was there before."""
    before = result.record
    result.add(CHART, TABLE)
    assert result.record.artifacts == [CHART, TABLE] and result.record.points == before.points
    assert read(result.path) == result.record
    assert list(result.path.parent.iterdir()) == [result.path]


def test_a_cell_may_be_run_again(result):
    """An artifact of a title that is there replaces it where it stands."""
    result.add(CHART, TABLE)
    newer = Chart(CHART.title, "step", "nats", [Series("Polars", [1], [9.0])])
    result.add(newer)
    assert result.record.artifacts == read(result.path).artifacts == [newer, TABLE]


def test_adding_at_one_size_loses_nothing(result):
    """A result at one size adds to the whole record's file, which keeps all its sizes and artifacts."""
    result.add(CHART)
    result.at(10).add(TABLE)
    kept = read(result.path)
    assert [point.size for point in kept.points] == [10, 20] and kept.artifacts == [CHART, TABLE]


def test_a_result_without_a_file_keeps_artifacts_too():
    """Where nothing was written, the artifacts live in the result."""
    result = Result(make_record(sizes=[10]))
    result.add(TABLE)
    assert result.record.artifacts == [TABLE]


def test_what_is_no_artifact_is_told(result):
    """Anything else is one clear sentence, and nothing is written."""
    before = result.path.read_bytes()
    with pytest.raises(UserError, match=r"takes kit.Chart and kit.Table; got \{'loss': 1\}"):
        result.add(TABLE, {"loss": 1})
    assert result.path.read_bytes() == before and result.record.artifacts == []


def test_a_write_that_fails_leaves_the_record_as_it_was(result, monkeypatch):
    """If the file can't be replaced, the old record stands whole, nothing half-written beside it, and it is told."""

    def no_space(*paths):
        raise OSError(28, "No space left on device")

    before = result.path.read_bytes()
    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(UserError, match="No space left on device; it is as it was"):
        result.add(TABLE)
    assert result.path.read_bytes() == before and list(result.path.parent.iterdir()) == [result.path]
    assert result.record.artifacts == []


def test_added_artifacts_show_themselves_in_a_notebook(result):
    """What `add` returns draws charts in the variants' colours and sets numbers to the right; markup stays text."""
    html = result.add(CHART, TABLE)._repr_html_()
    place = figures.looks(result.record)["Polars"][0]
    assert "<svg" in html and place in html and "var(--ink" in html
    assert '<td class="n">50.4</td>' in html and '<td class="n">1,200</td>' in html and '<td class="n">—</td>' in html
    assert "&lt;b&gt;link&lt;/b&gt;" in html and "<b>" not in html and "<caption>What to expect</caption>" in html


def test_artifacts_need_no_record():
    """Charts and tables can be shown without any comparison, with their notes."""
    shown = Artifacts(Chart("t", "x", "y", [Series("a", [1], [2.0])], note="Held out: 2.6 % off."), TABLE)
    assert "Held out: 2.6 % off." in repr(shown) and "Held out: 2.6 % off." in shown._repr_html_()


def test_a_terminal_shows_tables_as_text(result):
    """Without pictures a table is a table, long ones cut and counted, and a chart is named."""
    text = repr(result.add(CHART, TABLE))
    assert "Chart: Loss, lower is better" in text and "  1,200         —  <b>link</b>" in text
    long = repr(Artifacts(Table("Long", ["step"], [[number] for number in range(1000)])))
    assert "and 800 more" in long and len(long.splitlines()) < 210
