"""Tuning problems: published minima, recorded trainings, your own objectives and tables."""

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pandas
import pytest
from optuna.trial import FixedTrial

from kit.errors import UserError
from kit.techniques.tuning import simulation, tables, time_to_target, workload
from kit.techniques.tuning.fixed_budget import FixedBudget, HeldOutCheck
from kit.techniques.tuning.time_to_target import TimeToTarget
from kit.techniques.tuning.workload import SIMULATED, TABLES, own, table

MINIMUM = (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573)

# A known function -----------------------------------------------------------------------------------------------------


def test_the_known_function_has_its_published_minimum_and_nothing_below():
    """The published point has the published value; no random point is below it."""
    problem = SIMULATED["Hartmann-6"]()
    named = lambda x: dict(zip(problem.space, x, strict=True))  # noqa: E731
    assert problem.truth(named(MINIMUM)) == pytest.approx(-3.32237, abs=1e-5)
    points = np.random.default_rng(0).uniform(size=(5_000, 6))
    assert min(problem.truth(named(point)) for point in points) >= -3.32237


# Recorded trainings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_a_recorded_table_is_complete(name):
    """Every setting, seed and rung has a finite loss, positive seconds and a test loss; the default was recorded."""
    found = table(name)
    shape = tuple(len(axis["values"]) for axis in found.about["axes"])
    assert found.loss.shape == found.seconds.shape == (*shape, len(found.about["seeds"]), len(found.about["rungs"]))
    assert found.test.shape == found.loss.shape[:-1]
    assert all(np.isfinite(array).all() for array in (found.loss, found.seconds, found.test))
    assert (found.seconds > 0).all()
    assert all(found.about["default"][axis["name"]] in axis["values"] for axis in found.about["axes"])
    problem = SIMULATED[name]()
    assert problem.held_out(problem.default) == pytest.approx(found.test[found.place(problem.default)].mean(), rel=1e-5)


def test_a_setting_has_the_losses_of_its_nearest_recorded_one():
    """Nearest is by factor on a log axis, and by distance else."""
    found = table("digits net")
    setting = dict(found.about["default"], learning_rate=0.0017, dropout=0.13, width=256)
    axes = {axis["name"]: axis["values"] for axis in found.about["axes"]}
    place = dict(zip(axes, found.place(setting), strict=True))
    assert axes["learning_rate"][place["learning_rate"]] == 0.001
    assert axes["dropout"][place["dropout"]] == 0.25
    assert axes["width"][place["width"]] in (128, 512)


def test_a_trial_looks_up_losses_and_seconds_of_one_recorded_run():
    """The losses that a trial reports, and its seconds, are those of one recorded run."""
    problem, found = SIMULATED["adult trees"](), table("adult trees")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask(fixed_distributions=dict(problem.space))
    loss = problem.objective(trial)
    place = found.place(trial.params)
    run = found.loss[place][:, -1].tolist().index(pytest.approx(loss))
    assert list(study.trials[0].intermediate_values) == [1, 3, 9]
    assert study.trials[0].intermediate_values[3] == pytest.approx(found.loss[place][run, 1])
    assert study.trials[0].user_attrs["seconds"] == pytest.approx(found.seconds[place][run].sum())


# Your own objective ---------------------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that can be imported, and return its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(code: str) -> str:
        name = f"own_{abs(hash(code))}"
        (tmp_path / f"{name}.py").write_text(code)
        return name

    return write


def test_your_own_objective_brings_its_defaults_and_its_held_out_data(module):
    """Attributes of the function become those of the problem."""
    code = "def f(trial):\n    return trial.suggest_float('x', 0, 1)\n"
    name = module(f"{code}f.default = {{'x': 0.5}}\nf.held_out = lambda setting: 2 * setting['x']\n")
    problem = own(f"{name}:f")
    assert (problem.default, problem.held_out({"x": 2})) == ({"x": 0.5}, 4)
    assert problem.objective(FixedTrial({"x": 0.25})) == 0.25


@pytest.mark.parametrize(
    "body, default, error",
    [
        ("return 1 / (trial.suggest_int('depth', 0, 9) - 3)", {"depth": 3},
         r"f fails at its own defaults, {'depth': 3}: ZeroDivisionError.*; fix the objective or these"),
        ("return trial.suggest_float('rate', 0, 1) * float('inf')", {"rate": 0.5}, "its loss was inf"),
        ("return trial.suggest_int('depth', 1, 9) + trial.suggest_float('rate', 0, 1)", {"depth": 3},
         "defaults of f have no 'rate', which it asks for; add it"),
        ("return 0.0", 3, "has default=3; give a dict"),
        ("raise KeyError('amount')", None, "f fails at a configuration drawn at random, {}: KeyError: 'amount'; fix"),
    ],
)  # fmt: skip
def test_an_objective_that_fails_at_its_own_defaults_is_refused_in_a_sentence(module, body, default, error):
    """Before anything is measured, with the setting, the reason and the remedy."""
    name = module(f"def f(trial):\n    {body}\nf.default = {default}\n")
    with pytest.raises(UserError, match=error):
        time_to_target.target(workload.open_problem(f"{name}:f"), 4)


def test_what_an_objective_imports_in_its_first_call_is_no_trial_time(module, monkeypatch):
    """Half a second of loading counts neither in the target's mean trial nor in a round."""
    code = "import functools\nnow = [0.0]\nload = functools.cache(lambda: now.append(now.pop() + 0.5))\n"
    name = module(f"{code}def f(trial):\n    load()\n    return trial.suggest_float('x', 0, 1)\n")
    made = importlib.import_module(name)
    monkeypatch.setattr(simulation, "time", SimpleNamespace(perf_counter=lambda: made.now[0]))
    target = time_to_target.target(workload.open_problem(f"{name}:f"), 4)
    assert target.mean_s == 0 and made.now == [0.5]
    made.load.cache_clear()
    assert TimeToTarget("random")(target).call(1).metrics["work s"] == 0 and made.now == [1.0]


# Real tables ----------------------------------------------------------------------------------------------------------


def frame(rows=240, seed=0) -> pandas.DataFrame:
    """Return purchases: age and town tell who buys, the shop does not."""
    random = np.random.default_rng(seed)
    made = pandas.DataFrame({"age": random.integers(18, 80, rows), "town": random.choice(["A", "B", "C"], rows)})
    made["shop"] = random.integers(0, 24, rows)
    made["name"] = [f"person {number}" for number in range(rows)]
    made["price"] = np.where(made.age > 40, 3.0, 1.0) + random.normal(size=rows)
    made["bought"] = np.where((made.age > 40) ^ (random.random(rows) < 0.1), "yes", "no")
    return made


@pytest.fixture
def csv(tmp_path):
    """Write a frame as CSV and return its path."""

    def write(made: pandas.DataFrame) -> str:
        made.to_csv(tmp_path / "own.csv", index=False)
        return str(tmp_path / "own.csv")

    return write


def test_your_own_csv_becomes_a_table(csv):
    """Texts become categories, a text per row is left out, the group column is no feature; texts are classes."""
    found = tables.load(csv(frame()), "bought by shop")
    assert found.classes == ("no", "yes")
    assert list(found.features.columns) == ["age", "town", "price"]
    assert str(found.features.town.dtype) == "category"
    assert "Left out: name" in found.note
    assert not tables.load(csv(frame()), "price").classes


def test_whole_numbers_are_taken_as_what_the_user_says(csv):
    """Counts of nights are a number or classes, with a group or without; two values are classes without a word."""
    path = csv(frame().assign(nights=np.arange(240) % 8, returned=np.arange(240) % 2))
    assert tables.load(path, "nights as number").measure == "mean squared error"
    assert tables.load(path, "nights as classes by shop").classes == tuple("01234567")
    assert tables.load(path, "nights as number by shop").groups is not None
    assert tables.load(path, "returned").classes == ("0", "1")


@pytest.mark.parametrize("target", ["bought", "bought by shop", "price", "price by shop"])
def test_no_row_and_no_group_is_both_seen_and_held_out(csv, target):
    """Held-out rows are a quarter; neither they nor their groups are seen by trials, and folds share none either."""
    found = tables.load(csv(frame()), target)
    rows = next(tables.parts(found, tables.HELD_OUT, seed=1))
    assert not set(rows[0]) & set(rows[1])
    assert len(rows[0]) + len(rows[1]) == 240
    assert 0.15 < len(rows[1]) / 240 < 0.35
    if found.groups is not None:
        assert not set(found.groups[rows[0]]) & set(found.groups[rows[1]])
    problem = tables.boosted_trees(csv(frame()), target)
    for fit_rows, judged in problem.folds:
        assert not set(fit_rows) & set(judged)
        if found.groups is not None:
            assert not set(problem.seen.groups[fit_rows]) & set(problem.seen.groups[judged])


@pytest.mark.parametrize(
    "target, change, error",
    [
        ("boght", {}, "target_column='boght' is no column of .*; did you mean 'bought'"),
        ("bought by shp", {}, "'shp' is no column of .*; did you mean 'shop'"),
        ("", {}, "needs a target"),
        ("bought", {"bought": "yes"}, "1 different values"),
        ("price", {"price": np.nan}, "240 missing"),
        ("bought by shop", {"shop": 1}, "has 1 groups; give a group column with 8 or more"),
        (
            "stars",
            {"stars": [1, 2, 3, 4, 5] * 48},
            "5 whole numbers from 1 to 5; write 'stars as classes' or 'stars as n",
        ),
        ("bought as number", {}, "'bought' has .* values, no numbers; write 'bought as classes'"),
    ],
)
def test_a_mistake_in_your_own_table_is_reported(csv, target, change, error):
    """The error names the column and what to do."""
    with pytest.raises(UserError, match=error):
        tables.boosted_trees(csv(frame().assign(**change)), target)


def test_boosted_trees_learn_and_are_judged_on_rows_that_no_trial_saw(csv):
    """The defaults' held-out loss is better than guessing; a class that a fold never met costs, and breaks nothing."""
    problem = tables.boosted_trees(csv(frame()), "bought", rows=60)
    assert len(problem.seen.labels) == pytest.approx(60, abs=10)
    model = tables.fit(problem.seen, dict(problem.default, n_estimators=20))
    assert problem.held.losses(tables.predict(model, problem.held)).mean() < np.log(2)
    model = tables.fit(problem.seen.take(np.flatnonzero(problem.seen.labels == 0)), {"n_estimators": 2})
    assert np.isfinite(problem.held.losses(tables.predict(model, problem.held))).all()


def test_a_trial_on_a_table_reports_the_mean_over_its_folds_and_can_be_pruned(csv):
    """Step k has the mean loss of k folds."""
    problem = tables.boosted_trees(csv(frame()), "price")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(dict(problem.default, n_estimators=20))
    study.optimize(problem.objective, n_trials=1)
    assert list(study.trials[0].intermediate_values) == [1, 2, 3]
    assert study.trials[0].value == study.trials[0].intermediate_values[3]
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=0.0))
    study.optimize(problem.objective, n_trials=1)
    assert study.trials[0].state.name == "PRUNED"
    assert list(study.trials[0].intermediate_values) == [1]


@pytest.mark.parametrize("method", ["defaults", "TPE", "Hyperopt TPE", "FLAML"])
def test_methods_of_a_fixed_budget_are_evaluated_on_rows_whose_labels_they_never_see(csv, method):
    """All find what separates the classes; the defaults are no better or worse than themselves."""
    problem = tables.boosted_trees(csv(frame()), "bought")
    check, default = HeldOutCheck(problem.held), FixedBudget("defaults", 0.5)(problem).call()
    work = FixedBudget(method, 0.5)(problem)
    check(work.call(), default)
    found = check.evaluated[method][1]
    assert work.execution_proof().facts["method"] == method
    assert found.loss < np.log(2) and (method != "defaults" or (found.low, found.high) == (0, 0))


# The recorder ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def recorder(monkeypatch):
    """Import the script that records tables."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module("record_tuning_tables")


def test_no_test_row_is_seen_by_a_trial(recorder):
    """Whatever the seed, the test rows are the same, and none is fitted or validated on."""
    sizes = recorder.RECIPES["adult trees"]["sizes"]
    parts = [list(map(set, recorder.split(48_790, sizes, seed))) for seed in (0, 1, 2)]
    assert all(not (fit | validation) & test and not fit & validation for fit, validation, test in parts)
    assert parts[0][2] == parts[1][2] == parts[2][2] and parts[0][1] != parts[1][1]
