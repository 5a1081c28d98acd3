"""What the notebook's parameters name is found, and what can't be is told in one sentence before anything runs."""

import os
import sys

import numpy as np
import pytest

from kit.errors import UserError
from kit.techniques.tuning import advice, choices
from kit.techniques.tuning.judged import judge
from kit.techniques.tuning.scaling import Scaled

SPACE = "[x]\nlow = 0.0\nhigh = 1.0\ndefault = 0.5\n"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module with an objective, and a space beside it."""
    (tmp_path / "own_tuning.py").write_text("def objective(x):\n    return (x - 0.25) ** 2\n")
    (tmp_path / "space.toml").write_text(SPACE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_tuning", None)


@pytest.mark.parametrize(
    "given, told",
    [
        ({"variants": ["TPA"]}, "did you mean 'TPE'"),
        ({"trials": []}, "trials= is empty"),
        ({"trials": [1]}, "whole numbers from 2"),
        ({"trials": [2.5]}, "whole numbers"),
        ({"workers": [0]}, "workers= has 0"),
        ({"workers": [True]}, "workers= has True"),
        ({"seconds": 0.0}, "above 0"),
        ({"seconds": float("nan")}, "above 0"),
        ({"price_per_hour": -1.0}, "0 or more"),
        ({"storage": "nowhere"}, "storage='nowhere' is none"),
        ({"storage": "grpc://localhost"}, "no port"),
    ],
)
def test_parameters_that_cannot_be_are_told(given, told):
    """Each mistake has its sentence: what was got, what is allowed, what to do."""
    with pytest.raises(UserError, match=told):
        choices.check(**given)


@pytest.mark.parametrize(
    "asked, told",
    [
        (("digits nets", "", "", ""), "did you mean 'digits net'"),
        (("digits net", "space.toml", "", ""), "is for an objective of your own"),
        (("own_tuning:missing", "space.toml", "", ""), "has no missing"),
        (("own_tuning:objective", "", "", ""), "needs a space"),
        (("boosted trees", "", "nowhere.csv", "y"), "nowhere.csv"),
    ],
)
def test_an_objective_that_is_not_there_is_told(own, monkeypatch, asked, told):
    """So is every mistake in what is to be tuned."""
    monkeypatch.chdir(own)
    with pytest.raises(UserError, match=told):
        choices.problem(*asked)


def test_an_own_objective_is_what_everything_is_done_with(own, monkeypatch):
    """The race, the workers and the wide search all take the own objective over the own space."""
    monkeypatch.chdir(own)
    asked = ("own_tuning:objective", "space.toml")
    openings = [choices.problem(*asked, "", ""), choices.brief(*asked), choices.wide(*asked, "", "")]
    assert [next(opening().trial({"x": 0.5}, 0)).loss for opening in openings] == [0.0625] * 3


def test_a_search_is_gone_on_with_only_while_nothing_has_changed(own, monkeypatch):
    """The same question has the same name; another space or other code has another, or old answers would be given."""
    monkeypatch.chdir(own)
    asked = ("own_tuning:objective", "space.toml")
    name = choices.name(choices.wide(*asked, "", "")(), *asked)
    assert choices.name(choices.wide(*asked, "", "")(), *asked) == name
    (own / "space.toml").write_text(SPACE.replace("1.0", "0.9"))
    narrower = choices.name(choices.wide(*asked, "", "")(), *asked)
    os.utime(own / "own_tuning.py", (1, 1))
    changed = choices.name(choices.wide(*asked, "", "")(), *asked)
    assert len({name, narrower, changed}) == 3


def test_a_loss_that_was_searched_pays_for_nothing(own, monkeypatch):
    """An objective without chance gives the same loss again, which is no proof that tuning paid."""
    monkeypatch.chdir(own)
    found = judge(choices.problem("own_tuning:objective", "space.toml", "", "")(), {"x": 0.25})
    assert found.loss < found.defaults and not found.pays
    assert "did not pay" in found.in_words() and "nothing that no trial saw" in found.in_words()


def test_workers_are_advised_while_each_is_worth_half():
    """Of 4, 16 and 64 workers that bring the answer 3, 9 and 12 times as soon, 16 are worth it and 64 are not."""
    seconds = np.array([[36.0] * 9, [12.0] * 9, [4.0] * 9, [3.0] * 9])
    scaled = Scaled("TPE", "p", 8, [1, 4, 16, 64], seconds, seconds, seconds, seconds)
    assert advice.enough_workers(scaled) == 16
    assert "up to 16 for TPE" in advice.workers(scaled, 0.0) and "5.3 times the worker hours" in advice.workers(
        scaled, 0.0
    )


def test_what_variants_name_is_divided_among_the_parts():
    """Searches, methods and workers each take what is theirs; baselines are always there."""
    named = ["TPE", "FLAML", "2 processes, SQLite"]
    assert choices.ranked(named) == ["random", "TPE"]
    assert choices.methods(named) == ["defaults", "TPE", "FLAML"]
    assert set(choices.shared(named)) == {"1 process", "2 processes, journal file", "2 processes, SQLite"}
    assert choices.methods(["GP"]) == choices.methods(["defaults"]) == ["defaults", "TPE"]
    assert choices.methods([]) is None and choices.shared([]) == list(choices.SHARED)
    assert "GP" not in choices.ranked([]) and "GP" in choices.ranked(["GP"])
