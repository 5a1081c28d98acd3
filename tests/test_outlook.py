"""A comparison shows itself before and after it ran, documents itself, and its examples run."""

import doctest
import inspect

import pytest

from kit import Comparison, Result
from kit.measure import comparison as comparison_module
from kit.measure import live, outlook, progress
from kit.measure import result as result_module


def asleep(*arguments):
    return lambda: 42


@pytest.fixture
def asked():
    made = Comparison("delays", title="Which engine?", baseline="pandas", sizes=[10, 1_000], unit="rows", seconds=3)
    made.variant("pandas", asleep)
    made.variant("Polars", asleep)
    made.variant("no module", asleep, needs="no_such_module_here")
    made.variant("not here", asleep, skip="the table has no dates")
    return made


def test_before_it_runs_it_says_what_will_run_and_what_not(asked):
    """Variants, what is skipped here and why, sizes and budget are told, as text and as a table."""
    for told in (repr(asked), asked._repr_html_()):
        flat = " ".join(told.split())
        assert "delays: Which engine?" in flat and "10 rows and 1,000 rows" in flat
        assert "3 s of rounds a size, 6 s over 2 sizes" in flat and "Not run yet" in flat
        assert "skipped: no module no_such_module_here" in flat or "no_such_module_here" in flat
        assert "skipped: the table has no dates" in flat
    assert [row[2] for row in outlook.rows(asked)][:2] == ["baseline, twice: also as its own control A/A", "runs"]


def test_what_only_leaves_out_and_a_missing_baseline_are_told():
    """A variant that only= leaves out says so, and a baseline that is not declared yet is named."""
    made = Comparison("x", baseline="b", only=["one"])
    made.variant("one", asleep)
    made.variant("two", asleep)
    told = [(row[0], row[2]) for row in outlook.rows(made)]
    assert told == [("b", "not declared yet: the baseline"), ("one", "runs"), ("two", "left out by only=")]


def test_after_it_ran_it_says_where_the_result_is():
    """Once measured it points to its result."""
    made = Comparison("x", baseline="b", seconds=0.05, isolate=False)
    made.variant("b", asleep)
    made.run()
    assert "Measured: .result shows it." in repr(made)


def test_names_cannot_inject_script():
    """Names of a comparison, a variant and a size's unit are text in every piece of HTML."""
    evil = "<script>alert(1)</script>"
    made = Comparison(evil, title=evil, baseline=evil, size=1, unit=evil)
    made.variant(evil, asleep, needs=evil)
    assert evil not in made._repr_html_()
    told = {"comparison": evil, "unit": evil, "size": 1, "stage": "preparing", "variant": evil}
    page = live.Page(live.Path('runs/"><script>alert(1)</script>/progress.json'))
    assert "alert(1)" not in page._html(progress.line(told), 0.5).replace("&lt;script&gt;alert(1)", "")


@pytest.mark.parametrize("public", [Comparison, Result])
def test_public_names_are_few_and_documented(public):
    """What completion offers exists, is all that is public, and every method of it says what it does."""
    offered = set(public.__dir__(public.__new__(public)))
    methods = {name for name, value in vars(public).items() if callable(value) and not name.startswith("_")}
    assert methods <= offered and not any(name.startswith("_") for name in offered)
    assert all(inspect.getdoc(getattr(public, name)) for name in methods)


@pytest.mark.parametrize("module", [comparison_module, result_module])
def test_examples_run(module):
    """The examples in the docstrings of Comparison and Result are true."""
    ran = doctest.testmod(module)
    assert ran.attempted > 5 and not ran.failed


def test_progress_is_a_line_that_reads():
    """Where a comparison stands is told in one line, and at its end what became of it."""
    told = {"comparison": "sum", "unit": "numbers", "size": 1000, "stage": "preparing", "variant": "loop"}
    assert progress.line(told) == "sum at 1,000 numbers · preparing loop"
    told |= {"stage": "measuring", "round": 7, "rounds": 40, "half_width": 0.03}
    assert progress.line(told) == "sum at 1,000 numbers · measuring loop · round 7 of at most 40 · ±3 %"
    assert progress.share(told) == pytest.approx(7 / 40)
    told |= {"stage": "done", "outcome": "measured"}
    assert progress.line(told) == "sum at 1,000 numbers · measured" and progress.share(told) == 1
