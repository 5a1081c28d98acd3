"""The report: what it shows, that nothing in a record or a notebook breaks it, and that it loads and runs nothing."""

import base64
import hashlib
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from record_factory import USUAL, Made, machine, make_record

from kit import Chart, Series, Table, report
from kit.charts import style
from kit.charts.chart import draw
from kit.errors import UserError
from kit.record import recommendation, store
from kit.report import build, page, table
from kit.runs import files, select

VOID = {"meta", "br", "img", "input", "hr", "link", "path", "use"}
SMALL = {"pandas": Made(), "Polars": Made(ratio=2)}


class Page(HTMLParser):
    """A page as a strict reader sees it: balanced tags, every attribute, the text."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data.replace("\N{NO-BREAK SPACE}", " ")

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(autouse=True)
def few_figures(monkeypatch):
    """Figures take most of a report's time: here those of one comparison are enough."""
    monkeypatch.setattr(build, "MOST_DRAWN", 1)


SCRIPT = Path(page.__file__).with_name("page.js").read_text()


def put(folder: Path, *records, key: str = "k1") -> Path:
    for record in records:
        store.write(record, folder / "runs" / (record.asked.notebook or "none") / key / "records")
    return folder / "runs"


def written(folder: Path, *records) -> tuple[Page, str]:
    """The report over `records`: parsed and as text."""
    html = report.write([str(put(folder, *records))], str(folder / "report")).read_text()
    return Page(html), html


def first_screen(html: str) -> str:
    return Page(html[html.index('<section aria-label="Recommendations"') : html.index('<div id="details">')]).text


def harmless(html: str) -> None:
    """Fail if the page could load anything, or run anything but its own script, named by its hash."""
    page = Page(html)
    names = {tag for tag, _ in page.tags}
    own = html.count(f"<script>{SCRIPT}</script>")
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [{}] * own and own <= 1
    assert not names & {
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "video",
        "audio",
        "foreignobject",
    }
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
        for name in ("src", "href", "xlink:href", "action", "srcset", "poster", "background"):
            target = attrs.get(name) or "#"
            assert re.match(
                r"#|data:,$|data:image/|(\.\./index|notebooks/[a-z0-9_.-]+)\.html$|notebooks/[a-z0-9_-]+\.html$", target
            )
    assert not re.search(r"url\((?!#)", html) and "@import" not in html
    policy = [attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    named = f"; script-src 'sha256-{digest}'" if own else ""
    assert policy == [f"default-src 'none'; style-src 'unsafe-inline'; img-src data:{named}"]


def test_the_first_screen_has_one_answer_per_technique(tmp_path):
    """Its main comparison's recommendation with evidence and caveats; what is only a part of it is below."""
    other = make_record(SMALL, comparison="joins", title="Joins", sizes=[10], seed=2, written="2026-11-23T10:30:00Z")
    made = {"one process": Made(), "DDP": Made(ratio=1.2, setup_s=1)}
    training = make_record(made, notebook="02_training", sizes=[8])
    page, html = written(
        tmp_path, make_record(parameters={"rows": 1}), changed(other, parameters={"rows": 1}), training
    )
    harmless(html)
    first = first_screen(html)
    assert html.count('<article class="card">') == 2 and first.count("Use ") == 2
    assert "Use Polars" in first and "as fast as pandas at 10M rows (95 % CI" in first
    assert "Not tested at 10M rows: cuDF and Dask-cuDF (no NVIDIA" in first and "1 more comparison below" in first
    assert "memory within 5 %. Worth it after about " in first
    assert "Joins" in page.text and "floor over seeds" not in page.text and "Stay with" not in page.text


def test_the_interval_beside_a_recommendation_is_of_what_may_be_recommended(tmp_path):
    """Where the baseline wins: of the fastest other variant that does the same work, by name."""
    made = {"one process": Made(), "DDP": Made(ratio=0.8), "weak": Made(ratio=1.5, not_recommended="other work")}
    _, html = written(tmp_path, make_record(made, sizes=[8]))
    first = html[html.index('<article class="card">') : html.index('<div id="details">')]
    assert "Use one process" in first and re.search(r'<div class="strip slower".*>DDP vs one process</i></div>', first)


def changed(record, **changes):
    asked = {name: changes.pop(name) for name in list(changes) if name in ("parameters", "action", "title")}
    return msgspec.structs.replace(record, asked=msgspec.structs.replace(record.asked, **asked), **changes)


def test_a_techniques_own_conclusion_is_its_card(tmp_path):
    """And its other answers, charts and tables are in its section."""
    record = make_record(SMALL, notebook="05_caching", sizes=[10])
    answers = recommendation.answers({"which cache?": "Cache with LRU: 42 % of requests served", "how large?": "10 %"})
    chart = Chart("Hit ratio, higher is better", "entries", "%", [Series("LRU", [1, 10], [10, 40])], note="Zipf.")
    own = store.with_artifacts(record, [answers, chart, Table("Sizes", ["a", "b"], [[1, None]], note="Of 1.")])
    page, html = written(tmp_path, own)
    assert "Cache with LRU" in first_screen(html) and "Use Polars" not in page.text
    assert all(text in page.text for text in ("how large?", "10 %", "Sizes", "Of 1.", "Zipf."))
    assert 'aria-label="Hit ratio, higher is better' in html


@pytest.mark.parametrize("state", ["failed", "cancelled", "running"])
def test_a_run_that_did_not_finish_has_a_card_with_its_last_line_and_its_log(tmp_path, state):
    """On the first screen, also where it left no record, with a link to its executed notebook."""
    run = tmp_path / "runs" / "02_training" / "k1"
    run.mkdir(parents=True)
    log = "\n".join([f"line {n}" for n in range(99)] + ["<b>the last line</b>", ""])
    status = {"state": state, "error": "ValueError: ragged" * (state == "failed"), "log": log}
    (run / "status.json").write_text(json.dumps(status))
    (run / "notebook.ipynb").write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": "# Why"}]}))
    _, html = written(tmp_path, make_record(SMALL, sizes=[10]))
    harmless(html)
    first = first_screen(html)
    assert (
        f"Run {'not finished' if state == 'running' else state}" in first
        and "Training" in first
        and "kit run 02_training" in first
    )
    assert ("ValueError: ragged" if state == "failed" else "<b>the last line</b>") in first
    assert "line 98" in first and "<b>the last line</b>" in first and "line 3" not in first
    assert 'href="notebooks/02_training-k1.html"' in html and "Use Polars" in first
    assert f"02_training/k1 {state}: " in (tmp_path / "report" / "report.md").read_text()


def test_a_later_attempt_that_finished_replaces_a_failed_one(tmp_path):
    runs = put(tmp_path, make_record(SMALL, sizes=[10]))
    for key, state in (("k1", "failed"), ("k1.2", "finished")):
        (runs / "01_dataframes" / key).mkdir(exist_ok=True)
        (runs / "01_dataframes" / key / "status.json").write_text(json.dumps({"state": state}))
    assert "Run failed" not in first_screen(report.write([str(runs)], str(tmp_path / "report")).read_text())


def test_a_section_holds_every_size_and_every_variant(tmp_path):
    """With checks, proofs, reasons, parameters and code; rejected ones also by themselves."""
    made = USUAL | {"Odd": Made(ratio=9, broken="3 rows differ"), "crowd": Made(not_timed="4 ranks on 2 cores")}
    page, _ = written(tmp_path, make_record(made))
    for text in ("10,000 rows: ", "10,000,000 rows: ", "passed: equal tables", "threads 2, engine in-memory",
                 "checked, not timed: 4 ranks on 2 cores", "rejected: check failed: 3 rows differ",
                 "skipped: no NVIDIA driver; to run it: ", "noise floor", "flights",
                     "def polars(tables):"):  # fmt: skip
        assert text in page.text, text
    assert "Rejected and failed variants" in page.text
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    links = [attrs["href"][1:] for attrs in page.all("a") if attrs.get("href", "").startswith("#")]
    assert len(ids) == len(set(ids)) and set(links) <= set(ids)
    assert all(attrs.get("scope") for attrs in page.all("th"))


def test_other_parameters_and_machines_are_other_sections_and_older_records_are_counted(tmp_path):
    records = [
        make_record(SMALL, sizes=[10], parameters={"n": 1}, id="a", written="2020-01-01T00:00:00Z"),
        make_record(SMALL, sizes=[10], parameters={"n": 1}, id="b"),
        make_record(SMALL, sizes=[10], parameters={"n": 2}, id="c", written="2020-01-01T00:00:00Z"),
        make_record(SMALL, sizes=[10], parameters={"n": 1}, id="d", on=machine("AMD EPYC 9654", 16, gpu="NVIDIA H100")),
    ]
    page, html = written(tmp_path, *records)
    assert html.count('class="comparison"') == 3 and "1 older record of the same question" in page.text
    assert "n = 2" in page.text and "4 records" in page.text
    assert "NVIDIA H100, 2026-11-23. " in page.text


def test_the_same_records_give_the_same_report_and_none_a_page_that_says_so(tmp_path):
    (tmp_path / "empty").mkdir()
    empty = Page(report.write([str(tmp_path / "empty")], str(tmp_path / "none")).read_text())
    assert "Nothing has been measured yet." in empty.text
    runs = put(tmp_path, make_record(SMALL, sizes=[10, 100]))
    pages = [report.write([str(runs)], str(tmp_path / name)).read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]
    assert (tmp_path / "a" / "report.md").read_bytes() == (tmp_path / "b" / "report.md").read_bytes()


def test_the_markdown_is_plain_in_a_pull_request(tmp_path):
    """Recommendations with their conditions, rejected variants apart from failed runs, and no needless backslash."""
    made = {"pandas": Made(), "Polars": Made(ratio=6.1, fixed_s=0.01), "Odd": Made(ratio=9, broken="a_b < 3 | @all")}
    written(tmp_path, make_record(made))
    text = (tmp_path / "report" / "report.md").read_text()
    assert text.startswith("# Recommendations") and "**Dataframes: Use Polars at 10M rows**" in text
    assert (
        "At 10k rows Polars takes " in text and "## Rejected and failed variants" in text and "## Failures" not in text
    )
    assert "a_b &lt; 3 \\| &#64;all" in text and not re.search(r"\\(?![|`*\[\]])", text)


def test_the_table_has_a_row_for_each_variant_and_size(tmp_path):
    """`results.parquet` holds every variant at every size, of older records too, with numbers as in the record."""
    import pyarrow.parquet as pq

    record, older = make_record(), make_record(id="older", written="2026-01-01T00:00:00Z")
    written(tmp_path, record, older)
    rows = pq.read_table(tmp_path / "report" / "results.parquet").to_pylist()
    assert len(rows) == 2 * len(record.points) * len(USUAL)
    found = next(r for r in rows if (r["record"], r["size"], r["variant"]) == (record.id, 1_000_000, "Polars"))
    polars = record.points[2].variants[1]
    assert (found["speedup"], found["low"], found["high"]) == (
        polars.effect.speedup,
        polars.effect.low,
        polars.effect.high,
    )
    assert found["median_s"] == polars.median_s and found["verdict"] == "faster" and found["cores"] == 2
    assert json.loads(found["parameters"])["data"] == "flights" and json.loads(found["versions"])["polars"] == "2.1.0"
    assert list(rows[0]) == list(table.COLUMNS)


MARKUP = "<script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>\"'{{7*7}}"


def test_markup_in_every_text_of_a_record_is_text(tmp_path):
    """Whatever text a record holds is printed as text: no element, no attribute, no request comes of it."""
    plain = make_record({MARKUP: Made(), f"v {MARKUP}": Made(ratio=3, broken=MARKUP)}, sizes=[10, 20])
    bars = Chart("bars", "x", "y", [Series(MARKUP, [MARKUP, "b"], [1, 2])], "bars")
    lines = Chart("lines", "x", "y", [Series(MARKUP, [1, 2], [1, 2])])
    plain = store.with_artifacts(plain, [bars, lines, Table("t", [MARKUP], [[MARKUP]], note=MARKUP)])

    def spoil(value, key=""):
        if isinstance(value, dict):
            return {name: spoil(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [spoil(item, key) for item in value]
        fixed = ("schema", "state", "verdict", "stopped", "overtakes", "name", "baseline", "variants", "variance")
        fixed += ("type", "shape", "style")
        return MARKUP if isinstance(value, str) and key not in fixed else value

    spoilt = spoil(msgspec.to_builtins(plain)) | {"id": "x"}
    folder = tmp_path / "runs" / "n" / "k" / "records"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps(spoilt))
    html = report.write([str(tmp_path / "runs")], str(tmp_path / "report")).read_text()
    harmless(html)
    assert "&lt;script&gt;alert(1)" in html and "{{7*7}}" in html and "can't be read" not in html
    assert html.count('class="comparison"') == 1


WHOLE = msgspec.json.encode(make_record(sizes=[10]))
BROKEN = {
    "truncated": (WHOLE[:-400], "not whole JSON"),
    "nan": (WHOLE.replace(b'"seconds":21.5', b'"seconds":NaN'), "not whole JSON"),
    "huge": (WHOLE.replace(b'"seconds":21.5', b'"seconds":1e999'), "it is not"),
    "missing": (b'{"schema": "kit.record/2", "id": "x"}', "missing required field"),
    "future": (b'{"schema": "kit.record/9"}', "this kit reads 'kit.record/2'"),
    "nothing": (b"", "not whole JSON"),
    "binary": (b"\x89PNG" + bytes(range(256)) * 16, "not whole JSON"),
    "deep": (b"[" * 200_000, "it is not"),
    "array": (b"[1, 2]", "not a record"),
    "nested": (WHOLE.replace(b'"flights"', b"[" * 100 + b"]" * 100), "nested more than 64 levels"),
}


def test_what_cannot_be_read_is_listed_with_its_reason(tmp_path):
    """A broken file costs only itself: the rest is shown, and the page names the file and why; what is no plain file,
    e.g. a pipe named like a record, is left alone."""
    runs = put(tmp_path, make_record(SMALL, sizes=[10]))
    folder = runs / "01_dataframes" / "k1" / "records"
    for name, (content, _) in BROKEN.items():
        (folder / f"{name}.json").write_bytes(content)
    os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    html = report.write([str(runs)], str(tmp_path / "report")).read_text()
    harmless(html)
    page, listed = Page(html), (tmp_path / "report" / "report.md").read_text()
    assert html.count('class="comparison"') == 1 and f"{len(BROKEN)} files could not be read" in page.text
    for name, (_, reason) in BROKEN.items():
        assert re.search(rf"{name}.json: .*{re.escape(reason)}", page.text) and f"{name}.json" in listed


def test_long_strings_are_cut(tmp_path):
    """Ten megabytes of text in a parameter, a name and a reason leave a small page, and the table bounded cells."""
    long = "x" * 10_000_000
    variants = {"pandas": Made(), "y" * 100_000: Made(state="failed", reason="z" * 100_000)}
    parameters = {"data": long, "list": [long], "w" * 100_000: 1}
    record = make_record(variants, sizes=[10], parameters=parameters, title="t" * 100_000)
    (tmp_path / "a.json").write_bytes(msgspec.json.encode(record))
    html = report.write([str(tmp_path / "a.json")], str(tmp_path / "report")).read_text()
    harmless(html)
    assert len(html) < 80_000 and "x" * 100 in html
    assert (tmp_path / "report" / "results.parquet").stat().st_size < 200_000


def test_marks_that_turn_text_round_are_left_out(tmp_path):
    """Direction overrides, control characters and zero-width marks never reach the page."""
    record = make_record(
        {"pandas": Made(), "evil\u202etxt.exe\u2066\x00\x1b[31m\u200b": Made(ratio=2)}, sizes=[10], title="a\u202eb"
    )
    _, html = written(tmp_path, record)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x00\x1b]", html) and "eviltxt.exe" in html


def test_absurd_numbers_are_shown(tmp_path, monkeypatch):
    """Zero, negative and enormous numbers where JSON allows them neither break the page nor a figure."""
    monkeypatch.setattr(build, "MOST_DRAWN", 5)
    text = msgspec.json.encode(make_record(SMALL, sizes=[10, 100])).decode()
    for place, (field, value) in enumerate(
        [("wall_s", "-1e308"), ("speedup", "-3"), ("speedup", "1e308"), ("peak_mib", "1e308"), ("noise_floor", "1e300")]
    ):
        spoilt = re.sub(rf'"{field}":\[?[-0-9.e]+', f'"{field}":' + ("[" if field == "wall_s" else "") + value, text)
        folder = tmp_path / "runs" / "n" / f"k{place}" / "records"
        folder.mkdir(parents=True)
        (folder / "a.json").write_text(spoilt.replace('"comparison":"delays"', f'"comparison":"c{place}"'))
    html = report.write([str(tmp_path / "runs")], str(tmp_path / "report")).read_text()
    harmless(html)
    assert html.count('class="comparison"') == 5 and "unreadable" not in html


def test_what_is_too_much_is_cut_with_its_count(tmp_path, monkeypatch, capsys):
    """Variants in figures, comparisons, and none of the techniques is crowded out by another; many are announced."""
    monkeypatch.setattr(build, "MOST_SECTIONS", 3)
    monkeypatch.setattr(files, "MANY", 3)
    many = make_record({f"v{n}": Made(ratio=1 + n / 50) for n in range(100)}, sizes=[10], rounds=12)
    more = [make_record(SMALL, sizes=[10], parameters={"n": n}, id=f"r{n}") for n in range(6)]
    other = make_record(SMALL, sizes=[10], notebook="05_caching", id="c", written="2020-01-01T00:00:00Z")
    page, html = written(tmp_path, many, *more, other)
    harmless(html)
    assert html.count('class="comparison"') == 3 and "5 comparisons more in results.parquet" in page.text
    assert capsys.readouterr().err == "loading 8 records\n"
    assert "Caching" in first_screen(html)
    assert len({build.anchor("c", n) for n in ("a b: sum", "a b, sum", "x" * 41, "x" * 42, "比較", "測定")}) == 6


def test_markdown_fits_a_comment_whatever_it_holds(tmp_path):
    """Sixty comparisons with hostile titles and long reasons stay below what a comment on GitHub holds."""
    variants = {"pandas": Made(), "Polars": Made(ratio=2), "Odd": Made(ratio=2, broken="<@" * 400)}
    record = make_record(variants, title="<@|" * 200, sizes=[10], rounds=10)
    asked = [msgspec.structs.replace(record.asked, comparison=f"c{n}") for n in range(60)]
    written(tmp_path, *(msgspec.structs.replace(record, asked=one, id=one.comparison) for one in asked))
    text = (tmp_path / "report" / "report.md").read_text()
    assert len(text) < 65_000 and "more in `index.html`" in text and "And " in text


def test_hostile_paths_stay_inside_the_report(tmp_path):
    """Names of notebooks and keys never lead out of the report's folder, nor do links on the page."""
    record = make_record(sizes=[10], notebook="../../../etc/<b>passwd")
    folder = tmp_path / "runs" / "x..<b>.." / "k 1%2e%2e\n"
    store.write(record, folder / "records")
    (folder / "notebook.ipynb").write_text(json.dumps({"cells": []}))
    before = {path for path in tmp_path.rglob("*")}
    html = report.write([str(tmp_path / "runs")], str(tmp_path / "report")).read_text()
    harmless(html)
    new = {path for path in tmp_path.rglob("*")} - before
    assert all(path.is_relative_to(tmp_path / "report") for path in new)
    assert re.search(r'href="notebooks/[a-z0-9_-]+\.html"', html)


def test_copies_of_a_record_count_once(tmp_path, capsys):
    """The same record found at two places is one record; the command prints its page."""
    runs = put(tmp_path, make_record(sizes=[10]))
    shutil.copytree(runs, tmp_path / "runs" / "copy")
    assert report.main([str(runs), str(runs)], str(tmp_path / "out")) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'index.html'}\n"
    assert "1 record, commit 153ad88c0f." in Page((tmp_path / "out" / "index.html").read_text()).text


def test_runs_may_be_files_folders_and_urls(tmp_path):
    """A single record, one run, a folder of records, a root of runs and a URL are all read."""
    import fsspec

    runs = put(tmp_path, make_record(sizes=[10]))
    [file] = runs.rglob("records/*.json")
    memory = fsspec.filesystem("memory")
    memory.pipe("/kit-test/n/k/records/a.json", file.read_bytes())
    for place in (file, file.parent, file.parent.parent, runs, f"file://{runs}", "memory://kit-test"):
        assert len(files.find([str(place)]).records) == 1, place
    html = report.write(["memory://kit-test"], str(tmp_path / "report")).read_text()
    assert html.count('class="comparison"') == 1


def test_bad_places_are_one_clear_sentence(tmp_path):
    """A missing folder, an unknown kind of URL, credentials in one, a file where the report shall go: `UserError`."""
    with pytest.raises(UserError, match="there is no such folder"):
        report.write([str(tmp_path / "nowhere")], str(tmp_path / "report"))
    with pytest.raises(UserError, match="can't be opened") as caught:
        report.write(["nosuch://user:secret@host/x"], str(tmp_path / "report"))
    assert "secret" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written there"):
        report.write([str(put(tmp_path, make_record(sizes=[10])))], str(tmp_path / "file"))


def test_nothing_half_written_is_ever_seen(tmp_path):
    """Files are replaced whole: nothing temporary is left, and a page that is open stays what it was."""
    runs = put(tmp_path, make_record(sizes=[10]))
    page = report.write([str(runs)], str(tmp_path / "report"))
    with open(page, "rb") as reader:
        head = reader.read(100)
        put(tmp_path, make_record(comparison="another", sizes=[10], id="n2"), key="k2")
        report.write([str(runs)], str(tmp_path / "report"))
        assert (head + reader.read()).decode().count('class="comparison"') == 1
    assert page.read_text().count('class="comparison"') == 2
    assert not [path for path in (tmp_path / "report").rglob("*") if "partial" in path.name]


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 40).decode()


def page_of(*cells) -> str:
    return page.notebook(json.dumps({"cells": list(cells)}).encode(), "01_dataframes/k1")


def output(kind: str, value) -> dict:
    return {"cell_type": "code", "source": "x", "outputs": [{"output_type": "display_data", "data": {kind: value}}]}


def test_a_notebook_reads_like_a_page(tmp_path):
    """Prose, tables, pictures and code, some of it folded; the first heading is the title, once."""
    runs = put(tmp_path, make_record(SMALL, sizes=[10]))
    cells = [
        {"cell_type": "markdown", "source": "# Which engine?\n\nBecause **speed**.\n\n| a | b |\n|---|---|\n| 1 | 2 |"},
        {"cell_type": "code", "source": ["# what is asked\n", "rows = 1"], "metadata": {"tags": ["hide-input"]}},
        output("text/html", "<table><tr><th scope='col'>a</th></tr></table>"), output("image/png", PNG),
        {"cell_type": "code", "source": "x", "outputs": [{"output_type": "stream", "name": "stderr",
            "text": "10 %\r99 %\n\x1b[31mred"}]},
    ]  # fmt: skip
    (runs / "01_dataframes" / "k1" / "notebook.ipynb").write_text(json.dumps({"cells": cells}))
    html = report.write([str(runs)], str(tmp_path / "report")).read_text()
    assert 'href="notebooks/01_dataframes-k1.html"' in html
    shown = (tmp_path / "report" / "notebooks" / "01_dataframes-k1.html").read_text()
    harmless(shown)
    found = Page(shown)
    assert found.text.count("Which engine?") == 2 and "<strong>speed</strong>" in shown  # title and heading
    assert shown.count("<table>") == 2 and PNG in shown
    assert re.findall("<summary>(.*?)</summary>", shown) == ["# what is asked"]  # the others' code is open
    assert "99 %" in found.text and "10 %" not in found.text and "red" in found.text and "\x1b" not in shown


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"cells": 3}', b"{" * 100_000, b"\xff\xfe", b'{"cells": {"a": 1}}'])
def test_a_notebook_that_is_none_is_listed(tmp_path, content):
    runs = put(tmp_path, make_record(SMALL, sizes=[10]))
    (runs / "01_dataframes" / "k1" / "notebook.ipynb").write_bytes(content)
    html = report.write([str(runs)], str(tmp_path / "report")).read_text()
    assert "notebook.ipynb: it is not a notebook" in first_screen(html) and html.count('class="comparison"') == 1


def test_hostile_outputs_are_inert():
    """Scripts, handlers, addresses, frames and styles in any kind of output are dropped or images from data."""
    svg = '<svg viewBox="0 0 1 1" onload=alert(1)><script>alert(1)</script><image href="http://evil.example/x"/></svg>'
    hostile = (
        f"<script>x</script><a href=javascript:x onclick=x>y</a><iframe src=//evil></iframe><style>*{{}}</style>{svg}"
    )
    shown = page_of(
        {"cell_type": "markdown", "source": f"{hostile} [a](javascript:x) ![b](http://evil.example/y)"},
        *(output(kind, hostile) for kind in ("text/html", "image/svg+xml", "image/png", "text/markdown", "text/plain")),
        output("application/javascript", "x"), {"cell_type": "raw", "source": hostile}, 3,
    )  # fmt: skip
    harmless(shown)
    images = [base64.b64decode(attrs["src"].split(",")[1]) for attrs in Page(shown).all("img") if attrs.get("src")]
    assert images and all(b"<svg" in image for image in images)


@pytest.mark.parametrize("themed", [True, False])
def test_a_chart_of_the_kit_follows_light_and_dark(themed):
    """Its image has the page's dark colours; what is no chart of the kit stays as it is, on a light card."""
    svg = style.to_svg(draw(Chart("t", "x", "y", [Series("a", [1, 2], [1, 2])])), themed=themed)
    (image,) = [one for one in Page(page_of(output("image/svg+xml", svg))).all("img") if one.get("src")]
    drawn = base64.b64decode(image["src"].split(",")[1])
    assert image["class"] == ("chart" if themed else "picture")
    assert (b"prefers-color-scheme: dark" in drawn) is themed


def test_long_notebooks_are_cut(monkeypatch):
    monkeypatch.setattr(page.notebooks, "MOST_CELLS", 20)
    long = "word " * 1_000_000
    shown = page_of(
        output("text/plain", long), {"cell_type": "markdown", "source": long}, *[output("text/plain", "x")] * 30
    )
    assert len(shown) < 1_000_000 and "(cut)" in shown and "12 more cells are left out" in shown


def test_only_differing_parameters_are_named():
    """A label names what differs, absent parameters too, and nothing that is the same."""
    assert select.differing([{"a": 1, "b": [1]}, {"a": 1, "b": [2]}, {"a": 1, "b": [1], "c": None}]) == ["b"]
    assert select.fingerprint({"a": 1, "b": 2}) == select.fingerprint({"b": 2, "a": 1})


def test_a_status_is_read_leniently(tmp_path):
    """A status of any shape is read as far as it goes."""
    texts = ['{"state": "failed", "error": "x"}', "[1]", "{", '{"state": {"a": 1}, "error": 5}']
    for place, text in enumerate(texts):
        (tmp_path / f"s{place}").mkdir()
        (tmp_path / f"s{place}" / "status.json").write_text(text)
    unreadable = []
    read = files.read_statuses(files.find([str(tmp_path)]).statuses, unreadable)
    assert [(status.state, status.line) for status in read] == [("failed", "x"), ("{'a': 1}", "5")]
    assert len(unreadable) == 2
