"""What the parts of this technique hand to each other: a model, a file made of it, an engine that runs the file."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.record.document import Engagement

if TYPE_CHECKING:
    from torch import Tensor, nn

Inputs = dict[str, np.ndarray]
"""By the name of the model's input; all arrays have the samples along their first dimension."""


@dataclass(frozen=True)
class Subject:
    """A trained FP32 model, and data that it has not seen: some to calibrate with, the rest to be judged by.

    folder: holds `model.onnx` (FP32, one output, batch dimension free), `calibration.npz` (arrays by input name) and
    `evaluation.npz` (arrays by input name, and what is right as `targets`). No sample is in both.
    metric: (outputs [N, …], targets [N, …]) → one number, higher is better; metric_name: what it is called.
    build: returns the same trained model as an `nn.Module` in eval mode, its forward taking the inputs in the order of
        the ONNX file; None where there is only the file.
    train: returns ((inputs, targets), (validation inputs, validation targets)) to fine-tune a pruned model with, apart
        from the evaluation; None where there is nothing to fine-tune with.
    item: what a sample is. note: what is to be known of the data, in a sentence.
    """

    name: str
    folder: Path
    metric: Callable[[np.ndarray, np.ndarray], float]
    metric_name: str
    build: "Callable[[], nn.Module] | None" = None
    train: "Callable[[], tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]] | None" = None
    item: str = "samples"
    note: str = ""

    @property
    def onnx(self) -> Path:
        """The FP32 model."""
        return self.folder / "model.onnx"

    @cached_property
    def calibration(self) -> Inputs:
        """Inputs to calibrate with; what they are is not known to the calibration."""
        return _arrays(self.folder / "calibration.npz")

    @cached_property
    def evaluation(self) -> Inputs:
        """Inputs to be judged by."""
        return {name: values for name, values in _arrays(self.folder / "evaluation.npz").items() if name != "targets"}

    @cached_property
    def targets(self) -> np.ndarray:
        """What is right for each input of the evaluation."""
        return _arrays(self.folder / "evaluation.npz")["targets"]

    @property
    def samples(self) -> int:
        """Number of samples that the model is judged by."""
        return len(self.targets)

    def __getstate__(self) -> dict[str, Any]:
        """Travel to a worker as paths: the arrays are read there."""
        return {name: value for name, value in vars(self).items() if name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Artefact:
    """A file made of the model, that an engine runs.

    path: of the file. precision: "FP32", "FP16", "BF16", "INT8" or "FP8", as `proof` counts it.
    settings: how it was made, for its card. made_s: seconds that conversion and calibration took when it was made.
    build: as `Subject.build`, where the file was made of another module than the subject's (a pruned one).
    """

    path: Path
    precision: str
    settings: dict[str, str | int | float | bool] = field(default_factory=dict)
    made_s: float = 0.0
    build: "Callable[[], nn.Module] | None" = None

    @property
    def mib(self) -> float:
        """Size of the file."""
        return self.path.stat().st_size / 2**20

    @property
    def sha256(self) -> str:
        """Of the file's content, in hexadecimal."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Engine:
    """A model that is loaded and ready: what every opener of `engines` and its siblings returns.

    run: one request: inputs of as many samples as the engine was opened for → the first output, a NumPy array.
    proof: what really ran, asked after the timing: its facts name at least `provider`, `low_precision` (share of the
        multiplications of products and convolutions that ran in the artefact's precision, 0 to 1) and `threads`.
    close: frees what must be freed. device: "cpu" or "cuda", whose ceilings it is held against.
    """

    run: Callable[[Inputs], np.ndarray]
    proof: Callable[[], Engagement]
    close: Callable[[], None] | None = None
    device: str = "cpu"


Opener = Callable[[Artefact, Subject, int, int], Engine]
"""(artefact, subject, batch, threads) → the engine, ready for requests of `batch` samples on so many threads. Called in
a worker; a module-level function with its heavy imports inside."""


MAKERS = ("onnx", "onnxruntime", "torch")
"""Distributions that another version of may make another file of the same settings."""


def kept(
    folder: Path, name: str, suffix: str, make: Callable[[Path], dict[str, Any]], precision: str, **settings: Any
) -> Artefact:
    """Return the artefact `name` of `folder`: made by `make(path)` unless it was already, of the same settings.

    make: writes the file at the path that it gets, and returns what it found out, which joins the settings. settings:
    all that the file depends on, with the hash of what it is made of; versions of libraries join them. What the making
    took is kept beside the file, so that a later run can say it too. A file that was half written or damaged is made
    again.
    """
    path, about = folder / f"{name}{suffix}", folder / f"{name}{suffix}.json"
    settings |= {"made_by": ", ".join(f"{one} {metadata.version(one)}" for one in MAKERS)}
    known = _known(path, about)
    if known is None or known["asked"] != settings:
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{name}.{os.getpid()}{suffix}")
        try:
            start = time.perf_counter()
            found = make(part)
            made_s = time.perf_counter() - start
            sha256 = hashlib.sha256(part.read_bytes()).hexdigest()
            known = {"asked": settings, "found": found, "made_s": made_s, "sha256": sha256}
            about.unlink(missing_ok=True)
            part.replace(path)
            part.write_text(json.dumps(known, indent=1))
            part.replace(about)
        finally:
            part.unlink(missing_ok=True)
    return Artefact(path, precision, known["asked"] | known["found"], known["made_s"])


def digest(samples: Inputs) -> str:
    """Return the SHA-256 of the arrays, sorted by name: of each its name, type and shape, and its bytes in C order."""
    whole = hashlib.sha256()
    for name in sorted(samples):
        values = samples[name]
        whole.update(f"{name} {values.dtype.str} {values.shape}".encode() + values.tobytes())
    return whole.hexdigest()


def _known(path: Path, about: Path) -> dict[str, Any] | None:
    """Return what is kept beside a file, or None where either is missing or not what it was."""
    try:
        known = json.loads(about.read_text())
        return known if known["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _arrays(path: Path) -> Inputs:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}
