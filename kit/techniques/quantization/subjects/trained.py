"""A trained model with its data, and the folder that both are kept in."""

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kit import places
from kit.errors import UserError
from kit.techniques.kept import whole_folder
from kit.techniques.quantization.subjects import onnx_files
from kit.techniques.quantization.subjects.data import Divided
from kit.techniques.quantization.work import Inputs

if TYPE_CHECKING:
    from torch import nn

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


def kept(trained: Trained) -> Path:
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

    return whole_folder(root() / f"{trained.name}-{stamp.hexdigest()[:12]}", write, whole)


def root() -> Path:
    """Return where models and data of this technique are kept."""
    return places.project().resolve() / "data" / "quantization"


def same(path: Path, content: bytes) -> bool:
    """Return whether a file is there and holds just that."""
    return path.exists() and path.read_bytes() == content


def exported(build: "Callable[[], nn.Module]", samples: Inputs) -> dict[str, Any]:
    """Return how a module gets into a `Trained`: its export, that stays as long as it gives the module's outputs."""
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
