"""Ranks of searches: known by hand, ties said, and nobody called better who isn't."""

import itertools
import math

import numpy as np
import pytest

from kit.errors import UserError
from kit.record import charts
from kit.techniques.tuning.ranks import (
    chart,
    critical_difference,
    friedman,
    holm,
    in_words,
    on_problem,
    over_problems,
    ranked,
    signed_rank,
    table,
)

SEEDS = 20


def alike(chance, searches=4, seeds=SEEDS):
    """Return regrets of searches that differ by luck alone, with the heavy tail that regrets have."""
    return {f"search {n}": chance.lognormal(0, 1, seeds) for n in range(searches)}


def clear(chance, problems=6):
    """Return regrets on problems of unlike scale: one search ten times better, one ten times worse, two alike."""
    levels = {"best": 0.1, "same": 1.0, "alike": 1.0, "worst": 10.0}
    return {
        f"problem {n}": {name: 10.0**n * level * chance.lognormal(0, 0.3, SEEDS) for name, level in levels.items()}
        for n in range(problems)
    }


# ------------------------------------------------------------------------------------------------ by hand


def test_ranks_by_hand():
    """The lowest is 1; ties share the mean of their ranks; what differs by the tolerance or less is a tie."""
    assert ranked(np.array([3.0, 1.0, 2.0])).tolist() == [3, 1, 2]
    assert ranked(np.array([[1.0, 1.0, 0.0], [5.0, 5.0, 5.0]])).tolist() == [[2.5, 2.5, 1], [2, 2, 2]]
    assert ranked(np.array([0.10, 0.14, 0.30]), 0.05).tolist() == [1.5, 1.5, 3]
    assert ranked(np.array([math.inf, 1.0, math.inf])).tolist() == [2.5, 1, 2.5]


def test_mean_ranks_by_hand():
    """The mean rank of a search on a problem is over its seeds, over problems over the ranks of its medians."""
    one = {
        "a": np.array([1.0, 1.0, 5.0, 1.0]),
        "b": np.array([2.0, 2.0, 2.0, 1.0]),
        "c": np.array([3.0, 3.0, 3.0, 9.0]),
    }
    found = on_problem("one", one)
    assert found.means == {"a": 6.5 / 4, "b": 6.5 / 4, "c": 11 / 4}
    both = over_problems({"one": one, "two": {name: values[::-1] * 100 for name, values in one.items()}})
    assert both.means == {"a": 1, "b": 2, "c": 3}
    assert both.ranks == {"one": {"a": 1, "b": 2, "c": 3}, "two": {"a": 1, "b": 2, "c": 3}}
    assert over_problems({"one": one}, tolerance={"one": 1.0}).means == {"a": 2, "b": 2, "c": 2}


def test_holm_by_hand():
    """The least p counts for all pairs, the next for one fewer, and none for less than the one before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5]) == pytest.approx([1.0, 1.0])


def test_published_critical_difference():
    """The critical difference is that of Demšar's example: 4 searches on 14 problems, 1.25 (2.569 √(4·5/(6·14)))."""
    assert critical_difference(4, 14) == pytest.approx(2.569 * math.sqrt(20 / 84), abs=1e-3)


def test_friedman_agrees_with_the_usual_test():
    """Where there are many blocks, the permuted test gives the p of the usual chi-squared one."""
    from scipy.stats import friedmanchisquare

    chance = np.random.default_rng(1)
    values = chance.normal([0, 0.1, 0.35], 1, (60, 3))
    assert friedman(ranked(values), chance) == pytest.approx(friedmanchisquare(*values.T).pvalue, abs=0.02)
    assert friedman(np.ones((5, 3)) * 2, chance) == 1.0


def test_no_difference_is_no_evidence():
    """Equal regrets, and pairs of which both failed, tell nothing."""
    assert signed_rank(np.ones(20), np.ones(20)) == 1.0
    assert signed_rank(np.full(20, math.inf), np.full(20, math.inf)) == 1.0
    assert signed_rank(np.linspace(0.1, 1, 20), np.zeros(20)) < 1e-4


# ------------------------------------------------------------------------------------------------ who is told apart


def test_luck_is_not_told_apart():
    """Of searches that differ by luck alone, some pair is called different in at most 5 % of 300 draws."""
    chance = np.random.default_rng(0)
    false = 0
    for _ in range(300):
        regrets = list(alike(chance).values())
        false += min(holm([signed_rank(a, b) for a, b in itertools.combinations(regrets, 2)])) <= 0.05
    assert false <= 15


@pytest.mark.parametrize("problems", [3, 8])
def test_luck_over_problems_is_not_told_apart(problems):
    """Over problems, too, chance alone makes a winner in at most 5 % of 100 draws."""
    chance = np.random.default_rng(1)
    found = [over_problems({str(n): alike(chance) for n in range(problems)}, seed=draw) for draw in range(100)]
    assert sum(bool(ranking.apart) for ranking in found) <= 5


def test_the_same_search_twice_is_tied():
    """A search against itself is tied on every seed and never told apart."""
    values = np.random.default_rng(0).lognormal(0, 1, SEEDS)
    found = on_problem("p", {"one": values, "two": values.copy()})
    assert found.means == {"one": 1.5, "two": 1.5}
    assert (found.apart, found.p) == (frozenset(), 1.0)


def test_a_better_search_is_told_apart():
    """A search that is clearly better is told apart from every other on one problem, and two alike ones are not."""
    found = on_problem("p", clear(np.random.default_rng(0))["problem 0"])
    assert sorted(found.means, key=found.means.get)[:: len(found.means) - 1] == ["best", "worst"]
    assert {frozenset(("same", "alike"))} == {
        frozenset(pair) for pair in itertools.combinations(found.means, 2) if frozenset(pair) not in found.apart
    }
    assert found.groups == [sorted(("same", "alike"), key=list(found.means).index)]


def test_a_better_search_is_told_apart_over_problems():
    """Over enough problems the best is told apart from the worst, whatever the scales of the regrets."""
    found = over_problems(clear(np.random.default_rng(0), 8))
    assert frozenset(("best", "worst")) in found.apart
    assert found.means["best"] == 1 and found.means["worst"] == 4
    assert "same" in found.tied("alike")


def test_few_blocks_say_so():
    """With too few seeds or problems nothing can be told apart, however clear it is, and that is said."""
    few = {name: values[:4] for name, values in clear(np.random.default_rng(0))["problem 0"].items()}
    found = on_problem("p", few)
    assert not found.apart and "So few seeds" in in_words(found)
    found = over_problems(clear(np.random.default_rng(0), 2))
    assert not found.apart and "So few problems" in in_words(found)


def test_seeds_are_no_problems():
    """More seeds of the same problems tell no more pairs apart over problems."""
    chance = np.random.default_rng(0)
    many = {"p": {name: np.tile(values, 50) for name, values in clear(chance)["problem 0"].items()}}
    assert not over_problems(many).apart


def test_intervals_cover_their_mean_and_shrink():
    """The interval of a mean rank holds it, and is narrower with more problems."""
    few, many = (over_problems(clear(np.random.default_rng(0), problems)) for problems in (3, 12))
    for found in (few, many):
        assert all(low <= found.means[name] <= high for name, (low, high) in found.intervals.items())
    width = [sum(high - low for low, high in found.intervals.values()) for found in (few, many)]
    assert width[1] < width[0]


def test_a_failed_search_is_last():
    """A search that came to nothing on a seed, NaN or infinite, is ranked last there."""
    found = on_problem("p", {"a": [1.0] * 8, "b": [math.nan] * 8, "c": [math.inf] * 8})
    assert found.means == {"a": 1.0, "b": 2.5, "c": 2.5}
    assert frozenset(("b", "c")) not in found.apart


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: on_problem("p", {"a": [1.0]}), "p has regrets of 1 searches; ranks need two or more"),
        (lambda: on_problem("p", {"a": [1.0], "b": [1.0, 2.0]}), r"unequal numbers of seeds \(a 1, b 2\)"),
        (lambda: on_problem("p", {"a": [], "b": []}), "unequal numbers of seeds"),
        (lambda: over_problems({}), "no problem"),
        (
            lambda: over_problems({"p": {"a": [1.0], "b": [1.0]}, "q": {"a": [1.0], "c": [1.0]}}),
            "q has other searches than p",
        ),
    ],
)
def test_what_cannot_be_ranked(make, told):
    """What can't be paired is one clear sentence."""
    with pytest.raises(UserError, match=told):
        make()


# ------------------------------------------------------------------------------------------------ shown


def test_shown():
    """Table, chart and words have each search, best first, its interval, and say ties as ties."""
    found = over_problems(clear(np.random.default_rng(0), 8))
    shown, drawn, told = table(found), chart(found), in_words(found)
    assert [row[0] for row in shown.rows] == drawn.series[0].x == list(found.means)
    assert shown.columns == ["search", "mean rank", "95 % interval", *found.ranks, "not told apart from"]
    assert "alike" in next(row for row in shown.rows if row[0] == "same")[-1]
    assert "not told apart" in told and told.startswith("Mean ranks over 8 problems: best 1.0, ")
    assert "best 1.00 at" in charts.in_words(drawn) or "1.00 at best" in charts.in_words(drawn)
    charts.chart(drawn)


def test_ties_in_words():
    """If nobody is told apart that is the sentence, with the chance of it; so is it if everybody is."""
    chance = np.random.default_rng(0)
    assert "No two searches are told apart" in in_words(on_problem("p", alike(chance)))
    two = {"a": chance.uniform(0, 1, 20), "b": chance.uniform(2, 3, 20)}
    assert "Each is told apart from every other" in in_words(on_problem("p", two))
