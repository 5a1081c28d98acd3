"""A wrong parameter is refused in one sentence that names the nearest value or the range, and how to go on."""

import math

import numpy as np
import pytest

from kit.common import claims, parameters
from kit.common.address import call, resolve
from kit.errors import UserError
from kit.record.document import Effect

ENGINES = ("pandas", "polars", "duckdb")


def test_a_claim_without_a_verdict_is_inconclusive():
    """What was skipped or not decided neither holds nor fails."""
    verdicts = ["faster", "slower", "rejected", "inconclusive", "skipped"]
    parts = {verdict: claims.holds(verdict, ["faster"]) for verdict in verdicts}
    marks = [line.split()[0] for line in claims.lines(parts).splitlines()]
    assert marks == ["✓", "✗", "✗", "?", "?"]
    for asked, some, none in (("slower faster inconclusive", True, False), ("slower inconclusive", None, None)):
        assert (claims.some(asked.split()), claims.none(asked.split())) == (some, none)
    assert claims.none(["slower", "rejected"]) and claims.none(["baseline", "checked, not timed"]) is None
    ends = (1, 2), (1.9, 3), (2.1, 3), (None, None)
    few, same, more, _ = effects = [Effect(speedup=2, low=a, high=b, rounds=9, confidence=0.95) for a, b in ends]
    assert [claims.grows(few, one) for one in (*effects, None)] == [None, None, True, None, None]
    assert claims.grows(more, few) is False and claims.grows(same, few) is None


def test_good_values_come_back():
    """Each check returns what it was given; one name needs no list, and a name given twice counts once."""
    assert parameters.one_of("polars", ENGINES, "engine") == "polars"
    assert parameters.several("polars", ENGINES, "engines") == ["polars"]
    assert parameters.several(["duckdb", "pandas", "duckdb"], ENGINES, "engines", least=1) == ["duckdb", "pandas"]
    assert parameters.at_least(3, 1, "workers", whole=True) == 3
    assert parameters.at_least(np.int64(3), 1, "workers", most=3, whole=True) == 3
    assert parameters.positive(0.5, "time_budget_s") == 0.5
    assert [parameters.share(value, "held_out") for value in (0, 0.25, 1)] == [0, 0.25, 1]


@pytest.mark.parametrize(
    ("check", "says"),
    [
        (lambda: parameters.one_of("polar", ENGINES, "engine"), "engine='polar' is unknown; did you mean 'polars'?"),
        (lambda: parameters.one_of("xyz", ENGINES, "engine"), "unknown; choose from: pandas, polars, duckdb"),
        (lambda: parameters.one_of(3, range(100), "size"), None),
        (lambda: parameters.one_of(300, range(100), "size"), "did you mean '30'?.* 29 and 70 more$"),
        (lambda: parameters.several(["duckbd"], ENGINES, "engines"), "engines contains 'duckbd'.* 'duckdb'"),
        (lambda: parameters.several([], ENGINES, "engines", least=2), "engines has 0 entries; give at least 2 of: p"),
        (lambda: parameters.at_least(0, 1, "workers"), "workers=0 is not allowed; give a number of at least 1"),
        (lambda: parameters.at_least(1.5, 1, "workers", most=9, whole=True), "give a whole number from 1 to 9"),
        (lambda: parameters.at_least(True, 0, "workers"), "workers=True"),
        (lambda: parameters.at_least(math.nan, 0, "workers"), "workers=nan"),
        (lambda: parameters.positive(math.inf, "time_budget_s"), "time_budget_s=inf.* above 0"),
        (lambda: parameters.positive("5", "time_budget_s"), "time_budget_s='5'"),
        (lambda: parameters.share(1.2, "held_out"), "held_out=1.2 is not allowed; give a number from 0 to 1"),
    ],
)
def test_wrong_values_are_refused_with_the_remedy(check, says):
    """The sentence has the name, what was given and what is allowed."""
    if says is None:
        check()
        return
    with pytest.raises(UserError, match=says):
        check()


def test_a_function_is_found_by_its_address_and_called_with_its_options(tmp_path, monkeypatch):
    """ "package.module:function" names the user's function; options that it doesn't take are refused."""
    (tmp_path / "common_own.py").write_text("def build(width=1): return width * 2\nnumber = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert call(resolve("common_own:build"), {"width": 4}) == 8
    assert call(resolve("math:hypot"), {}) == 0
    with pytest.raises(UserError, match=r"build\(width=1\) can't be called with {'depth': 2}: .*depth"):
        call(resolve("common_own:build"), {"depth": 2})
    for address, says in {
        "common_own": "write 'package.module:function'",
        "common_own:biuld": "did you mean 'build'",
        "common_own:number": "is int, not a function",
        "no_such_module:build": "no module no_such_module; install it, or put its folder on PYTHONPATH",
    }.items():
        with pytest.raises(UserError, match=says):
            resolve(address)


@pytest.mark.parametrize(
    ("code", "says"), [("import absent_package", "imports it, so install it"), ("1 / 0", "fix ZeroDivisionError")]
)
def test_a_module_that_fails_to_import_names_its_own_fault(tmp_path, monkeypatch, code, says):
    """An error in the user's module is reported as it is."""
    (tmp_path / f"common_{len(code)}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=says):
        resolve(f"common_{len(code)}:build")
