"""The report: what it says, that nothing in a record or a notebook breaks it, and that it loads and runs nothing."""

import base64
import hashlib
import json
import os
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from record_factory import USUAL, Made, machine, make_record

from kit import Chart, Series, Table, report
from kit.errors import UserError
from kit.record import store
from kit.report import markdown, notebook, pages, publish, table
from kit.stored import choose, gather

VOID = {"meta", "br", "img", "input", "hr", "link", "path", "use"}


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
            self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


SCRIPT = Path(pages.__file__).with_name("page.js").read_text()


def put(folder: Path, *records, key: str = "k1") -> Path:
    for record in records:
        store.write(record, folder / "runs" / (record.asked.notebook or "none") / key / "records")
    return folder / "runs"


def written(folder: Path, *records) -> tuple[Page, str]:
    """The report over `records`: parsed and as text."""
    html = report.write([str(put(folder, *records))], str(folder / "report")).read_text()
    return Page(html), html


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
        "link",
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
                r"#|data:image/|(\.\./index|notebooks/[a-z0-9_.-]+)\.html$|notebooks/[a-z0-9_-]+\.html$", target
            )
    assert not re.search(r"url\((?!#)", html) and "@import" not in html
    policy = [attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    named = f"; script-src 'sha256-{digest}'" if own else ""
    assert policy == [f"default-src 'none'; style-src 'unsafe-inline'; img-src data:{named}"]


def changed(record, **changes):
    return msgspec.structs.replace(record, **changes)


# ------------------------------------------------------------------------------------------------ what it says


def test_the_first_screen_says_what_to_do(tmp_path):
    """Each technique has a recommendation with its condition and numbers, and what was skipped and why."""
    variants = {name: made for name, made in USUAL.items() if name != "DuckDB"}
    variants |= {"Polars": Made(ratio=6.1, fixed_s=0.03, memory=0.4)}
    page, html = written(tmp_path, make_record(variants))
    first = html[html.index('id="verdicts"') : html.index('class="technique"')]
    assert "Use Polars instead of pandas." in first and "; below, stay with pandas; with equal tables" in first
    assert re.search(r"<dt>Speed-up</dt><dd>[56]\.\d+× \[5\.\d+, [56]\.\d+\]", first) and "about " in first
    assert "cuDF and Dask-cuDF were not run: no NVIDIA driver; to have them: a machine with an NVIDIA GPU" in first
    whole = page.text
    assert re.search(r"Polars is [56]\.\d+× \[5\.\d+, [56]\.\d+\] faster than pandas at 10,000,000 rows", whole)
    assert "Intel Xeon Platinum 8488C, 2 of 8 cores" in page.text and "23 November 2026" in page.text


def test_a_section_holds_every_size_and_every_variant(tmp_path):
    """Every size has a table, and skipped, failed and invalid variants stand in it with their reasons."""
    variants = USUAL | {
        "Odd": Made(ratio=9, broken="3 of 120 rows differ"),
        "Boom": Made(state="failed", reason="killed by SIGKILL"),
    }
    _, html = written(tmp_path, make_record(variants, sizes=[1000, 2000]))
    section = html[html.index('class="technique"') : html.index('id="machines"')]
    for said in ("At 2,000 rows", "At 1,000 rows", "no NVIDIA driver", "killed by SIGKILL", "3 of 120 rows differ"):
        assert said in section
    assert section.count("<svg") == 4 and "threads 2" in section
    assert "Boom" in html[html.index('id="failures"') :]


def test_correctness_only_is_told_with_its_reason_and_without_a_speed(tmp_path):
    """A variant that was checked but not timed has its verdict and reason in both tables, and is no failure."""
    variants = {
        "one": Made(),
        "two": Made(ratio=2),
        "four": Made(correctness_only="oversubscribed: 4 ranks on 2 cores"),
    }
    page, html = written(tmp_path, make_record(variants, sizes=[10, 20]))
    harmless(html)
    assert html.count('<span class="chip correctness only">correctness only</span>') == 6  # in tables and the legend
    rows = re.findall(r'<tr><th scope="row"[^>]*>four<.*?</tr>', html[: html.index('id="results"')], re.DOTALL)
    assert len(rows) == 3 and all("4 ranks on 2 cores" in row and "×" not in row.split("4 ranks")[0] for row in rows)
    assert 'id="failures"' not in html and "four is" not in page.text
    assert "correctness only: oversubscribed" in (tmp_path / "report" / "report.md").read_text()


CURVE = Chart("Own curve", "ranks", "%", [Series("Polars", [1, 2], [100, 91.5])], note="Held-out error 2.6 %.")
OWN_TABLE = Table("What to expect", ["devices", "bound by"], [[2, "compute"], [64, "the link"]], note="Fitted at 1, 2.")


def test_a_techniques_own_charts_and_tables_are_told(tmp_path):
    """Charts stand after the comparison's figures and tables before its own, with notes; the Markdown names both."""
    _, html = written(tmp_path, store.with_exhibits(make_record(sizes=[10]), [OWN_TABLE, CURVE]))
    harmless(html)
    section = html[html.index('class="technique"') : html.index('id="machines"')]
    told = ["Speed-up in every round", "Own curve", "Held-out error 2.6 %.", "What to expect", "At 10 rows"]
    places = [section.index(text) for text in told]
    assert places == sorted(places) and section.count("<svg") == 4
    assert '<td class="r">64</td>' in section and "<caption>What to expect</caption>" in section
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| devices | bound by |\n| ---: | --- |\n| 2 | compute |" in text and "Fitted at 1, 2." in text
    assert "Drawn on the page: Own curve." in text


def test_very_many_exhibits_and_rows_are_capped_and_counted(tmp_path):
    """A table of thousands of rows, and more charts than a page has room for, are cut with their count."""
    long = Table("Long", [f"c{n}" for n in range(50)], [[n] * 50 for n in range(5000)])
    many = [Chart(f"chart {n}", "x", "y", [Series("a", [1], [n])]) for n in range(40)]
    page, html = written(tmp_path, store.with_exhibits(make_record(sizes=[10]), [long, *many]))
    assert "4,800 more rows stand in the record" in page.text and "17 more charts and tables" in page.text
    assert len(html) < 3_000_000 and "4,960 more rows" in (tmp_path / "report" / "report.md").read_text()


def test_every_table_has_a_caption_and_scopes(tmp_path):
    """Tables are readable without seeing them: a caption each, a scope for each heading, one h1, no level skipped."""
    page, _ = written(tmp_path, make_record(), make_record(seed=2, on=machine("AMD EPYC", 16, gpu="NVIDIA H100")))
    assert len(page.all("table")) == len(page.all("caption")) > 5
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and all(after - before <= 1 for before, after in pairwise(levels))


def test_ids_are_unique_and_links_lead_somewhere(tmp_path):
    """No id stands twice, and every link within the page has its target, with figures of many sections inlined."""
    page, _ = written(tmp_path, make_record(), make_record(comparison="other", seed=3, sizes=[10]))
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")} <= set(ids)
    assert {attrs["aria-labelledby"] for _, attrs in page.tags if attrs.get("aria-labelledby")} <= set(ids)


def test_the_newest_record_is_told_and_older_ones_are_listed(tmp_path):
    """Of one comparison on one machine with one set of parameters the newest stands in full, the rest in a list."""
    old = make_record({"pandas": Made(), "Polars": Made(ratio=2)}, sizes=[10], written="2026-01-02T03:04:05Z", id="old")
    new = make_record({"pandas": Made(), "Polars": Made(ratio=5)}, sizes=[10], written="2026-02-02T03:04:05Z", id="new")
    page, html = written(tmp_path, new, old)
    assert html.count('class="verdict"') == 1 and "Older records of this comparison (1)" in page.text
    assert re.search(r"Polars is (4\.[89]|5\.[0-2])", page.text) and "2026-01-02T03:04:05Z" in page.text


def test_other_parameters_are_another_section(tmp_path):
    """Comparisons with different parameters are not merged; each says by which parameter it differs."""
    records = [make_record(sizes=[10], parameters={"keys": n, "seed": 1}, id=f"r{n}") for n in (100, 100_000)]
    page, html = written(tmp_path, *records)
    assert html.count('class="comparison"') == 2 and html.count('class="also"') == html.count('class="verdict"') == 1
    assert (
        "keys = 100 " in page.text.replace("\n", " ") and "keys = 100,000" in page.text and "seed = 1" not in page.text
    )


def test_several_machines_stand_side_by_side_and_times_are_not_compared(tmp_path):
    """Two machines give two sections and one table of speed-ups, with the word that times don't compare."""
    gpu = USUAL | {"cuDF": Made(ratio=20)}
    page, _ = written(tmp_path, make_record(), make_record(gpu, id="b", on=machine("AMD EPYC", 16, gpu="NVIDIA H100")))
    assert "times on different machines are not comparable" in page.text
    assert "On several machines" in page.text and "NVIDIA H100" in page.text


def test_failed_runs_are_told(tmp_path):
    """A run that did not finish is listed with its last line; one that was done over successfully is not."""
    runs = put(tmp_path, make_record(sizes=[10]))
    for key, status in {
        "aa": {"state": "failed", "error": "RuntimeError: rank 1 did not answer"},
        "bb": {"state": "failed", "error": "was done over"},
        "bb.2": {"state": "finished"},
        "cc": {"state": "finished"},
    }.items():
        (runs / "02_training" / key).mkdir(parents=True)
        (runs / "02_training" / key / "status.json").write_text(json.dumps(status))
    page = Page(report.write([str(runs)], str(tmp_path / "report")).read_text())
    assert "02_training/aa" in page.text and "RuntimeError: rank 1 did not answer" in page.text
    assert "was done over" not in page.text and "02_training/cc" not in page.text


def test_an_interrupted_record_says_so(tmp_path):
    """What limits a record stands beside its verdict."""
    record = make_record(sizes=[10], complete=False)
    page, _ = written(tmp_path, changed(record, how=changed(record.how, isolated=False)))
    assert "Interrupted" in page.text and "in one process, for debugging" in page.text


def test_empty_runs_make_a_page_that_says_so(tmp_path):
    """A folder without records is no error: the page says that nothing was measured yet."""
    (tmp_path / "runs").mkdir()
    html = report.write([str(tmp_path / "runs")], str(tmp_path / "report")).read_text()
    harmless(html)
    assert "Nothing has been measured yet" in html


def test_the_report_says_the_same_for_the_same_records(tmp_path):
    """The page, the Markdown and the table are the same bytes for the same records, wherever they are written."""
    runs = put(tmp_path, make_record(), make_record(comparison="b", seed=4, sizes=[10]))
    for out in ("one", "two"):
        report.write([str(runs)], str(tmp_path / out))
    for name in ("index.html", "report.md", "results.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_markdown_is_plain_in_a_pull_request(tmp_path):
    """`report.md` holds the verdict and a table, and what a record says can't become markup or a mention there."""
    hostile = make_record({"pandas": Made(), "@all <b>|x|</b> [a](http://x)": Made(ratio=3)}, sizes=[10])
    written(tmp_path, hostile)
    text = (tmp_path / "report" / "report.md").read_text()
    assert "faster than pandas at 10 rows" in text and "| variant | median |" in text
    assert "<b>" not in text and "@all" not in text and "](http" not in text
    assert markdown.safe("a|b") == "a\\|b"


# ------------------------------------------------------------------------------------------------ the parquet


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
    assert found["warm_s"] == polars.warm_s and found["verdict"] == "faster" and found["cores"] == 2
    assert json.loads(found["parameters"])["data"] == "flights" and json.loads(found["versions"])["polars"] == "2.1.0"
    assert list(rows[0]) == list(table.COLUMNS)


# ------------------------------------------------------------------------------------------------ hostile records


MARKUP = "<script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>\"'{{7*7}}"


def test_markup_in_every_text_of_a_record_is_text(tmp_path):
    """Whatever text a record holds is printed as text: no element, no attribute, no request comes of it."""
    plain = make_record({MARKUP: Made(), f"v {MARKUP}": Made(ratio=3, broken=MARKUP)}, sizes=[10, 20])
    bars = Chart("bars", "x", "y", [Series(MARKUP, [MARKUP, "b"], [1, 2])], "bars")
    lines = Chart("lines", "x", "y", [Series(MARKUP, [1, 2], [1, 2])])
    plain = store.with_exhibits(plain, [bars, lines, Table("t", [MARKUP], [[MARKUP]], note=MARKUP)])

    def spoil(value, key=""):
        if isinstance(value, dict):
            return {name: spoil(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [spoil(item, key) for item in value]
        fixed = ("schema", "state", "verdict", "stopped", "overtakes", "name", "baseline", "variants")
        fixed += ("type", "shape", "style")
        return MARKUP if isinstance(value, str) and key not in fixed else value

    spoilt = spoil(msgspec.to_builtins(plain)) | {"id": "x"}
    folder = tmp_path / "runs" / "n" / "k" / "records"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps(spoilt))
    html = report.write([str(tmp_path / "runs")], str(tmp_path / "report")).read_text()
    harmless(html)
    assert "&lt;script&gt;alert(1)" in html and "{{7*7}}" in html and "can't be read" not in html
    assert html.count('class="verdict"') == 1


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("truncated", msgspec.json.encode(make_record(sizes=[10]))[:-400], "not whole JSON"),
        (
            "nan",
            msgspec.json.encode(make_record(sizes=[10])).replace(b'"seconds":21.5', b'"seconds":NaN'),
            "not whole JSON",
        ),
        (
            "infinity",
            msgspec.json.encode(make_record(sizes=[10])).replace(b'"seconds":21.5', b'"seconds":Infinity'),
            "JSON",
        ),
        (
            "huge",
            msgspec.json.encode(make_record(sizes=[10])).replace(b'"seconds":21.5', b'"seconds":1e999'),
            "it is not",
        ),
        ("missing", b'{"schema": "kit.record/1", "id": "x"}', "missing required field"),
        ("future", b'{"schema": "kit.record/9"}', "this kit reads 'kit.record/1'"),
        ("nothing", b"", "not whole JSON"),
        ("binary", b"\x89PNG" + bytes(range(256)) * 16, "not whole JSON"),
        ("deep", b"[" * 200_000, "it is not"),
        ("array", b"[1, 2]", "not a record"),
        (
            "nested",
            msgspec.json.encode(make_record(sizes=[10])).replace(b'"flights"', b"[" * 100 + b"]" * 100),
            "nested more than 64 levels",
        ),
    ],
)
def test_what_cannot_be_read_is_listed_with_its_reason(tmp_path, name, content, reason):
    """A broken file costs only itself: the rest is told, and the page names the file and why."""
    runs = put(tmp_path, make_record(sizes=[10]))
    (runs / "01_dataframes" / "k1" / "records" / f"{name}.json").write_bytes(content)
    html = report.write([str(runs)], str(tmp_path / "report")).read_text()
    harmless(html)
    page = Page(html)
    assert f"{name}.json" in page.text and reason in page.text and html.count('class="verdict"') == 1
    assert f"{name}.json" in (tmp_path / "report" / "report.md").read_text()


def test_a_folder_or_pipe_named_as_a_record_does_not_hang(tmp_path):
    """What is no plain file is left alone, so that a pipe named like a record never blocks the report."""
    runs = put(tmp_path, make_record(sizes=[10]))
    os.mkfifo(runs / "01_dataframes" / "k1" / "records" / "pipe.json")
    (runs / "01_dataframes" / "k1" / "records" / "folder.json").mkdir()
    assert report.write([str(runs)], str(tmp_path / "report")).exists()


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


def test_absurd_numbers_are_told(tmp_path):
    """Zero, negative and enormous numbers where JSON allows them neither break the page nor a figure."""
    record = make_record(sizes=[10, 100])
    text = msgspec.json.encode(record).decode()
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


def test_very_many_variants_sizes_and_comparisons_are_capped_and_counted(tmp_path):
    """What is too much to read is cut with its count, on the page and in figures, never in silence."""
    many = make_record({f"v{n}": Made(ratio=1 + n / 50) for n in range(300)}, sizes=[10], rounds=12)
    sizes = make_record(
        {"pandas": Made(), "Polars": Made(ratio=2)}, comparison="sizes", sizes=list(range(10, 40)), rounds=10
    )
    page, html = written(tmp_path, many, sizes)
    harmless(html)
    assert "240 more variants stand in results.parquet" in page.text and "18 more sizes stand in" in page.text
    assert "more in the table" in page.text and len(html) < 3_000_000


def test_sections_beyond_the_most_are_counted(tmp_path, monkeypatch):
    """Only so many comparisons are told in full, and the page says how many are not."""
    monkeypatch.setattr(publish, "MOST_SECTIONS", 2)
    small = {"pandas": Made(), "Polars": Made(ratio=2)}
    page, html = written(tmp_path, *(make_record(small, comparison=f"c{n}", sizes=[10], id=f"r{n}") for n in range(5)))
    assert html.count('class="comparison"') == 2 and "3 more comparisons are not told here" in page.text


def test_no_technique_is_crowded_out_by_another(tmp_path, monkeypatch):
    """However many parameter sets one notebook has, each technique keeps its place on the first screen."""
    monkeypatch.setattr(publish, "MOST_SECTIONS", 3)
    small = {"pandas": Made(), "Polars": Made(ratio=2)}
    many = [make_record(small, sizes=[10], parameters={"n": n}, id=f"r{n}") for n in range(6)]
    other = make_record(small, sizes=[10], notebook="05_caching", id="c", written="2020-01-01T00:00:00Z")
    page, html = written(tmp_path, *many, other)
    assert html.count('class="verdict"') == 2 and "Caching" in page.text and "4 more comparisons are" in page.text


def test_the_newest_run_leads(tmp_path):
    """With several parameter sets the newest run's comparison is the technique's main one, the others stand below."""
    small, old = {"pandas": Made(), "Polars": Made(ratio=2)}, "2020-01-01T00:00:00Z"
    records = [
        make_record(small, sizes=[10], parameters={"n": 1}, title="long ago", written=old, id="a"),
        make_record(small, sizes=[10], parameters={"n": 2}, title="of today", id="b"),
    ]
    _, html = written(tmp_path, *records)
    assert html.index("of today") < html.index("long ago")


def test_names_that_look_alike_have_their_own_places(tmp_path):
    """Names that differ only in signs, beyond 40 letters or in another script have anchors of their own."""
    small = {"pandas": Made(), "Polars": Made(ratio=2)}
    names = ["group by: sum", "group by, sum", "x" * 41, "x" * 42, "比較", "測定"]
    records = [make_record(small, comparison=n, sizes=[10], id=f"r{p}") for p, n in enumerate(names)]
    page, _ = written(tmp_path, *records)
    anchors = [attrs["id"] for attrs in page.all("article") if "id" in attrs]
    assert len(anchors) == len(set(anchors)) == 6


def test_markdown_fits_a_comment_whatever_it_holds(tmp_path):
    """Sixty comparisons with hostile titles and long reasons stay below what a comment on GitHub holds."""
    variants = {"pandas": Made(), "Polars": Made(ratio=2), "Odd": Made(ratio=2, broken="<@" * 400)}
    records = [
        make_record(variants, comparison=f"c{n}", title="<@|" * 200, sizes=[10], id=f"r{n}", rounds=10)
        for n in range(60)
    ]
    written(tmp_path, *records)
    text = (tmp_path / "report" / "report.md").read_text()
    assert len(text) < 65_000 and "more comparisons stand in" in text and "more." in text


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


def test_copies_of_a_record_count_once(tmp_path):
    """The same record found at two places is one record."""
    runs = put(tmp_path, make_record(sizes=[10]))
    shutil.copytree(runs, tmp_path / "runs" / "copy")
    page = Page(report.write([str(runs), str(runs)], str(tmp_path / "report")).read_text())
    assert "from 1 record" in page.text


# ------------------------------------------------------------------------------------------------ doors


def test_runs_may_be_files_folders_and_urls(tmp_path):
    """A single record, one run, a folder of records, a root of runs and a URL all give the same verdict."""
    import fsspec

    runs = put(tmp_path, make_record(sizes=[10]))
    [file] = runs.rglob("records/*.json")
    memory = fsspec.filesystem("memory")
    memory.pipe("/kit-test/n/k/records/a.json", file.read_bytes())
    for place in (file, file.parent, file.parent.parent, runs, f"file://{runs}", "memory://kit-test"):
        html = report.write([str(place)], str(tmp_path / "report")).read_text()
        assert html.count('class="verdict"') == 1, place


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


def test_main_prints_the_path(tmp_path, capsys):
    """`main` prints where the page is and returns 0."""
    assert report.main([str(put(tmp_path, make_record(sizes=[10])))], str(tmp_path / "out")) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'index.html'}\n"


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


# ------------------------------------------------------------------------------------------------ notebooks


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 40).decode()
SVG = '<svg viewBox="0 0 1 1"><script>alert(1)</script><image href="http://evil.example/x"/></svg>'


def page_of(*cells) -> str:
    return pages.notebook(json.dumps({"cells": list(cells)}).encode(), ("01_dataframes", "k1"))


def output(**data) -> dict:
    named = {name.replace("_", "/", 1).replace("svg", "svg+xml"): value for name, value in data.items()}
    return {"cell_type": "code", "source": "x", "outputs": [{"output_type": "display_data", "data": named}]}


def test_a_notebook_reads_like_a_page(tmp_path):
    """Prose stands open under its title, code is folded behind its first line, results stand open."""
    html = page_of(
        {
            "cell_type": "markdown",
            "source": ["# Which *engine*?\n", "Because **speed**.\n\n| a | b |\n|---|---|\n| 1 | 2 |"],
        },
        {"cell_type": "code", "source": "rows = 1\nprint(rows)", "outputs": [{"output_type": "stream", "text": "1\n"}]},
    )
    harmless(html)
    page = Page(html)
    assert page.text.count("Which engine?") == 2 and "<strong>speed</strong>" in html and page.all("table")
    assert "<summary>rows = 1</summary>" in html and 'class="code" open' not in html
    assert '<pre class="">1</pre>' in html


def test_hostile_outputs_are_harmless():
    """Scripts, handlers, frames, styles, foreign addresses and links in outputs become text, images or nothing."""
    evil = (
        "<script>alert(1)</script><style>body{display:none}</style><iframe src=http://evil.example></iframe>"
        "<table onclick=alert(1)><tr><td colspan='2\" onload=x' style=position:fixed>kept</td></tr></table>"
        "<a href=javascript:alert(1)>link</a><img src=http://evil.example/x onerror=alert(1)></div></main></body>" + SVG
    )
    html = page_of(
        {
            "cell_type": "markdown",
            "source": f"{evil}\n\n[x](javascript:alert(1)) ![p](http://evil.example/p.png) <b onclick=x>",
        },
        output(text_html=evil, text_plain="never shown"),
        output(image_svg=SVG),
        output(image_png="not base64!", text_plain="shown instead"),
        output(image_png=PNG),
        {"cell_type": "code", "source": "</code></pre><script>alert(1)</script>", "outputs": "not a list"},
        {
            "cell_type": "code",
            "source": 5,
            "outputs": [{"output_type": "error", "ename": "<b>", "traceback": ["<i>", 3]}],
        },
        "not a cell",
    )
    harmless(html)
    assert "kept" in html and "shown instead" in html and "never shown" not in html
    assert html.count("data:image/svg+xml;base64,") == 2 and html.count("data:image/png;base64,") == 1


def test_terminal_colours_and_overwritten_progress_are_stripped():
    """Terminal output is shown as it looks at the end."""
    assert notebook.plain("\x1b[31mred\x1b[0m\n10%\r50%\r100%\r\nend\x1b]0;title\x07") == "red\n100%\nend"


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"cells": 3}', b"[" * 100_000, os.urandom(100)])
def test_a_notebook_that_is_none_is_listed(tmp_path, content):
    """A file that is no notebook costs only its own page, and is named with its reason."""
    runs = put(tmp_path, make_record(sizes=[10]))
    (runs / "01_dataframes" / "k1" / "notebook.ipynb").write_bytes(content)
    page = Page(report.write([str(runs)], str(tmp_path / "report")).read_text())
    assert "notebook.ipynb" in page.text and "it is not a notebook" in page.text
    assert not (tmp_path / "report" / "notebooks").exists()


def test_long_outputs_are_cut():
    """A cell that printed without end leaves a page that opens."""
    html = page_of(
        {"cell_type": "code", "source": "x", "outputs": [{"output_type": "stream", "text": "a\n" * 5_000_000}]}
    )
    assert len(html) < 400_000 and "(cut)" in html


# ------------------------------------------------------------------------------------------------ choosing


def test_only_differing_parameters_are_named():
    """A label names what differs, absent parameters too, and nothing that is the same."""
    assert choose.differing([{"a": 1, "b": [1]}, {"a": 1, "b": [2]}, {"a": 1, "b": [1], "c": None}]) == ["b"]
    assert choose.fingerprint({"a": 1, "b": 2}) == choose.fingerprint({"b": 2, "a": 1})


def test_a_statuss_words_are_read_leniently(tmp_path):
    """A status of any shape is read as far as it goes."""
    files = []
    for place, text in enumerate(
        ['{"state": "failed", "last_error": "x"}', "[1]", "{", '{"state": {"a": 1}, "error": 5}']
    ):
        path = tmp_path / f"s{place}" / "status.json"
        path.parent.mkdir()
        path.write_text(text)
        files += gather.find([str(path.parent)]).statuses
    unreadable = []
    read = gather.read_statuses(files, unreadable)
    assert [(status.state, status.line) for status in read] == [("failed", "x"), ("{'a': 1}", "5")]
    assert len(unreadable) == 2
