"""Known functions are as published, recorded tables are what was trained, and no trial sees the test part."""

from dataclasses import replace

import numpy as np
import pytest

from kit.errors import UserError
from kit.techniques.tuning.problem import Step
from kit.techniques.tuning.problems import PROBLEMS, known, record_tables, tabulated
from kit.techniques.tuning.problems.known import BRANIN, HARTMANN6, ROSENBROCK
from kit.techniques.tuning.problems.record_tables import RECIPES, SEEDS, Rows, run, split
from kit.techniques.tuning.problems.tabulated import FOLDER, TABLES, Axis, read

KNOWN = [HARTMANN6, BRANIN, ROSENBROCK]


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: getattr(case, "name", case))


def points(case: known.Known, count: int) -> np.ndarray:
    low, high = np.array(case.bounds).T
    return np.random.default_rng(0).uniform(low, high, (count, len(low)))


def losses(problem, setting, seeds) -> np.ndarray:
    return np.array([[step.loss for step in problem.trial(setting, seed)] for seed in seeds])


def seconds(problem, setting, seeds) -> np.ndarray:
    return np.array([[step.seconds for step in problem.trial(setting, seed)] for seed in seeds])


def sampled(problem, count: int) -> list[dict]:
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [study.ask(dict(problem.space)).params for _ in range(count)]


# --- known functions


@named(KNOWN)
def test_published_minimum(case):
    """A known function has its published value at the published point, to the digits that are published."""
    assert case.function(np.array(case.at)) == pytest.approx(case.best, abs=5e-6)


@pytest.mark.parametrize("point", [(-np.pi, 12.275), (np.pi, 2.275), (9.42478, 2.475)])
def test_branin_has_three_minima(point):
    """Branin's function has the same value at all three published points."""
    assert BRANIN.function(np.array(point)) == pytest.approx(0.397887, abs=1e-5)


@named(KNOWN)
def test_nothing_is_below_the_minimum(case):
    """No point of the space, nor one beside the minimum, is below what is given as the best."""
    beside = np.array(case.at) + np.random.default_rng(1).normal(0, 1e-3, (2000, len(case.at)))
    values = [case.function(x) for x in (*points(case, 20_000), *beside)]
    assert min(values) >= case.best


@named(KNOWN)
def test_spread_is_what_the_values_show(case):
    """The spread, of which noise is a part, is the standard deviation of the values over the space."""
    values = [case.function(x) for x in points(case, 50_000)]
    assert case.spread == pytest.approx(np.std(values), rel=0.03)


@named(KNOWN)
def test_noise_has_zero_mean_and_the_said_deviation(case):
    """A trial's loss is the truth and noise around it, of the deviation that was asked for."""
    problem = case.problem(0.1)
    errors = losses(problem, problem.default, range(2000))[:, -1] - problem.truth(problem.default)
    deviation = 0.1 * case.spread
    assert abs(errors.mean()) < 4 * deviation / np.sqrt(2000)
    assert errors.std() == pytest.approx(deviation, rel=0.08)


@named(KNOWN)
def test_without_noise_a_trial_tells_the_truth(case):
    """Without noise every seed gives the truth, and lasts as long as with noise."""
    calm, noisy = case.problem(0.0), case.problem(0.1)
    assert set(losses(calm, calm.default, range(20)).ravel()) == {calm.truth(calm.default)}
    assert (seconds(calm, calm.default, range(20)) == seconds(noisy, noisy.default, range(20))).all()


@named(KNOWN)
def test_durations_are_log_normal(case):
    """Trials last a log-normal time of the documented median and sigma, over settings as over seeds."""
    problem = case.problem(0.0)
    for times in (
        seconds(problem, problem.default, range(2000)),
        np.concatenate([seconds(problem, setting, [7]) for setting in sampled(problem, 500)]),
    ):
        logs = np.log(times.ravel())
        assert np.exp(logs.mean()) == pytest.approx(known.MEDIAN_S, rel=0.1)
        assert logs.std() == pytest.approx(known.SIGMA, rel=0.1)


def test_noise_below_zero_is_refused():
    """Noise below zero is refused with what may be given."""
    with pytest.raises(UserError, match="noise=-1 is below nothing; give 0"):
        known.branin(-1)


# --- every cheap problem


@named(PROBLEMS)
def test_same_seed_same_losses(case):
    """The same seed and setting give the same losses and seconds; with noise, other seeds give others."""
    problem, again = PROBLEMS[case](), PROBLEMS[case]()
    assert (losses(problem, problem.default, range(20)) == losses(again, again.default, range(20))).all()
    assert (seconds(problem, problem.default, range(20)) == seconds(again, again.default, range(20))).all()
    if case in TABLES or "noise" in case:
        assert len(np.unique(losses(problem, problem.default, range(20))[:, -1])) > 1


@named(PROBLEMS)
def test_a_cheap_problem_is_whole(case):
    """A cheap problem has the name it is found by, ends where it says, and has a default within its space."""
    problem = PROBLEMS[case]()
    assert problem.name == case
    assert problem.simulated
    steps = list(problem.trial(problem.default, 0))
    assert [step.at or taken for taken, step in enumerate(steps, 1)][-1] == problem.steps
    assert (seconds(problem, problem.default, [0]) > 0).all()
    assert problem.best <= problem.truth(problem.default)
    assert problem.space.keys() == problem.default.keys()
    assert all(axis.low <= problem.default[name] <= axis.high for name, axis in problem.space.items())


# --- recorded tables


@named(TABLES)
def test_a_table_is_whole(case):
    """A table has losses, seconds and a test loss of every setting, seed and rung of its recipe, all in range."""
    table, recipe = read(case), RECIPES[case]
    grid = tuple(len(axis.values) for axis in recipe.axes)
    assert table.loss.shape == table.seconds.shape == (*grid, len(SEEDS), len(recipe.rungs))
    assert table.test.shape == (*grid, len(SEEDS))
    for values in (table.loss, table.test):
        assert np.isfinite(values).all()
        assert (values > 0).all()
        assert values.max() < 16  # of log loss, at which probabilities are clipped
    assert (table.seconds > 0).all()
    assert table.seconds.max() < 60


@named(TABLES)
def test_a_table_says_what_it_is(case):
    """A table's description is that of the recipe in the code, and names day, processor, versions and rows."""
    about, recipe = read(case).about, RECIPES[case]
    assert (about.axes, about.rungs, about.unit, about.note) == (recipe.axes, recipe.rungs, recipe.unit, recipe.note)
    assert (about.default, about.loss, about.seeds) == (recipe.default, recipe.loss, SEEDS)
    assert about.rows == recipe.sizes._asdict()
    assert about.recorded.startswith("20")
    assert about.cpu
    assert {"python", "numpy", *recipe.packages.split()} == set(about.versions)


@named(TABLES)
def test_a_table_is_small(case):
    """A table takes less than 200 KB."""
    assert (FOLDER / f"{case.lower().replace(' ', '_')}.npz").stat().st_size < 200_000


@named(TABLES)
def test_settings_differ_by_more_than_seeds(case):
    """On a table there is something to find: settings differ by more than the seeds of one setting do."""
    table = read(case)
    assert table.truths().std() > 2 * table.loss[..., -1].std(axis=-1).mean()


@named(TABLES)
def test_the_default_is_recorded(case):
    """The default is one of the recorded settings."""
    assert read(case).about.default in [setting for _, setting in RECIPES[case].settings()]


@named(TABLES)
def test_best_is_the_smallest_truth(case):
    """The best is the smallest truth of all settings, and a truth is the mean of what trials show at their end."""
    problem, table = tabulated.tabulated(case), read(case)
    grid = [setting for _, setting in RECIPES[case].settings()]
    assert problem.best == min(problem.truth(setting) for setting in grid)
    recorded = table.loss[table.place(problem.default)][:, -1].astype(float)
    assert set(losses(problem, problem.default, range(60))[:, -1]) == set(recorded)
    assert problem.truth(problem.default) == pytest.approx(recorded.mean())


@named(TABLES)
def test_pruning_costs_only_the_steps_taken(case):
    """A trial that is stopped after its first step cost that step's seconds, and no more is worked out."""
    problem, table = tabulated.tabulated(case), read(case)
    first = next(problem.trial(problem.default, 3))
    whole = list(problem.trial(problem.default, 3))
    assert first == whole[0]
    assert first.seconds < sum(step.seconds for step in whole)
    assert first.seconds in table.seconds[table.place(problem.default)][:, 0]


@named(TABLES)
def test_any_setting_of_the_space_has_the_losses_of_its_nearest(case):
    """Whatever a sampler asks for has the losses, truth and test loss of one recorded setting: the nearest."""
    problem, table = tabulated.tabulated(case), read(case)
    grid = dict(RECIPES[case].settings())
    for setting in sampled(problem, 50):
        nearest = grid[table.place(setting)]
        assert (losses(problem, setting, range(5)) == losses(problem, nearest, range(5))).all()
        assert problem.truth(setting) == problem.truth(nearest)
        assert problem.final(setting) == problem.final(nearest)


@named(TABLES)
def test_every_recorded_setting_is_found(case):
    """Each setting of the grid is found at its own place."""
    table = read(case)
    assert all(table.place(setting) == place for place, setting in RECIPES[case].settings())


def test_nearest_is_by_factor_on_a_log_axis_and_by_distance_else():
    """4 is nearer to 10 than to 1 as a factor, and nearer to 1 as a distance."""
    assert Axis("x", (1, 10), log=True).nearest(4) == 1
    assert Axis("x", (1, 10)).nearest(4) == 0
    assert Axis("x", (0.0, 0.25, 0.5)).nearest(0.13) == 1


def test_an_unknown_table_is_refused_with_the_nearest_name():
    """A wrong name is told with the nearest, or with all if none is near."""
    with pytest.raises(UserError, match="no table is called 'digit nets'; did you mean 'digits net'"):
        tabulated.tabulated("digit nets")
    with pytest.raises(UserError, match="there are digits net, adult trees, MNIST kernel"):
        tabulated.tabulated("zzz")


# --- the recorder


@named(RECIPES)
def test_the_test_part_is_seen_by_no_trial(case):
    """Parts share no row, and whatever the seed, trials see the same rows and none of the test part."""
    recipe = RECIPES[case]
    parts = [split(50_000, recipe.sizes, seed) for seed in (*SEEDS, 99)]
    assert [len(part) for part in parts[0]] == list(recipe.sizes)
    seen = {frozenset(np.concatenate([fit, validation])) for fit, validation, _ in parts}
    tests = {frozenset(test) for _, _, test in parts}
    assert len(seen) == len(tests) == 1
    assert not seen.pop() & tests.pop()
    assert all(not set(fit) & set(validation) for fit, validation, _ in parts)
    assert len({frozenset(validation) for _, validation, _ in parts}) == len(parts)


@named(RECIPES)
def test_no_two_rows_of_the_data_are_the_same(case):
    """No row is there twice, so that none of the test part is also among those that trials see."""
    rows = RECIPES[case].rows()
    assert len(np.unique(np.column_stack([rows.inputs, rows.labels]), axis=0)) == len(rows.labels)
    assert len(rows.labels) >= sum(RECIPES[case].sizes)


@named(RECIPES)
def test_a_refit_is_judged_on_the_test_part_alone(case):
    """A run fits its fit rows and is judged on its validation rows; the refit gets both, and the test rows."""
    recipe, calls = RECIPES[case], []

    def train(setting, fit, judge, rungs, seed):
        calls.append((set(fit.labels), set(judge.labels), rungs))
        yield from (Step(float(rung), 1.0) for rung in rungs)

    count = sum(recipe.sizes)
    rows = Rows(np.zeros((count, 1), np.float32), np.arange(count))
    told = run(replace(recipe, train=train), rows, recipe.default, 1)
    fit, validation, test = map(set, split(count, recipe.sizes, 1 if recipe.resampled else 0))
    assert calls == [(fit, validation, recipe.rungs), (fit | validation, test, recipe.rungs[-1:])]
    assert told.loss == list(recipe.rungs)
    assert told.test == recipe.rungs[-1]


@named(RECIPES)
def test_a_recorded_run_is_reproduced_now(case):
    """One setting trained anew gives the recorded losses within 3 % (other machines round otherwise).

    The settings differ by far more, so that a table of another setting would not pass.
    """
    recipe, table = RECIPES[case], read(case)
    place = tuple(len(axis.values) // 2 for axis in recipe.axes)
    setting = dict(recipe.settings())[place]
    told = run(recipe, recipe.rows(), setting, SEEDS[1])
    recorded = table.loss[place][1]
    assert told.loss == pytest.approx(recorded, rel=0.03)
    assert told.test == pytest.approx(table.test[place][1], rel=0.03)
    others = np.abs(table.loss[..., 1, :] / recorded - 1).max(axis=-1)
    assert np.mean(others > 0.03) > 0.9


def test_a_table_is_recorded_written_and_read(tmp_path, monkeypatch):
    """What the recorder writes is what is read: here a grid of two settings, trained now."""
    recipe = RECIPES["digits net"]
    axes = tuple(Axis(a.name, a.values[: 1 + (a.name == "width")], a.log, a.whole) for a in recipe.axes)
    default = {axis.name: axis.values[0] for axis in axes}
    small = replace(recipe, axes=axes, default=default, rungs=(1, 2))
    monkeypatch.setitem(RECIPES, "digits net", small)
    made = record_tables.record("digits net")
    record_tables.write(made, tmp_path / "digits_net.npz")
    monkeypatch.setattr(tabulated, "FOLDER", tmp_path)
    found = read.__wrapped__("digits net")
    assert found.about == made.about
    assert (found.loss == made.loss).all()
    assert (found.seconds == made.seconds).all()
    assert (found.test == made.test).all()
    assert found.loss.shape == (1, 1, 2, 1, 1, 3, 2)
    assert len(np.unique(found.loss)) == found.loss.size
