"""The searches: what each promises to whoever asks it for trials and tells it of them."""

import math
import subprocess
import sys
from statistics import median

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from kit.errors import UserError
from kit.techniques.tuning.problem import Problem, Step
from kit.techniques.tuning.searches import SEARCHES
from kit.techniques.tuning.searches.by_optuna import NAMES, OnOptuna, caveat, levels, pruner, sampler, spread

SPACE = {
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "depth": IntDistribution(2, 10, step=2),
    "trees": IntDistribution(1, 300, log=True),
    "share": FloatDistribution(0.1, 0.9, step=0.2),
    "shift": FloatDistribution(-3.0, 5.0),
    "kind": CategoricalDistribution(["a", "b", None]),
}
PLAIN = {"x": FloatDistribution(-5.0, 5.0), "y": FloatDistribution(-5.0, 5.0)}
LEARNS = ["TPE", "CMA-ES", "GP", "Hyperopt TPE"]
QUICK = [name for name in SEARCHES if name != "GP"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Have torch, which GP is made with, use one thread: these problems are small."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bowl(setting) -> float:
    """Return 0 at its one lowest point, x = 1 and y = -2."""
    return (setting["x"] - 1) ** 2 + (setting["y"] + 2) ** 2


def mixed(setting) -> float:
    return (math.log10(setting["rate"]) + 2) ** 2 + (setting["depth"] - 6) ** 2 / 4 + (setting["kind"] != "b")


def problem(space=SPACE, loss=mixed, steps=1) -> Problem:
    """Return a problem whose loss falls to `loss(setting)` over its steps."""

    def trial(setting, seed):
        return (Step(loss(setting) + 1 - step / steps, 1.0) for step in range(1, steps + 1))

    return Problem("bowl", space, trial, steps=steps)


def run(name, task, trials, seed=0, at_once=1, failing=()):
    """Return settings, losses (None where failed) and numbers of pruned trials, with `at_once` trials under way."""
    search = SEARCHES[name](task, trials, seed)
    waiting, settings, losses, pruned = [], [], {}, set()
    for _ in range(trials):
        asked = search.ask()
        if asked is None:
            break
        settings.append(dict(asked.setting))
        waiting.append(asked)
        if len(waiting) == at_once:
            finish(search, task, waiting.pop(0), losses, pruned, failing)
    for asked in waiting:
        finish(search, task, asked, losses, pruned, failing)
    return settings, losses, pruned


def finish(search, task, asked, losses, pruned, failing):
    losses[asked.number] = None
    if asked.number in failing:
        return search.tell(asked, None)
    for number, step in enumerate(task.trial(asked.setting, 0), 1):
        if search.stops(asked, number, step.loss):
            pruned.add(asked.number)
            break
    losses[asked.number] = step.loss
    return search.tell(asked, step.loss, pruned=asked.number in pruned)


# ------------------------------------------------------------------------------------------------ every search


@pytest.mark.parametrize("name", SEARCHES)
def test_settings_are_in_the_space(name):
    """Every setting has a value of the right type, inside its range, for each parameter."""
    space = SPACE if name != "GP" else PLAIN | {"kind": SPACE["kind"], "depth": SPACE["depth"]}
    loss = mixed if name != "GP" else bowl
    settings, _, _ = run(name, problem(space, loss, steps=9), 12)
    assert len(settings) == 12
    for setting in settings:
        assert list(setting) == list(space)
        for parameter, kind in space.items():
            value = setting[parameter]
            assert kind._contains(kind.to_internal_repr(value)), (parameter, value)
            if not isinstance(kind, CategoricalDistribution):
                assert type(value) is type(kind.low), (parameter, value)


@pytest.mark.parametrize("name", SEARCHES)
def test_seeds(name):
    """The same seed gives the same settings, another seed others."""
    task = problem(PLAIN, bowl, steps=9)
    first, again, other = (run(name, task, 12, seed)[0] for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", SEARCHES)
def test_several_under_way(name):
    """Three trials may be under way at once: all differ, and all are counted when told."""
    settings, losses, _ = run(name, problem(PLAIN, bowl), 14, at_once=3)
    count = 12 if name == "grid" else 14
    assert len({tuple(setting.values()) for setting in settings}) == count
    assert sorted(losses) == list(range(count))


@pytest.mark.parametrize("name", QUICK)
def test_told_in_another_order(name):
    """Trials may end in another order than they were asked for."""
    search = SEARCHES[name](problem(), 16, 0)
    for _ in range(4):
        for asked in reversed([search.ask() for _ in range(4)]):
            if asked is not None:
                search.tell(asked, mixed(asked.setting))


@pytest.mark.parametrize("failure", [None, math.nan, math.inf])
@pytest.mark.parametrize("name", SEARCHES)
def test_failed_trials(name, failure):
    """A search goes on after trials that failed, the first among them, or that ended in no finite number."""
    search = SEARCHES[name](problem(PLAIN, bowl), 16, 0)
    for number in range(14):
        asked = search.ask()
        search.tell(asked, failure if number in (0, 3, 11) else bowl(asked.setting))
    assert asked.number == 13


@pytest.mark.parametrize("name", LEARNS)
def test_learns(name):
    """A search that learns ends far nearer to the lowest point than random search does at its median."""
    task, trials = problem(PLAIN, bowl), 40 if name != "GP" else 18
    random = median(min(run("random", task, trials, seed)[1].values()) for seed in range(9))
    found = [min(run(name, task, trials, seed)[1].values()) for seed in range(4 if name != "GP" else 2)]
    assert median(found) < random / 2


@pytest.mark.parametrize("name", ["TPE", "Hyperopt TPE"])
def test_learns_from_the_failed(name):
    """A search learns to stay out of a half of the space in which every trial fails."""
    for seed in range(3):
        search, inside = SEARCHES[name](problem(PLAIN, bowl), 60, seed), []
        for _ in range(60):
            asked = search.ask()
            inside.append(asked.setting["x"] > 0)
            search.tell(asked, bowl(asked.setting) if inside[-1] else None)
        assert sum(inside[30:]) > 15


def test_quasi_random_fills_evenly():
    """Of 64 quasi-random settings each quarter of a range holds 16, but for the first, which is drawn at random."""
    settings, _, _ = run("quasi-random", problem(PLAIN, bowl), 65)
    quarters = [sum(1 for each in settings[1:] if math.floor((each["x"] + 5) / 2.5) == part) for part in range(4)]
    assert quarters == [16] * 4


def test_names():
    """Every name that is offered opens a search, and an unknown one is an error that names those there are."""
    assert [*NAMES, "Hyperopt TPE"] == list(SEARCHES)
    with pytest.raises(UserError, match=r"no search 'TPF'.*TPE"):
        sampler("TPF", 0, problem(), 10)
    with pytest.raises(UserError, match=r"no pruner 'ASHE'.*ASHA"):
        OnOptuna("GP + ASHE", problem(), 10, 0)


def test_nothing_is_said():
    """No search warns or logs, and Optuna's level of logging is left as it was."""
    code = """if True:
        import warnings, optuna
        warnings.simplefilter("always")
        from kit.techniques.tuning.problem import Problem
        from kit.techniques.tuning.searches import SEARCHES
        from optuna.distributions import CategoricalDistribution, FloatDistribution
        space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1), "c": CategoricalDistribution(["a", "b"])}
        before = optuna.logging.get_verbosity()
        for name, opening in SEARCHES.items():
            search = opening(Problem("p", space, None, steps=4), 12, 0)
            for number in range(12):
                if (asked := search.ask()) is not None:
                    search.stops(asked, 1, asked.setting["x"])
                    search.tell(asked, float("nan") if number == 2 else asked.setting["x"])
        assert optuna.logging.get_verbosity() == before == optuna.logging.INFO
    """
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_light():
    """To know the names of the searches imports none of what they are made with."""
    code = "import kit.techniques.tuning.searches, sys; print({'optuna', 'hyperopt', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# ------------------------------------------------------------------------------------------------ grids


def test_grid_ends():
    """A grid tries each of its settings once, in no order, and then has nothing left."""
    settings, _, _ = run("grid", problem(PLAIN, bowl), 30, seed=1)
    assert len(settings) == 30
    firsts = [setting[next(iter(PLAIN))] for setting in settings]
    assert firsts not in (sorted(firsts), sorted(firsts, reverse=True))
    search = SEARCHES["grid"](problem(PLAIN, bowl), 9, 0)
    asked = [search.ask() for _ in range(10)]
    assert asked[9] is None
    assert len({tuple(each.setting.values()) for each in asked[:9]}) == 9


def test_grid_that_ends_with_trials_under_way():
    """The last trials of a grid are told like the others."""
    search = SEARCHES["grid"](problem(PLAIN, bowl), 4, 0)
    asked = [search.ask() for _ in range(5)]
    assert asked.pop() is None
    for each in asked:
        search.tell(each, 1.0)
    assert search.ask() is None


def test_levels_fit_the_trials():
    """A grid holds every choice, about as many levels of each number, and never more settings than trials."""
    for trials in (3, 10, 64, 200):
        grid = levels(SPACE, trials)
        counts = [len(values) for name, values in grid.items() if name != "kind"]
        assert grid["kind"] == ["a", "b", None]
        assert math.prod(counts) * 3 <= trials
        assert max(counts) - min(counts) <= 2
    assert math.prod(map(len, levels(PLAIN, 30).values())) == 30


def test_seeds_shift_a_grid_and_average_its_luck():
    """Another seed has another grid, as evenly spread; over many of them each part of the range is as likely."""
    space = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(1.0, 100.0, log=True)}
    grids = [levels(space, 9, seed) for seed in range(200)]
    assert grids[0] == levels(space, 9, 0) != grids[1]
    assert all(np.diff(grid["x"]).tolist() == pytest.approx([1 / 3, 1 / 3]) for grid in grids)
    drawn = np.concatenate([grid["x"] for grid in grids])
    assert np.histogram(drawn, 6, (0, 1))[0].min() > 60
    assert all(1 <= value <= 100 for grid in grids for value in grid["y"])


def test_levels_are_spread_evenly():
    """Levels are the middles of equal parts: of the range, of its logarithm, and whole numbers of whole ones."""
    assert spread(FloatDistribution(0.0, 1.0), 2) == [0.25, 0.75]
    assert spread(FloatDistribution(1e-4, 1.0, log=True), 2) == pytest.approx([1e-3, 1e-1])
    assert spread(IntDistribution(1, 3), 9) == [1, 2, 3]
    assert spread(IntDistribution(2, 10, step=4), 3) == [2, 6, 10]
    assert spread(IntDistribution(1, 4, log=True), 20) == [1, 2, 3, 4]
    assert spread(FloatDistribution(0.0, 1.0, step=0.5), 3) == [0.0, 0.5, 1.0]


# ------------------------------------------------------------------------------------------------ pruning


@pytest.mark.parametrize("name", ["random + ASHA", "TPE + ASHA", "TPE + Hyperband"])
def test_pruning_stops_the_bad_and_never_the_best(name):
    """Trials are stopped, those that are not are better, and the best of all runs to its end, in every seed."""
    for seed in range(4):
        _, losses, pruned = run(name, problem(PLAIN, bowl, steps=9), 40, seed)
        whole = {number: loss for number, loss in losses.items() if number not in pruned}
        assert len(pruned) >= 8
        assert min(whole.values()) < min(losses[number] for number in pruned)
        assert median(whole.values()) < median(losses[number] for number in pruned)


@pytest.mark.parametrize("name", [name for name in SEARCHES if " + " not in name and name != "GP"])
def test_without_pruning_nothing_stops(name):
    """A search without a pruner never stops a trial."""
    assert not run(name, problem(PLAIN, bowl, steps=9), 20)[2]


@pytest.mark.parametrize("name", ["TPE + ASHA", "TPE + Hyperband"])
def test_last_step_is_never_stopped(name):
    """After the last step there is nothing to save, so that a trial of one step is never called pruned."""
    assert not run(name, problem(PLAIN, bowl, steps=1), 20)[2]


def test_hyperband_has_several_first_rungs():
    """Hyperband lets some trials run on to a later rung which successive halving alone would have stopped."""
    task = problem(PLAIN, bowl, steps=9)

    def steps_of_a_bad_trial(name, seed):
        search = SEARCHES[name](task, 60, seed)
        for _ in range(40):
            asked = search.ask()
            if not any(search.stops(asked, step, 1.0) for step in range(1, 10)):
                search.tell(asked, 1.0)
            else:
                search.tell(asked, 1.0, pruned=True)
        bad = search.ask()
        return next((step for step in range(1, 10) if search.stops(bad, step, 9.0)), 9)

    assert {steps_of_a_bad_trial("TPE + ASHA", seed) for seed in range(8)} == {1}
    assert len({steps_of_a_bad_trial("TPE + Hyperband", seed) for seed in range(8)}) > 1


def test_pruned_trials_teach_tpe():
    """TPE learns from trials that were stopped: their last loss is kept and their state is pruned."""
    search = SEARCHES["TPE + ASHA"](problem(PLAIN, bowl, steps=9), 10, 0)
    for loss in (1.0, 5.0):
        asked = search.ask()
        search.tell(asked, loss, pruned=search.stops(asked, 1, loss))
    assert [trial.state.name for trial in search.study.trials] == ["COMPLETE", "PRUNED"]
    assert search.study.trials[1].intermediate_values == {1: 5.0}


def test_rungs_are_the_problems_steps():
    """Pruners know how many steps a trial has."""
    assert pruner("Hyperband", problem(steps=27))._max_resource == 27
    assert type(pruner("", problem())).__name__ == "NopPruner"


def test_caveats():
    """What a search can't do on a problem is said: choices for CMA-ES, one step for a pruner."""
    assert "kind at random" in caveat("CMA-ES", problem())
    assert "everything at random" in caveat("CMA-ES", problem({"x": FloatDistribution(0.0, 1.0)}))
    assert "nothing to stop" in caveat("TPE + ASHA", problem())
    assert caveat("TPE + ASHA", problem(steps=9)) == caveat("CMA-ES", problem(PLAIN)) == caveat("GP", problem()) == ""
