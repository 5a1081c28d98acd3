"""What the notebook's parameters name is found, and what can't be is told in one sentence before anything runs."""

import os
import sys

import numpy as np
import pytest

from kit.errors import UserError
from kit.record.document import Effect
from kit.techniques.tuning import advice, choices, show
from kit.techniques.tuning.equal_time import Outcome
from kit.techniques.tuning.judged import Judged, judge
from kit.techniques.tuning.ranks import Ranking
from kit.techniques.tuning.scaling import Held, Scaled

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


def test_a_race_that_its_time_cannot_hold_is_told_before_it_begins(own, monkeypatch):
    """A slow objective is measured twice, and the user hears what it would take."""
    monkeypatch.chdir(own)
    (own / "own_tuning.py").write_text("import time\ndef objective(x):\n    time.sleep(0.05)\n    return x\n")
    slow = choices.problem("own_tuning:objective", "space.toml", "", "")()
    with pytest.raises(UserError, match=r"a race of 2 searches at 64 trials takes .* at least; give seconds=\d+"):
        choices.check_time(slow, [8, 64], ["TPE"], 2.0)
    choices.check_time(slow, [8, 64], ["TPE"], 3600.0)
    assert choices.to_share(slow, [16], 1.0) == 4 and choices.to_share(slow, [16], 1000.0) == 12


def test_a_search_is_gone_on_with_only_while_nothing_has_changed(own, monkeypatch):
    """The same question has the same name; another space or other code has another, or old answers would be given."""
    monkeypatch.chdir(own)
    asked = ("own_tuning:objective", "space.toml")
    name = choices.name(choices.wide(*asked, "", "")(), *asked)
    assert choices.name(choices.wide(*asked, "", "")(), *asked) == name
    (own / "space.toml").write_text(SPACE.replace("1.0", "0.9"))
    narrower = choices.name(choices.wide(*asked, "", "")(), *asked)
    os.utime(own / "own_tuning.py", (1, 1))
    assert choices.name(choices.wide(*asked, "", "")(), *asked) == narrower
    (own / "own_tuning.py").write_text("def objective(x):\n    return (x - 0.75) ** 2\n")
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
    told = advice.workers(scaled, 0.0)
    assert "up to 16 for TPE" in told and "5.3 times the worker hours" in told
    assert "-10% at 2 workers" in advice.clock([Held(2, np.array([0.9]), np.array([1.0]))])


def ranked(apart: bool, first: float = 1.0) -> Ranking:
    """Two searches over nine problems, told apart or not."""
    pairs = frozenset({frozenset(("TPE", "random"))} if apart else ())
    means = {"TPE": first, "random": 3.0 - first}
    return Ranking("9 problems", 9, means, {}, 0.5, pairs, "", {str(n): {} for n in range(9)})


def pruned(saved: tuple[float, float], sooner: tuple[float, float] | None) -> show.Pruned:
    effect = sooner and Effect(speedup=1.0, low=sooner[0], high=sooner[1], rounds=20, confidence=0.99)
    return show.Pruned("TPE + ASHA", sum(saved) / 2, *saved, effect, None)


def judged(low: float, high: float) -> Outcome:
    found = Judged(1.0 + (low + high) / 2, 1.0, low, high, "rows")
    return Outcome("TPE", "measured", "trees", 1.0, judged=found)


@pytest.mark.parametrize(
    "ranking, saved, sooner, ends, whole",
    [
        (ranked(True), (0.6, 0.8), (0.5, 1.5), (-0.2, -0.1), "holds"),
        (ranked(False), (0.6, 0.8), (0.5, 1.5), (-0.2, -0.1), "is not settled"),
        (ranked(True, 2.0), (0.6, 0.8), (0.5, 1.5), (-0.2, -0.1), "does not hold"),
        (ranked(True), (0.4, 0.8), (0.5, 1.5), (-0.2, -0.1), "is not settled"),
        (ranked(True), (0.2, 0.4), (0.5, 1.5), (-0.2, -0.1), "does not hold"),
        (ranked(True), (0.6, 0.8), (1.9, 50.0), (-0.2, -0.1), "is not settled"),
        (ranked(True), (0.6, 0.8), (2.5, 50.0), (-0.2, -0.1), "does not hold"),
        (ranked(True), (0.6, 0.8), None, (-0.2, -0.1), "is not settled"),
        (ranked(True), (0.6, 0.8), (0.5, 1.5), (-0.2, 0.1), "is not settled"),
        (ranked(True), (0.6, 0.8), (0.5, 1.5), (0.1, 0.2), "does not hold"),
    ],
)
def test_a_claim_holds_is_refuted_or_is_not_told(monkeypatch, ranking, saved, sooner, ends, whole):
    """Each part needs an interval that shows it; a wide one neither holds nor refutes."""
    monkeypatch.setattr(show, "pruning", lambda result: [pruned(saved, sooner)])
    assert f"The claim {whole} here" in advice.claim(ranking, None, None, [judged(*ends)])


def test_what_variants_name_is_divided_among_the_parts():
    """Searches, methods and workers each take what is theirs; baselines are always there."""
    named = ["TPE", "FLAML", "2 processes, SQLite"]
    assert choices.ranked(named) == ["random", "TPE"]
    assert choices.methods(named) == ["defaults", "TPE", "FLAML"]
    assert set(choices.shared(named)) == {"1 process", "2 processes, journal file", "2 processes, SQLite"}
    assert choices.methods(["GP"]) == choices.methods(["defaults"]) == ["defaults", "TPE"]
    assert choices.methods([]) is None and choices.shared([]) == list(choices.SHARED)
    assert "GP" not in choices.ranked([]) and "GP" in choices.ranked(["GP"])
