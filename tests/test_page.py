"""The pages in a real browser: opened from the file system, used, linked, printed, at a phone's and a desk's width."""

import io
import json
import re

import pytest
from browser import findings
from record_factory import USUAL, Made, machine, make_record

from kit import Chart, Series, Table, compare, report
from kit.record import store

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
TECHNIQUES = ("dataframes", "training", "quantization", "caching", "tuning")
OTHERS = {
    "one process": Made(),
    "DDP": Made(ratio=1.7, fixed_s=0.002, memory=2.1),
    "FSDP": Made(ratio=0.7, memory=1.2),
    "the same": Made(ratio=1.0),
    "INT8": Made(ratio=3.1, broken="accuracy 0.91, below the bound of 0.93"),
    "four ranks": Made(correctness_only="oversubscribed: 4 ranks on 2 cores"),
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
    """A folder with the report of ten runs on two machines, one of which failed, and with a page that compares them."""
    folder = tmp_path_factory.mktemp("site")
    for number in range(10):
        name = f"{1 + number % 5:02d}_{TECHNIQUES[number % 5]}"
        record = make_record(
            OTHERS if number % 5 else USUAL,
            notebook=name,
            comparison=f"comparison {number}",
            title=f"What pays off in {TECHNIQUES[number % 5]}, part {1 + number // 5}",
            sizes=[1_000, 100_000, 1_000_000],
            seed=number,
            on=machine("AMD EPYC 9654", 16, gpu="NVIDIA H100") if number > 7 else None,
        )
        run = folder / "runs" / name / f"key{number}"
        store.write(store.with_exhibits(record, EXHIBITS), run / "records")
        (run / "notebook.ipynb").write_text(json.dumps({"cells": NOTEBOOK}))
        (run / "status.json").write_text(json.dumps({"state": "finished"}))
    (folder / "runs" / "02_training" / "key6" / "status.json").write_text(
        json.dumps({"state": "failed", "error": "RuntimeError: rank 1 did not answer"})
    )
    report.write([str(folder / "runs")], str(folder / "report"))
    few = [str(folder / "runs" / name) for name in ("01_dataframes/key0", "02_training/key1", "02_training/key6")]
    report.write(few, str(folder / "small"))
    later = make_record({name: Made(ratio=0.8 * made.ratio, state=made.state) for name, made in USUAL.items()}, seed=40)
    store.write(make_record(), folder / "before")
    store.write(later, folder / "after")
    compare.main(str(folder / "before"), str(folder / "after"), str(folder / "runs"), str(folder / "compared"), False)
    return folder


def address(site, page: str = "report/index.html") -> str:
    return (site / page).as_uri()


PAGES = ["report/index.html", "report/notebooks/01_dataframes-key0.html", "compared/index.html"]
SMALLER = ["small/index.html", *PAGES[1:]]
"""Of all that the page of ten runs has, something; axe-core takes its time with each of thousands of elements."""


SEEN = "[...document.querySelectorAll('#all tbody tr')].filter(row => row.checkVisibility())"


def rows(page) -> list[str]:
    """Return the rows of the table of all results that can be seen, as text."""
    return page.evaluate(f"{SEEN}.map(row => row.innerText)")


def column(page, name: str) -> list[str]:
    """Return a column of the table of all results, as far as it can be seen."""
    place = page.locator("#all thead th").all_inner_texts().index(name)
    return page.evaluate(f"{SEEN}.map(row => row.cells[{place}].innerText.trim())")


def state(page) -> tuple:
    """Return what a reader sees of the table's state."""
    sorted_by = page.locator("#all th[aria-sort]").evaluate_all("all => all.map(h => [h.innerText, h.ariaSort])")
    controls = [page.locator(f"#{name}").input_value() for name in ("q", "f-technique", "f-verdict")]
    return rows(page), sorted_by, controls, page.locator("#shown").inner_text()


# ------------------------------------------------------------------------------------------------ opened


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_a_page_opens_from_the_file_system(site, contexts, name, size):
    """Every kind of page opens with nothing on the console and no request, and never scrolls sideways as a whole."""
    page = contexts(viewport=size).new_page()
    page.goto(address(site, name))
    assert page.locator("h1").count() == 1 and page.locator("h1").is_visible()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


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


def test_the_first_screen_says_what_to_do(site, page):
    """On a desk's first screen the first recommendation can be read without scrolling."""
    page.goto(address(site))
    first = page.locator("#verdicts article.verdict").first
    assert first.locator(".advice").bounding_box()["y"] < DESK["height"]
    assert page.locator("#verdicts article.verdict").count() == page.locator(".advice").count() == len(TECHNIQUES)
    assert "Use Polars" in first.inner_text()


def test_links_lead_to_notebooks_and_back(site, page):
    """A comparison leads to its executed notebook, and that back to the report."""
    page.goto(address(site))
    page.locator("a[href^='notebooks/']").first.click()
    assert page.locator("h1").inner_text() == "Which engine?"
    page.locator("a[href='../index.html']").click()
    assert page.locator("#verdicts").is_visible()


# ------------------------------------------------------------------------------------------------ used


def test_results_are_filtered(site, page):
    """Words, a technique and a verdict narrow the table down together; how many are left is said, and all come back."""
    page.goto(address(site, "small/index.html"))
    every = rows(page)
    assert page.locator("#shown").inner_text() == f"{len(every)} of {len(every)} shown" and len(every) > 50
    page.locator("#q").fill("polars 1,000,000")
    assert rows(page) == [row for row in every if "Polars" in row and "1,000,000" in row] and len(rows(page)) == 1
    assert page.locator("#shown").inner_text() == f"1 of {len(every)} shown"
    page.locator("#q").fill("")
    page.locator("#f-technique").select_option("Training")
    page.locator("#f-verdict").select_option("slower")
    assert set(column(page, "Verdict")) == {"slower"} and set(column(page, "Technique")) == {"Training"}
    page.locator("#q").fill("nothing is called so")
    assert rows(page) == [] and page.locator("#shown").inner_text().startswith("0 of")
    page.locator("#f-reset").click()
    assert rows(page) == every and "?" not in page.url


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_results_are_sorted(site, page, by):
    """A heading sorts upwards, then downwards, then not, by mouse and by keyboard; numbers as numbers, what is not
    known always last; a screen reader is told."""
    page.goto(address(site, "small/index.html"))
    unsorted, head = rows(page), page.locator("#all thead th", has_text="Median time")
    button = head.locator("button")

    def press() -> None:
        if by == "mouse":
            button.click()
        else:
            button.focus()
            page.keyboard.press("Enter")

    def seconds() -> list[float]:
        units = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600}
        known = [text.split() for text in column(page, "Median time") if text != "—"]
        return [float(number.replace(",", "")) * units[unit] for number, unit in known]

    press()
    upwards = seconds()
    assert head.get_attribute("aria-sort") == "ascending" and upwards == sorted(upwards) and len(set(upwards)) > 20
    press()
    assert head.get_attribute("aria-sort") == "descending" and seconds() == sorted(upwards, reverse=True)
    shown = column(page, "Median time")
    assert "—" not in shown[: len(upwards)] and set(shown[len(upwards) :]) == {"—"}
    press()
    assert head.get_attribute("aria-sort") is None and rows(page) == unsorted


def test_a_link_reopens_the_table_as_it_was(site, page, contexts):
    """The address holds the state: who is sent the link sees the same rows in the same order."""
    page.goto(address(site, "small/index.html"))
    page.locator("#q").fill("1,000")
    page.locator("#f-technique").select_option("Training")
    page.locator("#f-verdict").select_option("faster")
    page.locator("#all th button", has_text="Speed-up").click()
    assert "q=1%2C000" in page.url and "sort=speed-up%3Aasc" in page.url and "technique=Training" in page.url
    other = contexts(viewport=PHONE).new_page()
    other.goto(page.url)
    assert state(other) == state(page) and 0 < len(rows(other)) < 10


def test_the_back_button_undoes_a_choice(site, page):
    """Back and forward go through the choices that were made, and each shows its rows."""
    page.goto(address(site, "small/index.html"))
    seen = [state(page)]
    page.locator("#f-technique").select_option("Training")
    seen.append(state(page))
    page.locator("#all th button", has_text="Memory").click()
    seen.append(state(page))
    page.go_back()
    assert state(page) == seen[1]
    page.go_back()
    assert state(page) == seen[0]
    page.go_forward()
    assert state(page) == seen[1]
    page.go_forward()
    assert state(page) == seen[2]


@pytest.mark.parametrize(
    "query",
    [
        "?q=<img src=x onerror=window.__hit=1>&technique=<svg onload=__hit=1>&verdict='\"&sort=__proto__:asc",
        "?sort=speed-up:sideways&verdict=nonsense#<img src=x onerror=__hit=1>",
        "?sort=constructor:desc&q=" + "x" * 5000 + "&technique=%00&sort-all=a:asc",
        "?q=%E0%A4%A&sort=%",
    ],
)
def test_an_absurd_address_is_harmless(site, page, query):
    """An address that somebody else wrote runs nothing; what it asks for that is not there is not asked for."""
    page.goto(address(site, "small/index.html") + query)
    page.wait_for_timeout(50)
    assert page.evaluate("window.__hit") is None
    assert page.locator("#f-verdict").input_value() == "" and "shown" in page.locator("#shown").inner_text()


def test_everything_is_reached_by_keyboard(site, page):
    """The first Tab gives a way past the head, a focused element can be seen, and Tab reaches filters and headings."""
    page.goto(address(site))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    reached = set()
    page.locator("#q").focus()
    for _ in range(12):
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
        seen = page.evaluate(
            "(s => s.outlineStyle !== 'none' || s.boxShadow !== 'none')(getComputedStyle(document.activeElement))"
        )
        assert seen, page.evaluate("document.activeElement.outerHTML")[:200]
        page.keyboard.press("Tab")
    assert {"q", "f-technique", "f-verdict", "f-reset", "Variant", "Verdict"} <= reached


def test_without_script_everything_is_there(site, contexts):
    """With script switched off all verdicts, all rows and all figures are there, and no control that does nothing."""
    page = contexts(viewport=DESK, java_script_enabled=False).new_page()
    page.goto(address(site))
    assert page.locator("#verdicts .advice:visible").count() == len(TECHNIQUES) and len(rows(page)) > 100
    assert page.locator("button:visible, input:visible, select:visible").count() == 0
    assert page.locator("article.comparison svg:visible").count() >= 40
    page.locator("details summary").first.click()
    assert page.locator("details[open]").count() >= 1


# ------------------------------------------------------------------------------------------------ seen


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


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_figures_are_readable(site, contexts, size):
    """Text in figures is text, at least 9 pixels high on a phone and on a desk."""
    page = contexts(viewport=size).new_page()
    page.goto(address(site))
    heights = page.evaluate(LEGIBLE)
    assert len(heights) > 400 and min(heights) >= 9


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_stand_out_in_light_and_dark(site, contexts, scheme):
    """Words in figures have a contrast of at least 4.5 against the page, in both colour schemes."""
    page = contexts(viewport=DESK, color_scheme=scheme).new_page()
    page.goto(address(site))
    contrasts = page.evaluate(CONTRAST)
    assert len(contrasts) > 400 and min(contrasts)[0] >= 4.5, min(contrasts)
    lightness = sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))
    assert (lightness > 600) == (scheme == "light")


@pytest.mark.parametrize("name", SMALLER)
@pytest.mark.parametrize(("scheme", "size"), [("light", DESK), ("dark", PHONE)], ids=["light desk", "dark phone"])
def test_no_serious_accessibility_finding(site, contexts, axe, name, scheme, size):
    """axe-core has no serious or critical finding on any kind of page, with all that is folded opened."""
    page = contexts(viewport=size, color_scheme=scheme, reduced_motion="reduce").new_page()
    page.goto(address(site, name))
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    found = findings(page, axe)
    assert not found, "\n".join(found)


def test_nothing_moves_for_those_who_ask(site, contexts):
    """With motion reduced nothing is animated, faded or scrolled smoothly."""
    page = contexts(viewport=DESK, reduced_motion="reduce").new_page()
    page.goto(address(site))
    moving = page.evaluate(
        """[...document.querySelectorAll("*")].filter(element => {
          const style = getComputedStyle(element);
          const lasts = [...style.transitionDuration.split(","), ...style.animationDuration.split(",")].map(parseFloat);
          return lasts.some(seconds => seconds > 0.01) || style.scrollBehavior === "smooth";
        }).map(element => element.outerHTML.slice(0, 100))"""
    )
    assert moving == [] and page.evaluate("document.getAnimations().length") == 0


def test_it_prints(site, page):
    """Printed, the verdicts come first as text, on white, and no control or filter of the screen is printed."""
    pypdf = pytest.importorskip("pypdf", reason="pypdf is not installed (pip install pypdf)")
    page.goto(address(site, "small/index.html") + "?technique=Training")
    printed = pypdf.PdfReader(io.BytesIO(page.pdf(format="A4")))
    texts = [" ".join(sheet.extract_text().split()) for sheet in printed.pages]
    everything = " ".join(texts)
    assert 2 < len(texts) < 30 and "Use Polars instead of pandas" in texts[0]
    assert "What pays off in training, part 1" in everything and "Show all" not in everything
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") in (
        "rgb(255, 255, 255)",
        "rgba(0, 0, 0, 0)",
    )
