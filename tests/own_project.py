"""Makes a project as the README speaks of it: the kit's notebooks and benchmarks, with a user's own data and code."""

import shutil
from pathlib import Path

import numpy as np
from batch_project import write_notebook

ROOT = Path(__file__).parents[1]
COPIED = ("benchmarks", "Makefile", "environment.yml", "pyproject.toml", "constraints.txt", "README.md")
COPIED += ("tests/record_factory.py",)

NETS = '''
def build():
    """An own net: its weights are a function of torch's seed alone."""
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
'''
TABLES = '''
import numpy as np


def load():
    """((inputs, targets), (test inputs, test targets)): right is what the net of this package says."""
    return half(256, 0), half(200, 1)


def half(number, seed):
    import torch

    from my_package.nets import build

    inputs = np.random.default_rng(seed).normal(size=(number, 8)).astype("f4")
    with torch.no_grad():
        return inputs, build()(torch.from_numpy(inputs)).argmax(1).numpy()
'''
TUNING = '''
def objective(trial):
    """Lower is better, and lowest at 0.1 and 31."""
    rate, leaves = trial.suggest_float("learning_rate", 1e-4, 1.0, log=True), trial.suggest_int("leaves", 8, 256)
    return abs(rate - 0.1) + abs(leaves - 31) / 100


objective.default = {"learning_rate": 0.5, "leaves": 200}
'''
SERVING = '''
import time

from kit.techniques.caching.workload import Work


def work():
    """Answers that take half a millisecond each."""
    return Work(items=500, answer=answer, inputs=lambda item: item, version="1")


def answer(item):
    time.sleep(5e-4)
    return [item / 2, item / 3]
'''


def make(folder: Path) -> Path:
    """Make the project: what the documents call `my_package`, `tables/`, `orders.csv` and so on lies in it."""
    (folder / "tests").mkdir()
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    (folder / "notebooks").symlink_to(ROOT / "notebooks")
    cache = ROOT / "data"
    cache.mkdir(exist_ok=True)
    (folder / "data").symlink_to(cache)
    package = folder / "my_package"
    package.mkdir()
    for name, code in {"__init__": "", "nets": NETS, "tables": TABLES, "tuning": TUNING, "serving": SERVING}.items():
        (package / f"{name}.py").write_text(code)
    tables(folder)
    model(folder)
    mine = write_notebook(folder / "analysis" / "mine.ipynb", "print('mine ran')")
    (mine.parent / ".git").mkdir()
    return folder


def tables(folder: Path) -> None:
    """Write tables to query, to tune on, and of requests, each with the columns that are named in its command."""
    import pandas

    random = np.random.default_rng(0)
    (folder / "tables").mkdir()
    for month in (1, 2):
        made = pandas.DataFrame({"customer": random.integers(50, size=2000), "day": random.integers(1, 29, size=2000)})
        made.assign(amount=random.gamma(2, 10, 2000)).to_parquet(folder / "tables" / f"{month}.parquet")
    orders = pandas.DataFrame({"price": random.normal(size=120), "customer": random.integers(40, size=120)})
    orders["returned"] = np.where(orders.price + random.normal(size=120) > 0, "yes", "no")
    orders.to_csv(folder / "orders.csv", index=False)
    users = random.zipf(1.3, 6000) % 400
    asked = pandas.DataFrame({"user": users, "at": np.sort(random.uniform(0, 1e5, 6000)), "bytes": 100 + users})
    asked.to_csv(folder / "requests.csv", index=False)


def model(folder: Path) -> None:
    """Write model.onnx, and samples.npz with what is right by this very model."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weight, inputs = random.normal(size=(8, 3)).astype("f4"), random.normal(size=(300, 8)).astype("f4")
    places = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])]
        for name, size in (("x", 8), ("scores", 3))
    ]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["scores"])]
    graph = helper.make_graph(nodes, "own", *places, [numpy_helper.from_array(weight, "w")])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )
    np.savez(folder / "samples.npz", inputs=inputs, targets=(inputs @ weight).argmax(1))


def without_work(project: Path) -> None:
    """Replace a notebook by one whose work is a sum, and the plan `first` by one that has this notebook alone."""
    (project / "notebooks").unlink()
    write_notebook(project / "notebooks" / "01_dataframes.ipynb", SUM, title="Sum")
    (project / "benchmarks" / "plans" / "first.toml").write_text('[[run]]\nnotebook = "01_dataframes"\n')


SUM = """
from kit import Comparison

def add(size):
    return lambda: sum(range(size))

comparison = Comparison("sum", baseline="loop", sizes=[1_000], unit="numbers", time_budget_s=0.1, isolate=False)
comparison.variant("loop", add)
comparison.variant("again", add)
comparison.run()
"""
