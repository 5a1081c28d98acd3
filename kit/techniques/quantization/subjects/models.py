"""The models that are made smaller: four that come trained or are trained here, and what an own one must be.

An own model is an ONNX file, model="path/to/file.onnx", or a function, model="package.module:build", that returns a
trained `torch.nn.Module`; the latter can be pruned and run by PyTorch too. What `data` must be, `data.py` tells.
"""

import shutil
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kit.errors import UserError
from kit.techniques.address import resolve
from kit.techniques.quantization.accuracy import accuracy
from kit.techniques.quantization.subjects import onnx_files, own
from kit.techniques.quantization.subjects.data import Found, divide
from kit.techniques.quantization.subjects.trained import Trained, exported, kept, root, same
from kit.techniques.quantization.work import Subject

if TYPE_CHECKING:
    from torch import Tensor, nn

Metric = Callable[[np.ndarray, np.ndarray], float]


def subject(
    model: str = "magika", data: str = "", metric: str = "", calibration: int = 256, evaluation: int = 1000
) -> Subject:
    """Return a trained model with data to calibrate it with and to judge it by, kept in the project's `data/`.

    model: "magika" (types of files), "digits" or "fashion" (a small convolutional net, trained here), "sentences"
    (MiniLM, by what people find similar), "path/to/file.onnx" or "package.module:build". data: for an own model, a path
    to an .npz file or "package.module:load". metric: "accuracy" or "spearman", or "package.module:function" that takes
    (outputs [N, …], targets [N, …]) and returns a number, higher is better; by default what fits the model.
    calibration, evaluation: at most so many samples; none is in both. Raise `UserError` that says what to do.
    """
    for name, number in (("calibration", calibration), ("evaluation", evaluation)):
        if number < 2:
            raise UserError(f"{name}={number} samples tell nothing; give 2 or more, as {name}=256")
    if metric:
        _metric(metric)  # a name that is wrong is told at once, before a net is trained
    trained = _trained(model, data, calibration, evaluation)
    metric = metric or trained.metric
    made = Subject(
        name=trained.name,
        folder=kept(trained),
        metric=_metric(metric),
        metric_name=metric.partition(":")[2].replace("_", " ") or metric,
        build=trained.build,
        train=trained.train,
        item=trained.item,
        note=trained.note,
    )
    _judges(made, metric)
    return made


def _trained(model: str, data: str, calibration: int, evaluation: int) -> Trained:
    if model in BUILT_IN:
        if data:
            raise UserError(f"data={data!r} is for an own model, and {model!r} brings its own; leave it empty")
        return BUILT_IN[model](calibration, evaluation)
    if not (model.endswith(".onnx") or ":" in model):
        near = get_close_matches(model, BUILT_IN, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(BUILT_IN)}."
        raise UserError(
            f"no model is called {model!r}; {hint} Your own is given as 'path/to/file.onnx' or 'package.module:build'"
        )
    if not data:
        raise UserError(
            f"model={model!r} needs data to calibrate with and to be judged by; give data='file.npz' with inputs and "
            "targets, or data='package.module:load'"
        )
    of = own.file if model.endswith(".onnx") else own.module
    return of(model, data, calibration, evaluation)


# Built in -------------------------------------------------------------------------------------------------------------


def _magika(calibration: int, evaluation: int) -> Trained:
    from kit.techniques.quantization.subjects import files

    source = files.magika_folder() / "model.onnx"
    found = files.samples()
    return Trained(
        name="magika",
        divided=divide((({"bytes": found.features}, found.targets),), calibration, evaluation),
        write=partial(shutil.copyfile, source),
        stamp=source.read_bytes(),
        holds=partial(same, content=source.read_bytes()),
        build=_build_magika,
        item="files",
        note=f"{found.note}; a file's type is what its name says",
    )


def _build_magika() -> "nn.Module":
    from kit.techniques.quantization.subjects import magika_net

    return magika_net.build()


def _pictures(name: str, calibration: int, evaluation: int) -> Trained:
    from kit.techniques.quantization.subjects import nets

    weights = nets.trained(name, root() / f"{name}-net")
    build, train = partial(_build_net, weights.parent), partial(_picture_halves, name)
    divided = divide(train(), calibration, evaluation)
    return Trained(
        name=name,
        divided=divided,
        **exported(build, divided.calibration),
        build=build,
        train=partial(_learning, name),
        item="images",
    )


def _build_net(folder: Path) -> "nn.Module":
    from kit.techniques.quantization.subjects import nets

    return nets.build(folder).eval()


def _learning(name: str) -> "tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]":
    from kit.techniques.quantization.subjects import nets

    return nets.learning(name)


def _picture_halves(name: str) -> Found:
    from kit.techniques.quantization.subjects import nets

    train, test = nets.dataset(name)
    return tuple(({"images": inputs.numpy()}, targets.numpy()) for inputs, targets in (train, test))


def _sentences(calibration: int, evaluation: int) -> Trained:
    from kit.techniques.quantization.subjects import minilm

    divided = divide((minilm.pairs(),), calibration, evaluation)
    return Trained(
        name="sentences",
        divided=divided,
        **exported(minilm.build, divided.calibration),
        metric="spearman",
        build=minilm.build,
        item="pairs",
        note=minilm.NOTE,
    )


BUILT_IN: dict[str, Callable[[int, int], Trained]] = {
    "magika": _magika,
    "digits": partial(_pictures, "digits"),
    "fashion": partial(_pictures, "fashion"),
    "sentences": _sentences,
}


# Metrics --------------------------------------------------------------------------------------------------------------


def spearman(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Return the rank correlation of outputs [N] or [N, 1] with targets [N]."""
    from scipy.stats import spearmanr

    return float(spearmanr(outputs.reshape(-1), targets.reshape(-1)).statistic)


METRICS: dict[str, Metric] = {"accuracy": accuracy, "spearman": spearman}


def _metric(name: str) -> Metric:
    if name in METRICS:
        return METRICS[name]
    if ":" in name:
        return resolve(name)
    near = get_close_matches(name, METRICS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(METRICS)}."
    raise UserError(f"no metric is called {name!r}; {hint} Your own is given as 'package.module:function'")


def _judges(made: Subject, metric: str) -> None:
    """Try the metric on the first samples' outputs. Raise `UserError` if it says nothing of such a model."""
    few = min(32, made.samples)
    outputs = onnx_files.run(made.onnx, {name: values[:few] for name, values in made.evaluation.items()})
    targets = made.targets[:few]
    shapes = f"outputs {list(outputs.shape)} and targets {list(made.targets.shape)} of {made.targets.dtype}"
    if metric == "accuracy" and not _classes(outputs, made.targets):
        raise UserError(f"accuracy needs classes from 0 on, one for each sample; got {shapes}; give metric= for others")
    if metric == "spearman" and not outputs.size == few == targets.size:
        raise UserError(f"spearman needs a number for each sample; got {shapes}; give metric= for others")
    try:
        found = made.metric(outputs, targets)
        float(found)
    except Exception as error:  # whatever a user's function raises
        raise UserError(f"metric={metric!r} fails for {shapes}: {type(error).__name__}: {error}") from error


def _classes(outputs: np.ndarray, targets: np.ndarray) -> bool:
    one_each = outputs.ndim == 2 and targets.ndim == 1 and targets.dtype.kind == "i"
    return one_each and targets.min() >= 0 and targets.max() < outputs.shape[1]
