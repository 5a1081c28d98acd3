"""Sentences that once contradicted each other: a page and `report.md` of records made for each case are read.

Held by tests of the matter itself, and not again here:

| case | test |
|---|---|
| one break-even, with all that was spent | `test_recommendation.test_setup_is_a_cost_with_its_break_even`, |
| | `test_comparison.test_break_even_counts_what_was_made_before` |
| stale responses and changed decisions apart | `test_caching.test_a_new_version_is_not_answered_for_by_the_old` |
| weak scaling is no recommendation | `test_recommendation.test_weak_scaling_is_never_recommended` |
| pages that processes share count once | `test_comparison.test_memory_is_the_growth_of_a_call` |
| shares of a peak, none of tiny work | `test_formatting.test_a_share_of_a_peak_is_never_above_100_percent` |
| no condition dropped; crossovers | `test_recommendation.test_conditions_at_other_sizes_are_never_dropped`, |
| | `test_recommendation.test_a_crossing_takes_four_sizes_over_two_decades` |
| the best single process is the baseline | `test_training.test_the_single_process_is_the_best_one` |
| simulated workers carry an error | `test_tuning_searches.test_more_workers_speed_up_trials_as_many_times_and_…` |
| percentiles need five requests beyond them | `test_load.test_percentiles_need_five_requests_beyond_them` |
| one form of a number, a ratio, a share, a unit | all of `test_formatting` |
"""

import html
import json
import re
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace
from record_factory import Made, make_record

from kit import Result, report
from kit.record import recommendation, store
from kit.record.document import CheckResult, PeakShare
from kit.report.markdown import INTERVALS

ROOT = Path(__file__).parents[1]
REPORTS = re.findall(r"\((reports/[^)]+)/[^/)]+\)", (ROOT / "README.md").read_text())
STRAW_MAN = "read by all threads, texts as categories"


def variants(record, **changes):
    """Return a record with fields of variants changed at every size, by name."""
    points = [
        replace(point, variants=[replace(v, **changes.get(v.name.replace(" ", "_"), {})) for v in point.variants])
        for point in record.points
    ]
    return replace(record, points=points)


def over_seeds(record):
    points = [replace(p, sessions=[replace(s, variance="seeds") for s in p.sessions]) for p in record.points]
    return replace(record, points=points)


def asked(record, **changes):
    return replace(record, asked=replace(record.asked, **changes))


def records():
    """A record for each case, of five techniques."""
    pandas = {"pandas": Made(), "DuckDB": Made(ratio=4, fixed_s=0.001), "Polars": Made(ratio=3)}
    yield asked(make_record(pandas), baseline_reason=STRAW_MAN, action="Query with {variant}")
    yield make_record({"1 process": Made(), "DDP": Made(ratio=0.7)}, notebook="02_training", sizes=[8], title="Steps")
    made = {"1 process": Made(), "DDP": Made(ratio=2), "weak": Made(ratio=3, not_recommended="twice the batch")}
    yield make_record(made, notebook="02_training_scaling", sizes=[8, 64], title="Batches")
    searches = {"random": Made(), "TPE": Made(ratio=1.5), "ASHA": Made(ratio=1.1)}
    tuned = over_seeds(make_record(searches, notebook="03_tuning", sizes=[24], noise=0.4, title="Time to target"))
    told = {"Is tuning worth it?": "No winner shown: TPE needs 0.5 to 1.9 times the seconds of random."}
    yield store.with_artifacts(tuned, [recommendation.answers(told)])
    made = {"ONNX Runtime FP32": Made(), "OpenVINO BF16": Made(ratio=3, broken="x"), "PyTorch BF16": Made(ratio=2)}
    lost = CheckResult(state="failed", metric="accuracy", note="accuracy 0.913, threshold 0.970: layer conv_3")
    above = PeakShare(peak="matrix_product_bf16_gflop_per_s", amount=9.0, share=1.7)
    served = make_record(
        made, notebook="04_quantization", sizes=[1], title="Engine by precision", unit="samples/request"
    )
    yield variants(served, OpenVINO_BF16={"check": lost}, PyTorch_BF16={"peak_share": above, "breakeven_calls": 783.2})
    unsure = make_record({"no cache": Made(), "LRU": Made()}, notebook="05_caching", sizes=[2000], noise=0.2)
    yield variants(replace(unsure, how=replace(unsure.how, threads=1)), LRU={"verdict": "inconclusive"})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page and `report.md`."""
    folder = tmp_path_factory.mktemp("sentences")
    for record in records():
        store.write(record, folder / "runs" / record.asked.notebook / "key" / "records")
    page = report.write([str(folder / "runs")], str(folder / "report"))
    return page.read_text(), page.with_name("report.md").read_text()


def text(source: str) -> str:
    """Return what a reader of HTML reads, figures and their descriptions too."""
    source = re.sub(r"<style.*?</style>|<script.*?</script>", "", source, flags=re.DOTALL)
    source = re.sub(r'<[^>]*\saria-label="([^"]*)"[^>]*>', r" \1 ", source)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", source)).split())


def cards(page: str) -> dict[str, str]:
    """Return the cards' text, by technique."""
    found = re.findall(r'<article class="card">(.*?)</article>', page, re.DOTALL)
    return {text(card).partition(":")[0]: text(card) for card in found}


def section(page: str, title: str) -> str:
    """Return the text of a technique's comparisons."""
    parts = page.partition('<div id="details">')[2].split('<section class="technique">')
    return next(text(part) for part in parts if part.lstrip().startswith(f"<h2>{title}</h2>"))


def test_the_tests_of_the_table_are_there():
    """A test that is renamed or dropped leaves no case without one."""
    named = re.findall(r"`(test_\w+)\.(test_\w+)", __doc__)
    assert len(named) >= 11
    assert all(f"def {test}" in (ROOT / f"tests/{module}.py").read_text() for module, test in named)


def test_seed_variance_is_never_called_noise(written):
    """Nor is it, or any noise, in the page's header: both are given per comparison."""
    page, markdown = written
    assert ", A/A floor over seeds " in (tuned := section(page, "Tuning")) and "noise" not in tuned
    assert ", noise floor " in section(page, "Dataframes")
    header = text(page[page.index("<header>") : page.index("<main>")])
    assert "noise" not in header + markdown.partition("**")[0] and "variance" not in header


def test_one_answer_per_technique(written):
    """Notebooks of one technique share its card: the main one answers, the others are below."""
    page, markdown = written
    assert list(found := cards(page)) == ["Dataframes", "Training", "Tuning", "Quantization", "Caching"]
    assert found["Training"].startswith("Training: Steps , and 1 more comparison below Use 1 process")
    assert "Use DDP" not in "".join(found.values()) and "Use DDP" in section(page, "Training")
    assert markdown.partition("<details>")[0].count("**Training: ") == 1


def test_a_comparison_states_why_its_baseline_is_no_straw_man(written):
    """In the report, and every comparison of the notebooks has a reason to state."""
    assert all(f"Baseline: pandas, {STRAW_MAN}" in found for found in (section(written[0], "Dataframes"), written[1]))
    for notebook in (ROOT / "notebooks").glob("0*.ipynb"):
        cells = ["".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"]]
        compares = [cell.count("Comparison(") for cell in cells if "Comparison(" in cell]
        assert compares and [cell.count("baseline_reason") for cell in cells if "Comparison(" in cell] == compares


@pytest.mark.parametrize(("technique", "notebook"), [("Caching", "05_caching"), ("Tuning", "03_tuning")])
def test_no_winner_is_shown_with_what_would_settle_it(written, technique, notebook):
    """With the minimum detectable effect of this budget, whether the kit concludes so or the technique itself."""
    page, markdown = written
    card = cards(page)[technique]
    assert " No winner shown " in card and f"Next: kit plan {notebook}" in card and f"`kit plan {notebook}`" in markdown
    assert re.search(r"minimum detectable effect in this budget: \d+ %", card)
    assert "stay with" not in (text(page) + markdown).lower()


def test_an_interval_names_its_variance(written):
    """Once per page, and at a speed-up over seeds; savings of memory are given without one."""
    page, markdown = written
    assert INTERVALS in text(page) and INTERVALS in markdown and "process restarts" in INTERVALS
    assert not re.search(r"memory[^.;]{0,9} \(95 % CI", text(page) + markdown)


def test_numbers_have_one_form(written):
    """No `1 threads`, `336.776 k`, `[0.0, 7.8]`, `12%` or `0.50x`, on the page and in `report.md`."""
    odd = r"\b1 (?:threads|rounds|rows|records|samples)\b|\d\.\d{3} ?k\b|\[-?\d+\.\d+, |\d%|\d [kM]\b|\d\.?\d*x\b"
    for found in map(text, written):
        assert not [found[place.start() - 30 : place.end() + 30] for place in re.finditer(odd, found)]
    assert "1 thread per variant" in text(written[0]) and "after about 780 requests" in text(written[0])


def test_a_loss_is_said_of_one_engines_mode(written):
    """BF16 that loses accuracy in one engine, by a layer, is not what another engine's BF16 does."""
    page, markdown = written
    for found in (cards(page)["Quantization"], markdown):
        assert "Use PyTorch BF16" in found
        assert "Rejected: OpenVINO BF16 (check failed: accuracy 0.913, threshold 0.970: layer conv_3)" in found
        assert not re.search(r"(?<!OpenVINO )(?<!PyTorch )\bBF16(?! matrix product)", found)
    assert "100 % of peak BF16 matrix product" in section(page, "Quantization")


def test_what_is_rejected_has_no_speed_up(written):
    """On the page, in `report.md`, in a terminal's and a notebook's table, and as a number; its time is given."""
    result = Result(next(record for record in records() if record.asked.notebook == "04_quantization"))
    page, markdown = written
    shown = section(page, "Quantization"), markdown.partition("Quantization: Engine")[2], repr(result)
    for found in (*shown, text(result._repr_html_()), result.sentence):
        assert "rejected" in found and not re.search(r"\b(?:2\.9|3\.[01])×", found)
    assert result["OpenVINO BF16"].speedup is None and result["OpenVINO BF16"].seconds is not None


def test_nothing_is_projected_to_other_machines():
    """The arithmetic for large devices is gone, and no text promises it."""
    patterns = ("*.md", "docs/**/*.md", "notebooks/*.ipynb", "kit/**/*.html")
    texts = [path for pattern in patterns for path in ROOT.glob(pattern)]
    assert len(texts) > 20
    promised = [p.name for p in texts if p.name != "CHANGELOG.md" and re.search("project_to|H100", p.read_text())]
    assert not promised


def test_a_report_names_its_one_commit_or_how_many(written, tmp_path):
    """A published report is one run of one commit; one of several says so on its first line."""
    assert ", commit 153ad88c0f. " in text(written[0]) and "6 records, commit 153ad88c0f. " in written[1]
    first, second, *_ = records()
    second = replace(second, git=replace(second.git, commit="0ther"))
    for name, record in (("a", first), ("b", second)):
        store.write(record, tmp_path / "runs" / name / "key" / "records")
    page = report.write([str(tmp_path / "runs")], str(tmp_path / "report"))
    assert "2 records, 2 commits. " in text(page.read_text())


def test_the_picture_is_made_by_the_command_beside_it():
    """Each report is of one machine, day and commit; the picture is of `make report`, and next to it."""
    assert REPORTS[0] == REPORTS[1]
    for published in [(ROOT / one / "report.md").read_text() for one in REPORTS[::-1]]:
        assert len(re.findall("^Measured on .*, 20..-..-..\\.$", published, re.MULTILINE)) == 1
        assert re.search(r"^\d+ records, commit [0-9a-f]{10}\. ", published, re.MULTILINE)
    beside = re.search(r"\.png\)\s+\*(.*?)\*\s", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert "`make report`" in beside and "run --plan first --report report" in (ROOT / "Makefile").read_text()
    plan = tomllib.loads((ROOT / "benchmarks/plans/first.toml").read_text())["run"]
    shown = re.findall(r"^\*\*(\w+): ", published.partition("<details>")[0], re.MULTILINE)
    assert shown == [run["notebook"].partition("_")[2].capitalize() for run in plan] and "a hit ratio of" in published
