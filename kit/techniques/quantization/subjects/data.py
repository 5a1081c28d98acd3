"""Samples to calibrate with and samples to be judged by, never the same: own data, and how all data is divided.

Own data is an .npz file with the arrays by the name of the model's input (or `inputs`, where it has one) and `targets`,
or a function named as "package.module:load" that returns (inputs, targets), or ((inputs, targets), (test inputs, test
targets)) where what was trained on is known: then a pruned model can be fine-tuned too. Inputs are an array or tensor,
or several by name; the samples lie along the first dimension.
"""

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.errors import UserError
from kit.techniques.address import call, resolve
from kit.techniques.quantization.work import Inputs

if TYPE_CHECKING:
    from torch import Tensor

Samples = tuple[Inputs, np.ndarray]
"""(inputs by name, targets), equally long."""

Found = tuple[Samples] | tuple[Samples, Samples]
"""All samples; or those that the model was trained on, and the others."""

LEAST = 50
"""Samples that own data must have, so that both parts of it have some."""

SHARE = 0.2
"""Of samples that are not divided by who made them: those to calibrate with, before only so many are taken."""


@dataclass(frozen=True)
class Divided:
    """What a model is calibrated with, and what it is judged by."""

    calibration: Inputs
    evaluation: Inputs
    targets: np.ndarray


def divide(found: Found, calibration: int, evaluation: int) -> Divided:
    """Divide samples into at most so many to calibrate with and at most so many to be judged by.

    Of halves, the first is calibrated with, where a sample is not in the other too, and the other judged by. Else a
    hash of its inputs tells where a sample goes: the same way in every run, however many others there are, and equal
    samples the same way. The hash also tells the order. Raise `UserError` if there are too few.
    """
    (inputs, targets), (judged, right) = found[0], found[-1]
    if len(found) == 2:
        first, second = _apart(inputs, judged), _in_order(digests(judged))
    else:
        hashes = digests(inputs)
        order = _in_order(hashes)
        first = [row for row in order if hashes[row][0] < SHARE * 256]
        second = order[len(first) :]
    if not first or not second or len(targets) < LEAST:
        raise UserError(
            f"of {len(targets)} samples {len(first)} are left to calibrate with, and {len(second)} to judge by, none "
            f"in both; give {LEAST} or more that differ"
        )
    first, second = first[:calibration], second[:evaluation]
    return Divided(_rows(inputs, first), _rows(judged, second), right[second])


def fine_tuning(halves: Callable[[], Found]) -> "tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]":
    """Return ((inputs, targets), (validation inputs, validation targets)) of the half to train on, a tenth to validate.

    halves: returns both halves of a model with one input. What is in the other half too is left out.
    """
    import torch

    (inputs, targets), (seen, _) = halves()
    rows = _apart(inputs, seen)
    cut = len(rows) * 9 // 10
    (values,) = inputs.values()
    return tuple((torch.from_numpy(values[part]), torch.from_numpy(targets[part])) for part in (rows[:cut], rows[cut:]))


def digests(inputs: Inputs) -> list[bytes]:
    """Return a hash of each sample's inputs."""
    arrays = [np.ascontiguousarray(inputs[name]) for name in sorted(inputs)]
    rows = zip(*arrays, strict=True)
    return [hashlib.blake2b(b"".join(one.tobytes() for one in row), digest_size=16).digest() for row in rows]


def _in_order(hashes: list[bytes]) -> list[int]:
    return sorted(range(len(hashes)), key=hashes.__getitem__)


def _apart(inputs: Inputs, others: Inputs) -> list[int]:
    """Return the rows of `inputs` that are not among the others, in the order of their hashes."""
    hashes, taken = digests(inputs), set(digests(others))
    return [row for row in _in_order(hashes) if hashes[row] not in taken]


def _rows(inputs: Inputs, rows: Sequence[int]) -> Inputs:
    return {name: values[rows] for name, values in inputs.items()}


# Own data -------------------------------------------------------------------------------------------------------------


def own(address: str, kinds: Mapping[str, np.dtype | None]) -> Found:
    """Read own data from an .npz file, or from what a function returns.

    kinds: by the name of each of the model's inputs, the type that it takes; None: float32, or what whole numbers it
    is given. Raise `UserError` that says what to do, if the data is not there or not such as the model can take.
    """
    if address.endswith(".npz"):
        return _stored(Path(address).expanduser(), kinds)
    if ":" in address:
        return _returned(call(resolve(address), {}), address, kinds)
    raise UserError(f"data={address!r} is no .npz file; give one, or a function as 'package.module:load'")


def _stored(path: Path, kinds: Mapping[str, np.dtype | None]) -> Found:
    if not path.exists():
        raise UserError(f"there is no file {path}; give the .npz file with the model's inputs and targets")
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} can't be read ({error}); write it by numpy.savez(path, inputs=…, targets=…)") from None
    if "targets" not in arrays:
        raise UserError(f"{path} holds {', '.join(arrays) or 'nothing'}; add what is right for each sample as targets")
    targets = arrays.pop("targets")
    return (_samples(arrays, targets, str(path), kinds),)


def _returned(found: Any, address: str, kinds: Mapping[str, np.dtype | None]) -> Found:
    try:
        one, other = found
        if isinstance(one, tuple) and isinstance(other, tuple):
            (inputs, targets), (test_inputs, test_targets) = one, other
            train = _samples(inputs, targets, f"{address}: train", kinds)
            return train, _samples(test_inputs, test_targets, f"{address}: test", kinds)
    except (TypeError, ValueError):
        raise UserError(
            f"{address} returned {type(found).__name__}; let it return (inputs, targets) or ((inputs, targets), "
            "(test inputs, test targets))"
        ) from None
    return (_samples(one, other, address, kinds),)


def _samples(inputs: Any, targets: Any, where: str, kinds: Mapping[str, np.dtype | None]) -> Samples:
    """Return inputs and targets as arrays that the model takes. Raise `UserError` for what it can't."""
    given = dict(inputs) if isinstance(inputs, Mapping) else {"inputs": inputs}
    if len(kinds) == 1 and set(given) == {"inputs"}:
        given = {name: given["inputs"] for name in kinds}
    if set(given) != set(kinds):
        raise UserError(f"{where} has the inputs {', '.join(given) or 'none'}; the model takes {', '.join(kinds)}")
    arrays = {name: _array(given[name], f"{where}: {name}", kind) for name, kind in kinds.items()}
    targets = _array(targets, f"{where}: targets", None)
    targets = targets.astype(np.int64) if targets.dtype.kind in "iub" else targets
    lengths = {name: len(values) for name, values in (arrays | {"targets": targets}).items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{number} {name}" for name, number in lengths.items())
        raise UserError(f"{where} has {told}; give one of each to a sample")
    return arrays, targets


def _array(values: Any, where: str, kind: np.dtype | None) -> np.ndarray:
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if array.dtype.kind not in "iufb" or array.ndim == 0:
        raise UserError(f"{where} is {array.dtype} of shape {list(array.shape)}; give an array of numbers, [N, …]")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        wrong = int((~np.isfinite(array)).sum())
        raise UserError(f"{where}: {wrong} of {array.size} values are NaN or infinite; drop or fill them")
    if kind is None:
        kind = np.dtype(np.float32) if array.dtype.kind == "f" else array.dtype
    cast = array.astype(kind)
    if not np.can_cast(array.dtype, kind, "same_kind") or (array.dtype.kind in "iu" and (cast != array).any()):
        raise UserError(f"{where} is {array.dtype}, and the model takes {kind}; convert it")
    return np.ascontiguousarray(cast)
