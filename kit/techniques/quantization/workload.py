"""A trained FP32 model with its data, the files made of it, the engines that run them, and requests as timed work.

A request is a batch of samples, each request with other samples than the last. Every measurement makes one untimed
request and then the same number of timed ones for every variant. The answer of a variant is its output for the whole
evaluation set.
"""

import contextlib
import hashlib
import io
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.common import disk_cache
from kit.measure.work import Measurement, Setup
from kit.record.document import ExecutionProof

if TYPE_CHECKING:
    from torch import Tensor, nn

Inputs = dict[str, np.ndarray]
"""Arrays by the name of the model's input, samples along their first dimension."""

REQUESTS = 8  # samples timed in one measurement: 8 requests of one sample, one request of 8 or more
RECHECKED = 32  # samples whose outputs are computed again for a later answer of the same process


@dataclass(frozen=True)
class Model:
    """A trained FP32 model, data to calibrate it with, and data to evaluate it by; no sample is in both.

    folder: contains `model.onnx` (FP32, one output, free batch dimension), `calibration.npz` (arrays by input name) and
    `evaluation.npz` (likewise, and `targets`). metric: (outputs [N, …], targets [N, …]) → one number, higher is better.
    build: returns the model as an `nn.Module` in eval mode, its forward taking the inputs in the order of the ONNX
    file. train: returns (inputs, targets) to fine-tune with. Both are None where there is only the file.
    """

    name: str
    folder: Path
    metric: Callable[[np.ndarray, np.ndarray], float]
    metric_name: str
    build: "Callable[[], nn.Module] | None" = None
    train: "Callable[[], tuple[Tensor, Tensor]] | None" = None
    note: str = ""

    @property
    def onnx(self) -> Path:
        """The FP32 file."""
        return self.folder / "model.onnx"

    @cached_property
    def calibration(self) -> Inputs:
        """Inputs to calibrate with."""
        return dict(np.load(self.folder / "calibration.npz"))

    @cached_property
    def evaluation(self) -> Inputs:
        """Inputs to evaluate by."""
        arrays = np.load(self.folder / "evaluation.npz")
        return {name: arrays[name] for name in arrays.files if name != "targets"}

    @cached_property
    def targets(self) -> np.ndarray:
        """The right answer for each input of the evaluation."""
        return np.load(self.folder / "evaluation.npz")["targets"]

    def __getstate__(self) -> dict[str, Any]:
        """Travel to a worker as paths: the arrays are read there."""
        return {name: value for name, value in vars(self).items() if name in self.__dataclass_fields__}


@dataclass(frozen=True)
class ModelFile:
    """A file made of a model, for an engine to run.

    precision: "FP32", "FP16", "BF16" or "INT8". settings: how it was made, within `made_s` seconds.
    """

    path: Path
    precision: str
    settings: dict[str, Any] = field(default_factory=dict)
    made_s: float = 0.0

    @property
    def mib(self) -> float:
        """Size of the file."""
        return self.path.stat().st_size / 2**20


@dataclass(frozen=True)
class Engine:
    """A loaded model, as every opener returns it.

    run: a request: inputs of as many samples as the engine was opened for → the first output. proof: called after the
    timing; `checks.proof` makes it out of the products that ran.
    """

    run: Callable[[Inputs], np.ndarray]
    proof: Callable[[], ExecutionProof]


# Files on disk --------------------------------------------------------------------------------------------------------

cached_folder = partial(disk_cache.folder, cache="data/quantization")


def cached_file(
    model: Model, name: str, make: Callable[[Path], dict | None], precision: str, suffix: str = ".onnx", **settings
) -> ModelFile:
    """Return the file that `make(path)` writes, from the cache if it was made by the same settings and versions.

    make: may return what is to be added to the settings. settings: all that the file depends on.
    """
    settings |= {"source": sha256(model.onnx)[:16]}
    versions = [metadata.version(package) for package in ("onnx", "onnxruntime", "torch")]

    def write(folder: Path) -> None:
        start = time.perf_counter()
        found = make(folder / f"model{suffix}") or {}
        (folder / "made.json").write_text(json.dumps({"found": found, "made_s": time.perf_counter() - start}))

    folder = cached_folder(f"{model.name}-{name}", (settings, versions), write)
    made = json.loads((folder / "made.json").read_text())
    return ModelFile(folder / f"model{suffix}", precision, settings | made["found"], made["made_s"])


def digest(samples: Inputs) -> str:
    """Return how the SHA-256 of the arrays begins: names, types, shapes and values."""
    whole = hashlib.sha256()
    for name, values in sorted(samples.items()):
        whole.update(f"{name} {values.dtype.str} {values.shape}".encode() + values.tobytes())
    return whole.hexdigest()[:16]


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def count(samples: Inputs) -> int:
    """Return the number of samples."""
    return len(next(iter(samples.values())))


def first(samples: Inputs, number: int) -> Inputs:
    """Return the first `number` samples, repeated from the start where there are fewer."""
    return {name: np.take(values, range(number), axis=0, mode="wrap") for name, values in samples.items()}


def batches(samples: Inputs, batch: int) -> list[Inputs]:
    """Return all samples in batches of one size; the last is filled up from the first samples."""
    starts = range(0, count(samples), batch)
    filled = first(samples, len(starts) * batch)
    return [{name: values[i : i + batch] for name, values in filled.items()} for i in starts]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the progress and advice of converters and quantizers out of the notebook and the worker's log."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)


# Requests as timed work -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """Requests of `batch` samples of the model's evaluation, on so many threads."""

    model: Model
    batch: int
    threads: int


@dataclass(frozen=True)
class Served:
    """A variant: `file` run by the engine that `opener(file, model, batch, threads)` opens, in a worker: a module-level
    function with its heavy imports inside."""

    opener: Callable[[ModelFile, Model, int, int], Engine]
    file: ModelFile

    @property
    def __wrapped__(self) -> Callable:
        """The opener, whose code the record names."""
        return self.opener

    def __call__(self, workload: Workload) -> Setup:
        """Open the engine and return its requests, ready to be timed."""
        engine = self.opener(self.file, workload.model, workload.batch, workload.threads)
        return Setup(_Requests(engine, workload).measure, engine.proof, made_s=self.file.made_s)


class _Requests:
    def __init__(self, engine: Engine, workload: Workload):
        self.engine, self.workload = engine, workload
        self.batches = batches(workload.model.evaluation, workload.batch)
        self.number, self.position = max(1, REQUESTS // workload.batch), 0
        self.known: np.ndarray | None = None

    def measure(self) -> Measurement:
        """Make one untimed request and `number` timed ones."""
        self._request()
        mean_s = sum(self._request() for _ in range(self.number)) / self.number
        return Measurement(mean_s, {"samples_per_s": self.workload.batch / mean_s}, self.outputs)

    def _request(self) -> float:
        inputs = self.batches[self.position % len(self.batches)]
        self.position += 1
        start = time.perf_counter()
        self.engine.run(inputs)
        return time.perf_counter() - start

    def outputs(self) -> np.ndarray:
        """Return the outputs for the whole evaluation: those computed first, if the first samples' are still equal."""
        if self.known is not None:
            again = self._outputs(-(-RECHECKED // self.workload.batch))
            if np.array_equal(again, self.known[: len(again)]):
                return self.known
        self.known = self._outputs(len(self.batches))
        return self.known

    def _outputs(self, number: int) -> np.ndarray:
        whole = np.concatenate([self.engine.run(inputs) for inputs in self.batches[:number]])
        return whole[: len(self.workload.model.targets)]
