"""An engine with a file as a variant of a comparison: it answers requests, each of other samples than the last."""

import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kit.measure.work import Ceiling, Prepared, Reading
from kit.record import words
from kit.record.document import Engagement
from kit.techniques.quantization.engines.on_cpu import first
from kit.techniques.quantization.work import Artefact, Engine, Inputs, Opener, Subject

READING_S = 2e-3
"""Requests are repeated to fill about this time in one reading."""

TAIL_CALLS, TAIL_S = 500, 1.5
"""Requests wanted for the percentiles of a latency, and the most seconds spent after the rounds to have them."""

AGAIN = 32
"""Samples of the evaluation that every later answer is worked out for anew."""


@dataclass(frozen=True)
class Requests:
    """What is asked of a variant: requests of `batch` samples of the subject, on so many threads.

    scratch: a folder of this comparison's own, in which answers and latencies are kept while it runs. tail: whether
    percentiles of the latency are wanted.
    """

    subject: Subject
    batch: int
    scratch: Path
    threads: int
    tail: bool = False


@dataclass(frozen=True)
class Served:
    """A variant: `artefact` run by the engine that `opener` opens."""

    opener: Opener
    artefact: Artefact
    key: str = field(default_factory=lambda: secrets.token_hex(4))
    """Of this variant alone: what another has answered is never taken for its own."""

    @property
    def __wrapped__(self) -> Opener:
        """The opener, so that the record finds its code."""
        return self.opener

    @property
    def name(self) -> str:
        """What it is called in the scratch folder."""
        return f"{self.artefact.precision}-{self.key}"

    def __call__(self, asked: Requests) -> Prepared:
        """Open the engine and return its requests, ready to be timed."""
        engine = self.opener(self.artefact, asked.subject, asked.batch, asked.threads)
        work = _Work(engine, asked, self)
        return Prepared(work.read, work.prove, engine.close, ceiling=work.ceiling)


ON_CPU = {"INT8": "matrix_product_int8_gop_per_s", "BF16": "matrix_product_bf16_gflop_per_s"}
ON_GPU = {
    "FP32": "device_matrix_product_tf32_gflop_per_s",  # as all engines of a GPU compute it
    "FP16": "device_matrix_product_bf16_gflop_per_s",
    "BF16": "device_matrix_product_bf16_gflop_per_s",
    "INT8": "device_matrix_product_int8_gop_per_s",
}
"""The ceilings of precisions: the others of a CPU compute in FP32; FP8 has none that is measured here."""


def bound(device: str, precision: str, proven: Engagement) -> Ceiling | None:
    """Return which product bounds a request, and its operations by the engine's own count; None where it has none.

    What ran in the low precision in part is held as a whole against that precision's product, the faster one: the share
    is rather too small than too large.
    """
    count = proven.costs.get("multiplications")
    if not count or proven.state != "engaged":
        return None
    fp32 = "matrix_product_fp32_gflop_per_s"
    name = ON_GPU.get(precision) if device == "cuda" else ON_CPU.get(precision, fp32)
    note = "multiplications and additions of all products and convolutions, by the engine's own account"
    if precision != "FP32":
        note += f"; {words.percent(proven.costs.get('low_precision'))} of them in {precision}"
    return Ceiling(name, 2 * count / 1e9, note) if name else None


class _Work:
    """One engine at work."""

    def __init__(self, engine: Engine, asked: Requests, variant: Served):
        self.engine, self.asked, self.folder = engine, asked, asked.scratch / variant.name
        self.precision, self.proven = variant.artefact.precision, None
        self.folder.mkdir(parents=True, exist_ok=True)
        self.batches = _batches(asked.subject.evaluation, asked.batch)
        self.position = 0
        self.repeats = self._repeats()

    def _repeats(self) -> int:
        """Return how many requests fill a reading. The first, which is cold, and a second go ahead of the one timed."""
        return max(1, round(READING_S / min(self._request() for _ in range(3))))

    def _request(self) -> float:
        """Answer the next request, of other samples than the last, and return its seconds."""
        inputs = self.batches[self.position % len(self.batches)]
        self.position += 1
        start = time.perf_counter()
        self.engine.run(inputs)
        return time.perf_counter() - start

    def read(self) -> Reading:
        """Answer some requests: the reading is the mean of their seconds."""
        seconds = [self._request() for _ in range(self.repeats)]
        self._note(seconds)
        mean_s = sum(seconds) / len(seconds)
        return Reading(mean_s, {f"{self.asked.subject.item}_per_s": self.asked.batch / mean_s}, self.outputs)

    def _note(self, seconds: Sequence[float]) -> None:
        with open(self.folder / f"{self.asked.batch}-{os.getpid()}.f64", "ab") as file:
            file.write(np.asarray(seconds, np.float64).tobytes())

    def outputs(self) -> np.ndarray:
        """Return the outputs for the whole evaluation set in requests of this batch: those that a process of this
        variant worked out first, as long as some of them, worked out anew by this one as it is now, are the same."""
        known, samples = self.folder / f"outputs-{self.asked.batch}.npy", self.asked.subject.samples
        if not known.exists():
            whole = self._answers(range(len(self.batches)))[:samples]
            np.save(self.folder / f"{os.getpid()}.npy", whole)
            (self.folder / f"{os.getpid()}.npy").replace(known)
            return whole
        whole, batch = np.load(known), self.asked.batch
        anew = self._answers(range(min(len(self.batches), -(-AGAIN // batch))))[:samples]
        if np.array_equal(anew, whole[: len(anew)]):
            return whole
        return self._answers(range(len(self.batches)))[:samples]  # it answers otherwise than before: hear it out

    def _answers(self, numbers: range) -> np.ndarray:
        return np.concatenate([self.engine.run(self.batches[number]) for number in numbers])

    def prove(self) -> Engagement:
        """Return the engine's proof, after the requests that the percentiles still want."""
        if self.asked.tail:
            self._tail()
        self.proven = self.engine.proof()
        return self.proven

    def ceiling(self) -> Ceiling | None:
        """Return which product bounds a request, once it is proven what ran."""
        return self.proven and bound(self.engine.device, self.precision, self.proven)

    def _tail(self) -> None:
        seconds, end = [], time.perf_counter() + TAIL_S
        missing = TAIL_CALLS - len(latencies(self.folder, self.asked.batch))
        while len(seconds) < missing and time.perf_counter() < end:
            seconds.append(self._request())
        self._note(seconds)


def _batches(samples: Inputs, batch: int) -> list[Inputs]:
    """Return the samples in requests of `batch`; the last is filled up from the first."""
    number = len(next(iter(samples.values())))
    filled = first(samples, -(-number // batch) * batch)
    return [{name: values[i : i + batch] for name, values in filled.items()} for i in range(0, number, batch)]


def latencies(folder: Path, batch: int) -> np.ndarray:
    """Return the seconds of each request of this batch size that a variant's processes have answered, in any order."""
    parts = [np.fromfile(file, np.float64) for file in folder.glob(f"{batch}-*.f64")]
    return np.concatenate(parts) if parts else np.empty(0)
