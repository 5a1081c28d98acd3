"""The models: magika and a digit classifier, and your own as an ONNX file or a function that returns a PyTorch module.

Your own data is an .npz file with `targets` and the arrays by the name of the model's input (or `inputs`), or a
function, "package.module:load", that returns (inputs, targets), or ((inputs, targets), (test inputs, test targets))
where the training data is known: then a pruned model can be fine-tuned. Samples lie along the first dimension.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kit.common import labelled_files, readers
from kit.common.address import call, resolve
from kit.common.datasets import magika_folder, mnist
from kit.common.parameters import at_least, nearest
from kit.errors import UserError
from kit.techniques.quantization import builtin_models, onnx_files
from kit.techniques.quantization.checks import accuracy
from kit.techniques.quantization.workload import Inputs, Model, cached_folder, digest

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn

Samples = tuple[Inputs, np.ndarray]  # (inputs by name, targets), equally long

LEAST = 50  # samples that your own data needs
SHARE = 0.2  # of samples that come in one part: those to calibrate with, before only so many are taken


class Source(NamedTuple):
    """A model and all its data. export: real samples → the ONNX model. found: samples in one part, or those that it was
    trained on and others. facts: further ones of `Model`."""

    name: str
    export: "Callable[[Inputs], ModelProto]"
    found: Sequence[Samples]
    facts: dict[str, Any]


def load(
    model: str = "magika", data: str = "", metric: str = "", num_calibration: int = 256, num_evaluation: int = 1000,
    output: str = "",
) -> Model:  # fmt: skip
    """Return a trained model with data to calibrate and to evaluate it, kept in the project's `data/`.

    model: "magika" (types of files), "digits" (a convolutional net, trained here), "path/to/file.onnx" or
    "package.module:build". data: of your own model, an .npz file or "package.module:load". metric: "package.module:
    function", (outputs [N, …], targets [N, …]) → a number, higher is better; empty: accuracy. num_calibration,
    num_evaluation: at most so many samples, none in both. output: of your own file that has several. Raise `UserError`
    with the remedy.
    """
    at_least(num_calibration, 2, "num_calibration", whole=True)
    at_least(num_evaluation, 2, "num_evaluation", whole=True)
    scored, source = resolve(metric) if metric else accuracy, _source(model, data, output)
    calibration, evaluation, targets = divide(source.found, num_calibration, num_evaluation)
    network = source.export(calibration)
    onnx_files.check(network, evaluation, model)
    content = network.SerializeToString(deterministic=True)

    def fill(folder: Path) -> None:
        np.savez(folder / "calibration.npz", **calibration)
        np.savez(folder / "evaluation.npz", **evaluation, targets=targets)
        (folder / "model.onnx").write_bytes(content)

    key = hashlib.sha256(content).hexdigest(), digest(calibration), digest(evaluation | {"targets": targets})
    folder = cached_folder(source.name, key, fill)
    made = Model(source.name, folder, scored, getattr(scored, "__name__", "metric").replace("_", " "), **source.facts)
    _check_metric(made, metric)
    return made


def _source(model: str, data: str, output: str) -> Source:
    builtin = {"magika": _magika, "digits": _digits}
    if model in builtin and data:
        raise UserError(f"data={data!r} is for your own model, and {model!r} has its own; leave data empty")
    if model in builtin:
        return builtin[model]()
    if not (model.endswith(".onnx") or ":" in model):
        known = nearest(model, builtin)
        raise UserError(f"model={model!r} is unknown; {known}, or give 'path/to/file.onnx' or 'package.module:build'")
    if not data:
        raise UserError(f"model={model!r} needs data: give data='file.npz' with inputs and targets, or a function")
    return _own_file(model, data, output) if model.endswith(".onnx") else _own_module(model, data)


def divide(found: Sequence[Samples], calibration: int, evaluation: int) -> tuple[Inputs, Inputs, np.ndarray]:
    """Return at most so many inputs to calibrate with, at most so many to evaluate by, and the targets of these.

    found: all samples in one part, or those that the model was trained on and the others. One part is divided by a hash
    of each sample's inputs, so that a sample goes the same way in every run, and equal samples the same way. Raise
    `UserError` if there are too few.
    """
    inputs, (evaluated, targets) = found[0][0], found[-1]
    hashes, rows = digests(evaluated), apart(evaluated, {})
    if len(found) == 2:
        calibrating = apart(inputs, evaluated)
    else:
        calibrating = [row for row in rows if hashes[row][0] < SHARE * 256]
        rows = rows[len(calibrating) :]
    if not calibrating or not rows or len(found[0][1]) < LEAST:
        raise UserError(
            f"of {len(found[0][1])} samples {len(calibrating)} remain for calibration and {len(rows)} for evaluation, "
            f"none in both; give {LEAST} or more that differ"
        )
    calibrating, rows = calibrating[:calibration], rows[:evaluation]
    return _rows(inputs, calibrating), _rows(evaluated, rows), targets[rows]


def digests(inputs: Inputs) -> list[bytes]:
    """Return a hash of each sample's inputs."""
    rows = zip(*(inputs[name] for name in sorted(inputs)), strict=True)
    return [hashlib.blake2b(b"".join(one.tobytes() for one in row), digest_size=16).digest() for row in rows]


def apart(inputs: Inputs, others: Inputs) -> list[int]:
    """Return the rows of `inputs` that are not among the others, in the order of their hashes."""
    hashes, taken = digests(inputs), set(digests(others) if others else [])
    return [row for row in sorted(range(len(hashes)), key=hashes.__getitem__) if hashes[row] not in taken]


def _rows(inputs: Inputs, rows: Sequence[int]) -> Inputs:
    return {name: values[rows] for name, values in inputs.items()}


def _magika() -> Source:
    (features, targets), note = labelled_files.magika_samples(labelled_files.manifest())
    facts = {"note": f"{note}; a file's type is what its name says"}
    path = magika_folder() / "model.onnx"
    return Source("magika", lambda _: onnx_files.freed(path), [({"bytes": features}, targets)], facts)


def _digits_found() -> list[Samples]:
    return [({"images": inputs}, targets) for inputs, targets in mnist()]


def _digits() -> Source:
    note = "5,000 handwritten digits out of MNIST; the network is trained here on 4,000 of them"
    facts = {"build": builtin_models.digits, "train": partial(_to_train, _digits_found), "note": note}
    return Source("digits", partial(onnx_files.export, builtin_models.digits), _digits_found(), facts)


def _own_file(model: str, data: str, output: str) -> Source:
    path = readers.whole(model, "the path of an ONNX file")
    network = onnx_files.freed(path, output)
    found = _own_data(data, onnx_files.kinds(network))
    return Source(path.stem, lambda _: network, found, {"note": f"data: {Path(data).name}"})


def _own_module(model: str, data: str) -> Source:
    build = partial(_build_own, model)
    parameters = inspect.signature(build().forward).parameters.values()
    names = [one.name for one in parameters if one.default is one.empty and one.kind == one.POSITIONAL_OR_KEYWORD]
    read = partial(_own_data, data, dict.fromkeys(names))
    found = read()
    train = partial(_to_train, read) if len(found) == 2 and len(names) == 1 else None
    facts = {"build": build, "train": train, "note": f"data: {Path(data).name}"}
    return Source(model.partition(":")[0].split(".")[-1], partial(onnx_files.export, build), found, facts)


def _build_own(address: str) -> "nn.Module":
    import torch

    module = call(resolve(address), {})
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"{address} returned {type(module).__name__}; let it return a trained torch.nn.Module")
    if any(one.is_floating_point() and one.dtype != torch.float32 for one in module.parameters()):
        raise UserError(f"{address} has weights that are not float32; return it .float()")
    return module.cpu().eval()


def _to_train(read: Callable[[], Sequence[Samples]]) -> "tuple[Tensor, Tensor]":
    """Return the half to train on, without what the other half has too."""
    import torch

    (inputs, targets), (evaluated, _) = read()
    rows, (values,) = apart(inputs, evaluated), inputs.values()
    return torch.from_numpy(values[rows]), torch.from_numpy(targets[rows])


def _own_data(address: str, kinds: Mapping[str, np.dtype | None]) -> list[Samples]:
    """Return your own data in one part or two. kinds: the type that each input takes; None: that of the data."""
    if ":" in address and not address.endswith(".npz"):
        found = call(resolve(address), {})
        if not isinstance(found, tuple | list) or len(found) != 2:
            got = type(found).__name__
            raise UserError(f"{address} returned {got}; let it return (inputs, targets) or two of them")
        parts = found if all(isinstance(one, tuple) for one in found) else [found]
        return [_samples(inputs, targets, address, kinds) for inputs, targets in parts]
    path = readers.whole(address, "a file of numpy.savez(…, inputs=…, targets=…)", zipped=True)
    try:
        arrays = dict(np.load(path))
    except Exception as error:  # no .npz, or cut short: each has an error of its own
        raise UserError(f"{address} can't be read ({error}); write it by numpy.savez(…, inputs=…, targets=…)") from None
    if "targets" not in arrays:
        raise UserError(f"{address} has {', '.join(arrays)}; add the right answer of each sample as targets")
    return [_samples(arrays, arrays.pop("targets"), address, kinds)]


def _samples(inputs: Any, targets: Any, where: str, kinds: Mapping[str, np.dtype | None]) -> Samples:
    """Return inputs and targets as arrays that the model takes. Raise `UserError` for what it can't take."""
    given = dict(inputs) if isinstance(inputs, Mapping) else {"inputs": inputs}
    if len(kinds) == 1 and set(given) == {"inputs"}:
        given = dict.fromkeys(kinds, given["inputs"])
    if set(given) != set(kinds):
        raise UserError(f"{where} has the inputs {', '.join(given) or 'none'}; the model takes {', '.join(kinds)}")
    arrays = {name: _array(given[name], f"{where}: {name}", kind) for name, kind in kinds.items()}
    targets = _array(targets, f"{where}: targets", None)
    if any(len(values) != len(targets) for values in arrays.values()):
        counts = ", ".join(f"{len(values)} {name}" for name, values in (arrays | {"targets": targets}).items())
        raise UserError(f"{where} has {counts}; give one of each per sample")
    return arrays, targets.astype(np.int64) if targets.dtype.kind in "iub" else targets


def _array(values: Any, where: str, kind: np.dtype | None) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iufb" or array.ndim == 0:
        raise UserError(f"{where} is {array.dtype} of shape {list(array.shape)}; give an array of numbers, [N, …]")
    if wrong := int((~np.isfinite(array)).sum()):
        raise UserError(f"{where}: {wrong} of {array.size} values are NaN or infinite; drop or fill them")
    kind = kind or (np.dtype(np.float32) if array.dtype.kind == "f" else array.dtype)
    if not np.can_cast(array.dtype, kind, "same_kind"):
        raise UserError(f"{where} is {array.dtype}, and the model takes {kind}; convert it")
    return np.ascontiguousarray(array, kind)


def _check_metric(model: Model, metric: str) -> None:
    """Raise `UserError` if the metric can't score the outputs of the first samples."""
    outputs, targets = onnx_files.run(model.onnx, _rows(model.evaluation, slice(32))), model.targets
    shapes = f"outputs {list(outputs.shape)} and targets {list(targets.shape)} of {targets.dtype}"
    classes = outputs.ndim == 2 and targets.ndim == 1 and targets.dtype.kind == "i"
    if not metric and not (classes and targets.min() >= 0 and targets.max() < outputs.shape[1]):
        raise UserError(f"accuracy needs one class per sample, from 0 up; got {shapes}; give metric= for others")
    try:
        float(model.metric(outputs, targets[:32]))
    except Exception as error:  # whatever a user's function raises
        raise UserError(f"metric={metric!r} fails for {shapes}: {type(error).__name__}: {error}") from error
