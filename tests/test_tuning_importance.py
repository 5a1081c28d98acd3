"""Which parameters matter: found where it is known, never claimed of luck, and shown value by value."""

import math

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from kit.errors import UserError
from kit.record import charts
from kit.techniques.tuning.importance import NOTHING, chart, importances, in_words, least, slices, table
from kit.techniques.tuning.problem import Problem
from kit.techniques.tuning.searches import SEARCHES

SPACE = {
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "idle": FloatDistribution(0.0, 1.0),
    "kind": CategoricalDistribution(["a", "b", None]),
    "trees": IntDistribution(1, 100, log=True),
    "depth": IntDistribution(3, 3),
}
PROBLEM = Problem("bowl", SPACE, None)


def loss(setting) -> float:
    """Return what depends on the rate most, on the kind a little, and on nothing else."""
    return (math.log10(setting["rate"]) + 3) ** 2 + 3 * (setting["kind"] != "b")


def tried(trials=60, seed=0):
    """Return settings of a random search and their losses."""
    search = SEARCHES["random"](PROBLEM, trials, seed)
    settings = [search.ask().setting for _ in range(trials)]
    return settings, [loss(setting) for setting in settings]


@pytest.mark.parametrize("by", ["fANOVA", "PED-ANOVA"])
def test_what_matters_is_found(by):
    """The parameter that decides comes first and matters; shares sum to 1 with that of nothing."""
    found = importances(PROBLEM, *tried(120), evenly=True, by=by)
    assert found.parameters[0] == "rate" and "rate" in found.matters
    assert not {"idle", "trees", "depth", NOTHING} & found.matters
    assert sum(share for share, _, _ in found.shares.values()) == pytest.approx(1)
    assert all(low <= share <= high for share, low, high in found.shares.values())


def test_a_log_scale_counts_on_that_scale():
    """Over a log scale of four decades what happens below a tenth of the range is not small: the rate has most."""
    found = importances(PROBLEM, *tried(120), evenly=True)
    assert found.shares["rate"][0] > 0.5 and found.shares["depth"] == (0, 0, 0)


def test_a_few_awful_trials_do_not_decide():
    """Losses count by rank: a trial that ended at a million changes the shares little."""
    settings, losses = tried(80)
    plain = importances(PROBLEM, settings, losses, evenly=True)
    worst = max(range(80), key=losses.__getitem__)
    awful = importances(PROBLEM, settings, [1e6 if i == worst else each for i, each in enumerate(losses)], evenly=True)
    assert awful.shares == plain.shares


def test_luck_is_not_called_important():
    """Of losses that depend on nothing at most one parameter in twenty is said to matter, over six searches."""
    chance = np.random.default_rng(0)
    called = [importances(PROBLEM, tried(40, n)[0], chance.normal(size=40), n, evenly=True).matters for n in range(6)]
    assert sum(map(len, called)) <= 1


def test_a_search_that_learns_gives_a_hint_only():
    """Of trials that were not spread evenly nothing is said to matter, and why."""
    found = importances(PROBLEM, *tried(), evenly=False)
    assert found.shares and not found.matters
    assert "A hint only" in in_words(found) and "rate has the largest share" in in_words(found)
    assert all(row[-1] is None for row in table(found).rows)


def test_too_few_trials():
    """Under the bound there are no shares but a sentence; failed trials don't count towards it."""
    settings, losses = tried(least(SPACE))
    found = importances(PROBLEM, settings, [None, *losses[1:]], evenly=True)
    assert found.trials == least(SPACE) - 1 and not found.shares
    assert in_words(found) == "Too few trials to say which parameters matter: 24 finished, and it takes 25."
    assert table(found).rows == []
    with pytest.raises(UserError, match="Too few trials"):
        chart(found)
    assert importances(PROBLEM, settings, losses).shares


def test_seeds():
    """The same seed gives the same shares."""
    trials = tried(30)
    assert importances(PROBLEM, *trials, 5).shares == importances(PROBLEM, *trials, 5).shares


def test_unknown_evaluator():
    """Another evaluator is an error that names those there are."""
    with pytest.raises(UserError, match=r"no evaluator 'ANOVA'.*fANOVA, PED-ANOVA"):
        importances(PROBLEM, *tried(), by="ANOVA")


def test_shown():
    """Table and chart have each parameter with what luck gives beside it, and the words say which matter."""
    found = importances(PROBLEM, *tried(120), evenly=True)
    assert [row[0] for row in table(found).rows] == chart(found).series[0].x == list(found.shares)
    assert table(found).rows[0][-1] == "yes" and table(found).rows[-1][0] == NOTHING
    assert "rate" in in_words(found) and "can't be told from a parameter that does nothing" in in_words(found)
    charts.chart(chart(found))


def test_slices():
    """A slice has every finished trial at its value, on the parameter's own scale; choices become bars."""
    settings, losses = tried(40)
    rate, kind = slices(PROBLEM, settings, [math.nan, *losses[1:]], ["rate", "kind", "idle"], most=2)
    assert (rate.shape, rate.log_x, kind.shape) == ("points", True, "bars")
    assert rate.series[0].x == [setting["rate"] for setting in settings[1:]]
    assert rate.series[0].y == losses[1:]
    assert rate.series[1].y == [min(losses[1:])]
    assert sorted(kind.series[0].x) == ["None", "a", "b"]
    low, middle, high = (getattr(kind.series[0], end) for end in ("low", "y", "high"))
    assert all(a <= b <= c for a, b, c in zip(low, middle, high, strict=True))
    for each in (rate, kind):
        charts.chart(each)
    assert slices(PROBLEM, settings[:1], [None]) == []
