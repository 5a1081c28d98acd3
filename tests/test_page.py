"""The pages in a real browser: opened from the file system, used, linked, printed, at a phone's and a desk's width."""

import io
import json
import re

import pytest
from browser import findings
from record_factory import USUAL, Made, machine, make_record

from kit import Chart, Series, Table, report
from kit.record import store

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
TECHNIQUES = ("dataframes", "training", "quantization", "caching", "tuning")
OTHERS = {
    "one process": Made(),
    "DDP": Made(ratio=1.7, fixed_s=0.002, memory=2.1),
    "FSDP": Made(ratio=0.7, memory=1.2),
    "the same": Made(ratio=1.0),
    "INT8": Made(ratio=3.1, broken="accuracy 0.91, below the bound of 0.93"),
    "four ranks": Made(not_timed="oversubscribed: 4 ranks on 2 cores"),
    "NCCL": Made(state="skipped", reason="no NVIDIA driver", remedy="a machine with an NVIDIA GPU and its driver"),
    "out of luck": Made(state="failed", reason="killed by SIGKILL; often the system had no memory left"),
}
EXHIBITS = [
    Chart("Hit ratio, higher is better", "entries", "%", [Series("DDP", [1, 10, 100], [10, 40, 90])], log_x=True),
    Chart(
        "Parts of a step",
        "",
        "ms",
        [Series("compute", ["a", "b"], [3, 4]), Series("wait", ["a", "b"], [1, 2])],
        "stacked",
    ),
    Table(
        "What to expect",
        ["devices", "bound by", "share"],
        [[2, "compute", 0.91], [64, "the link", None]],
        note="Fitted.",
    ),
]
PROSE = "# Which engine?\n\nBecause **speed**.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- [x](https://a.example)"
HTML = "<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>"
SVG = "<svg viewBox='0 0 20 10' aria-label='a bar'><rect width='9' height='9'/></svg>"
OUTPUTS = [
    {"output_type": "stream", "name": "stdout", "text": "1\n"},
    {"output_type": "execute_result", "data": {"text/html": HTML}},
    {"output_type": "display_data", "data": {"image/svg+xml": SVG}},
    {"output_type": "stream", "name": "stderr", "text": "careful\n"},
    {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": ["\x1b[31mline 1\x1b[0m"]},
]
NOTEBOOK = [
    {"cell_type": "markdown", "source": PROSE},
    {"cell_type": "code", "source": "# what is asked\nrows = 1\nprint(f'{rows:,}')", "outputs": OUTPUTS},
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the report of ten runs on two machines, one of which failed."""
    folder = tmp_path_factory.mktemp("site")
    for number in range(10):
        name = f"{1 + number % 5:02d}_{TECHNIQUES[number % 5]}"
        record = make_record(
            OTHERS if number % 5 else USUAL,
            notebook=name,
            comparison=f"comparison {number}",
            title=f"What pays off in {TECHNIQUES[number % 5]}, part {1 + number // 5}",
            sizes=[1_000, 100_000, 1_000_000],
            rounds=12,
            seed=number,
            on=machine("AMD EPYC 9654", 16, gpu="NVIDIA H100") if number > 7 else None,
        )
        run = folder / "runs" / name / f"key{number}"
        store.write(store.with_artifacts(record, EXHIBITS if number < 2 else []), run / "records")
        (run / "notebook.ipynb").write_text(json.dumps({"cells": NOTEBOOK}))
        (run / "status.json").write_text(json.dumps({"state": "finished"}))
    (folder / "runs" / "02_training" / "key6" / "status.json").write_text(
        json.dumps({"state": "failed", "error": "RuntimeError: rank 1 did not answer"})
    )
    report.write([str(folder / "runs")], str(folder / "report"))
    few = [str(folder / "runs" / name) for name in ("01_dataframes/key0", "02_training/key1", "02_training/key6")]
    report.write(few, str(folder / "small"))
    return folder


def address(site, page: str = "report/index.html") -> str:
    return (site / page).as_uri()


NOTEBOOK_PAGE = "report/notebooks/01_dataframes-key0.html"


LEGIBLE = """() => [...document.querySelectorAll("svg text")].filter(t => t.textContent.trim()).map(text => {
  const scale = Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b);
  return parseFloat(getComputedStyle(text).fontSize) * scale;
})"""
CONTRAST = """() => {
  const part = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const colour = text => text.match(/[\\d.]+/g).map(Number);
  const ground = element => {
    for (; element; element = element.parentElement) {
      const found = colour(getComputedStyle(element).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("svg text")].filter(t => t.textContent.trim()).map(text => {
    const [one, other] = [light(colour(getComputedStyle(text).fill)), light(ground(text))];
    return [(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), text.textContent];
  });
}"""


@pytest.mark.parametrize(
    ("size", "scheme", "screens"), [(DESK, "light", 1.0), (PHONE, "dark", 1.4)], ids=["desk", "phone"]
)
def test_the_report_opens_from_the_file_system(site, contexts, size, scheme, screens):
    """With nothing on the console and no request; so many screens per comparison and one more, never wider than one.
    Text in figures is text, at least 9 pixels high, with a contrast of at least 4.5 in both colour schemes."""
    page = contexts(viewport=size, color_scheme=scheme).new_page()
    page.goto(address(site))
    assert page.locator("h1").count() == 1 and page.locator("h1").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    most = 1 + screens * page.locator(".comparison").count()
    assert page.evaluate("document.body.scrollHeight") <= most * size["height"]
    heights, contrasts = page.evaluate(LEGIBLE), page.evaluate(CONTRAST)
    assert len(heights) == len(contrasts) > 200
    assert min(heights) >= 9 and min(contrasts)[0] >= 4.5, min(contrasts)
    lightness = sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))
    assert (lightness > 600) == (scheme == "light")


def test_the_watch_notices_what_a_page_must_not_do(chromium, tmp_path):
    """The fixture that every test here relies on sees scripts' errors, console errors, dialogs and requests."""
    from browser import Watch

    (tmp_path / "bad.html").write_text(
        "<script>alert(1); console.error('wrong'); fetch('http://127.0.0.1:9/a').catch(() => 0); nowhere()</script>"
        "<img src=beside.png><link rel=stylesheet href=style.css>"
    )
    watch = Watch()
    context = watch.over(chromium.new_context())
    page = context.new_page()
    page.goto((tmp_path / "bad.html").as_uri())
    page.wait_for_timeout(100)
    context.close()
    seen = "\n".join(watch.complaints)
    for sign in ("script error: nowhere", "console: wrong", "dialog: 1", ":9/a", "beside.png", "style.css"):
        assert sign in seen, seen


def test_the_report_of_ten_runs_is_small(site):
    """Ten runs with their figures and tables stay under 5 MB, the whole folder with its notebooks too."""
    sizes = [path.stat().st_size for path in (site / "report").rglob("*") if path.is_file()]
    assert 100_000 < (site / "report" / "index.html").stat().st_size < 5_000_000 and sum(sizes) < 5_000_000


def test_the_first_screen_has_the_recommendations(site, page):
    """On a desk's first screen the first recommendation can be read without scrolling; failures come first."""
    page.goto(address(site))
    assert page.locator(".card.failure").first.bounding_box()["y"] < DESK["height"]
    first = page.locator("article.card:not(.failure)").first
    assert first.locator("h2").bounding_box()["y"] < DESK["height"] and "Use Polars" in first.inner_text()
    assert page.locator("article.card:not(.failure)").count() == len(TECHNIQUES)


def test_links_lead_to_notebooks_and_back(site, page):
    page.goto(address(site))
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    page.locator('.comparison a[href^="notebooks/"]').first.click()
    assert "notebooks/" in page.url and page.locator("h1").inner_text() == "Which engine?"
    page.locator('a[href="../index.html"]').click()
    assert page.url.endswith("report/index.html")


def test_tables_are_sorted_and_never_clipped(site, page):
    """A column's heading sorts by its numbers, with units; at no width of the page a table is wider than its place."""
    page.goto(address(site))
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    table = page.locator("table.sortable").first
    table.locator("th button", has_text="median").click()
    medians = table.locator("tbody td:nth-child(2)").all_inner_texts()
    assert table.locator("th[aria-sort=ascending]").count() == 1 and medians[-1] == "—"
    assert len(set(units := [text.split()[1] for text in medians if text.split()[1:]])) < len(units) > 2
    wide = "[...document.querySelectorAll('table')].filter(t => t.scrollWidth > t.parentElement.clientWidth + 1).length"
    for width in (1440, 1280, 740, 730, 560, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate(wide) == 0, width


def test_without_script_everything_is_there(site, contexts):
    """Each comparison shows a figure at once, and every other one opens with its fold."""
    page = contexts(viewport=DESK, java_script_enabled=False).new_page()
    page.goto(address(site))
    assert page.locator("article.card h2:visible").count() > len(TECHNIQUES)
    assert page.locator("button:visible, input:visible, select:visible").count() == 0
    every = page.locator(".comparison svg").count()
    assert page.locator(".comparison").count() <= page.locator(".comparison svg:visible").count() < every
    for fold in page.locator(".comparison > details > summary").all():
        fold.click()
    assert page.locator(".comparison svg:visible").count() == every


@pytest.mark.parametrize(
    ("name", "scheme", "size"),
    [("small/index.html", "light", DESK), ("small/index.html", "dark", PHONE), (NOTEBOOK_PAGE, "dark", PHONE)],
)
def test_no_serious_accessibility_finding(site, contexts, axe, name, scheme, size):
    """axe-core has no serious or critical finding, with all that is folded opened."""
    page = contexts(viewport=size, color_scheme=scheme, reduced_motion="reduce").new_page()
    page.goto(address(site, name))
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    found = findings(page, axe)
    assert not found, "\n".join(found)


def test_it_prints(site, page):
    """Printed, the recommendations come first as text, on white, with their intervals."""
    pypdf = pytest.importorskip("pypdf", reason="pypdf is not installed (pip install pypdf)")
    page.goto(address(site, "small/index.html"))
    printed = pypdf.PdfReader(io.BytesIO(page.pdf(format="A4")))
    texts = [" ".join(sheet.extract_text().split()) for sheet in printed.pages]
    assert 1 < len(texts) < 30 and "Use Polars" in texts[0]
    assert "in training, part 1" in " ".join(texts)
    page.emulate_media(media="print", color_scheme="dark")
    white = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert white in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)") and page.locator(".strip .dot:visible").count() >= 1
