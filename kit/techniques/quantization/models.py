"""The models that are made smaller: three that are trained already or within seconds, and what an own one must be.

An own model is an ONNX file, model="path/to/file.onnx", or a function, model="package.module:build", that returns a
trained `torch.nn.Module`; the latter can be pruned and run by PyTorch too. What `data` must be, `data.py` tells.
"""

import hashlib
import inspect
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kit import places
from kit.errors import UserError
from kit.techniques.address import call, resolve
from kit.techniques.kept import whole_folder
from kit.techniques.quantization import data as own_data
from kit.techniques.quantization.accuracy import accuracy
from kit.techniques.quantization.data import Divided, Samples
from kit.techniques.quantization.work import Inputs, Subject

if TYPE_CHECKING:
    from torch import nn

Metric = Callable[[np.ndarray, np.ndarray], float]
_FORMAT = 1  # of the folders


@dataclass(frozen=True)
class Trained:
    """A trained model with its data, before it lies in a folder.

    write: writes `model.onnx` at a path. stamp: what it writes depends on. holds: whether what lies at a path is still
    this model. The rest is as in `Subject`.
    """

    name: str
    divided: Divided
    write: Callable[[Path], object]
    stamp: bytes
    holds: Callable[[Path], bool] = Path.exists
    metric: str = "accuracy"
    build: "Callable[[], nn.Module] | None" = None
    train: Callable[[], Any] | None = None
    item: str = "samples"
    note: str = ""


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
    trained = _trained(model, data, calibration, evaluation)
    judge = _metric(metric or trained.metric)
    folder = _kept(trained)
    made = Subject(
        name=trained.name,
        folder=folder,
        metric=judge,
        metric_name=judge.__name__.replace("_", " ").strip(),
        build=trained.build,
        train=trained.train,
        item=trained.item,
        note=trained.note,
    )
    _judges(made, metric or trained.metric)
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
    of = _own_file if model.endswith(".onnx") else _own_module
    return of(model, data, calibration, evaluation)


def _kept(trained: Trained) -> Path:
    """Return the folder with model, calibration and evaluation: made now, or found whole."""
    divided, stamp = trained.divided, hashlib.sha256(b"%d" % _FORMAT + trained.stamp)
    for name, values in (*divided.calibration.items(), *divided.evaluation.items(), ("targets", divided.targets)):
        stamp.update(f"{name} {values.dtype} {values.shape}".encode())
        stamp.update(np.ascontiguousarray(values))

    def write(folder: Path) -> None:
        np.savez(folder / "calibration.npz", **divided.calibration)
        np.savez(folder / "evaluation.npz", **divided.evaluation, targets=divided.targets)
        trained.write(folder / "model.onnx")

    def whole(folder: Path) -> bool:
        arrays = folder / "calibration.npz", folder / "evaluation.npz"  # their ends say whether they are cut short
        return all(map(zipfile.is_zipfile, arrays)) and trained.holds(folder / "model.onnx")

    return whole_folder(_root() / f"{trained.name}-{stamp.hexdigest()[:12]}", write, whole)


def _root() -> Path:
    return places.project().resolve() / "data" / "quantization"


def _same(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


# Built in -------------------------------------------------------------------------------------------------------------


def _magika(calibration: int, evaluation: int) -> Trained:
    from kit.techniques.quantization import files

    source = files.magika_folder() / "model.onnx"
    found = files.samples()
    return Trained(
        name="magika",
        divided=own_data.divide(({"bytes": found.features}, found.targets), calibration, evaluation),
        write=partial(shutil.copyfile, source),
        stamp=source.read_bytes(),
        holds=partial(_same, content=source.read_bytes()),
        build=_build_magika,
        item="files",
        note=f"{found.note}; a file's type is what its name says",
    )


def _build_magika() -> "nn.Module":
    from kit.techniques.quantization import magika_net

    return magika_net.build()


def _pictures(name: str, calibration: int, evaluation: int) -> Trained:
    from kit.techniques.quantization import nets

    weights = nets.trained(name, _root() / f"{name}-net")
    build, train = partial(_build_net, weights.parent), partial(_picture_halves, name)
    divided = own_data.divide_halves(*train(), calibration, evaluation)
    return Trained(
        name=name,
        divided=divided,
        **_exported(build, divided.calibration),
        build=build,
        train=partial(own_data.fine_tuning, train),
        item="images",
    )


def _build_net(folder: Path) -> "nn.Module":
    from kit.techniques.quantization import nets

    return nets.build(folder).eval()


def _picture_halves(name: str) -> tuple[Samples, Samples]:
    from kit.techniques.quantization import nets

    train, test = nets.dataset(name)
    return tuple(({"images": inputs.numpy()}, targets.numpy()) for inputs, targets in (train, test))


def _sentences(calibration: int, evaluation: int) -> Trained:
    from kit.techniques.quantization import minilm

    divided = own_data.divide(minilm.pairs(), calibration, evaluation)
    return Trained(
        name="sentences",
        divided=divided,
        **_exported(minilm.build, divided.calibration),
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


# Own ------------------------------------------------------------------------------------------------------------------


def _own_file(model: str, data: str, calibration: int, evaluation: int) -> Trained:
    from kit.techniques.quantization import onnx_files

    path = Path(model).expanduser()
    if not path.exists():
        raise UserError(f"there is no file {path}; give the path of an ONNX file")
    free = onnx_files.freed(path)
    found = own_data.own(data, _named(onnx_files.kinds(free), path))
    divided = _divided(found, calibration, evaluation)
    onnx_files.runs_in_any_batch(free, divided.evaluation, str(path))
    content = free.SerializeToString(deterministic=True)
    return Trained(
        name=path.stem,
        divided=divided,
        write=lambda path: path.write_bytes(content),
        stamp=content,
        holds=partial(_same, content=content),
        note=_origin(found, data),
    )


def _own_module(model: str, data: str, calibration: int, evaluation: int) -> Trained:
    build = partial(_build_own, model)
    module = build()
    names = [
        name
        for name, one in inspect.signature(module.forward).parameters.items()
        if one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    found = own_data.own(data, _named(dict.fromkeys(names), model))
    divided = _divided(found, calibration, evaluation)
    _runs(module, divided.evaluation, model)
    return Trained(
        name=model.partition(":")[0].split(".")[-1],
        divided=divided,
        **_exported(build, divided.evaluation),
        build=build,
        train=_train_own(data, names) if _in_halves(found) and len(names) == 1 else None,
        note=_origin(found, data),
    )


def _build_own(address: str) -> "nn.Module":
    """Return the user's trained module in eval mode. Raise `UserError` if it is none, or not FP32."""
    import torch

    module = call(resolve(address), {})
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"{address} returned {type(module).__name__}; let it return a trained torch.nn.Module")
    kinds = {str(one.dtype).removeprefix("torch.") for one in module.parameters() if one.is_floating_point()}
    if kinds - {"float32"}:
        raise UserError(f"{address} holds weights in {', '.join(sorted(kinds))}; return it .float()")
    return module.cpu().eval()


def _runs(module: "nn.Module", samples: Inputs, address: str) -> None:
    """Try a module on two samples. Raise `UserError` if it can't take them or doesn't return one tensor."""
    import torch

    few = [torch.from_numpy(values[:2]) for values in samples.values()]
    told = ", ".join(f"{name} {list(values[:2].shape)} of {values.dtype}" for name, values in samples.items())
    try:
        with torch.inference_mode():
            output = module(*few)
    except Exception as error:  # each layer has errors of its own
        raise UserError(f"{address} can't take {told}: {type(error).__name__}: {error}") from error
    if not isinstance(output, torch.Tensor) or output.shape[:1] != (2,):
        got = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise UserError(f"{address} returned {got} for two samples; let its forward return one tensor [N, …]")


def _exported(build: "Callable[[], nn.Module]", samples: Inputs) -> dict[str, Any]:
    """Return how a module gets into a `Trained`: its export, that stays as long as it gives the module's outputs."""
    from kit.techniques.quantization import onnx_files

    module, stamp = build(), _weights(build())
    if _weights(module) != stamp:
        raise UserError("the model comes with other weights each time it is built; let its function load trained ones")

    def write(path: Path) -> None:
        onnx_files.export(module, samples, path)
        if not onnx_files.agrees(path, module, samples):
            raise UserError("the exported model gives other outputs than the module; export it yourself and give that")

    def holds(path: Path) -> bool:
        return path.exists() and onnx_files.agrees(path, module, samples)

    return {"write": write, "stamp": stamp, "holds": holds}


def _weights(module: "nn.Module") -> bytes:
    """Return a hash of what the module is made of: its layers and its weights."""
    stamp = hashlib.sha256(repr(module).encode())
    for name, values in module.state_dict().items():
        stamp.update(name.encode())
        stamp.update(values.detach().contiguous().view(-1).numpy())
    return stamp.digest()


def _named(kinds: dict[str, Any], model: Any) -> dict[str, Any]:
    if not kinds or "targets" in kinds:
        raise UserError(
            f"{model} takes {', '.join(kinds) or 'no input'}; it must take some, none of them named targets"
        )
    return kinds


def _in_halves(found: Any) -> bool:
    return isinstance(found[0], tuple)


def _divided(found: Any, calibration: int, evaluation: int) -> Divided:
    divide = own_data.divide_halves if _in_halves(found) else own_data.divide
    return divide(*found, calibration, evaluation) if _in_halves(found) else divide(found, calibration, evaluation)


def _train_own(data: str, names: list[str]) -> Callable[[], Any]:
    return partial(own_data.fine_tuning, partial(own_data.own, data, dict.fromkeys(names)))


def _origin(found: Any, data: str) -> str:
    if _in_halves(found):
        return f"calibrated with the training half of {Path(data).name}, judged by the other"
    return f"{Path(data).name}, divided by a hash of each sample; nothing to fine-tune with"


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
    from kit.techniques.quantization import onnx_files

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
