"""A comparison documents itself, its examples run, and its progress reads."""

import doctest
import inspect

import pytest

from kit import Comparison, Result
from kit.measure import comparison as comparison_module
from kit.measure import progress
from kit.measure import result as result_module


@pytest.mark.parametrize("public", [Comparison, Result])
def test_public_methods_are_documented(public):
    """Every public method states what it does."""
    methods = {name for name, value in vars(public).items() if callable(value) and not name.startswith("_")}
    assert all(inspect.getdoc(getattr(public, name)) for name in methods)


@pytest.mark.parametrize("module", [comparison_module, result_module])
def test_examples_run(module):
    """The examples in the docstrings of Comparison and Result are true."""
    ran = doctest.testmod(module)
    assert ran.attempted > 5 and not ran.failed


def test_progress_is_a_line_that_reads():
    """Where a comparison stands is told in one line."""
    told = {"comparison": "sum", "unit": "numbers", "size": 1000, "stage": "setup of", "variant": "loop"}
    assert progress.line(told) == "sum at 1,000 numbers · setup of loop"
    told |= {"stage": "measuring", "round": 7, "rounds": 40, "half_width": 0.03}
    assert progress.line(told) == "sum at 1,000 numbers · measuring loop · round 7 of at most 40 · ±3 %"
