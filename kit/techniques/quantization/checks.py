"""What a variant must pass: the accuracy of its outputs next to FP32's, and proof of the precision that really ran."""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kit.common.parameters import share as checked_share
from kit.errors import UserError
from kit.measure.work import fell_back, verified
from kit.record import formatting
from kit.record.document import CheckResult, ExecutionProof
from kit.techniques.quantization.workload import Inputs, Model, digest

THRESHOLD = 0.99
"""Share of FP32's accuracy to be kept, as in MLPerf inference (0.999 in its strict classes)."""

CONFIDENCE, RESAMPLES = 0.95, 500


# Accuracy -------------------------------------------------------------------------------------------------------------


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Return the share of samples whose largest output is the right one. outputs: [N, classes]; targets: [N]."""
    return float((outputs.argmax(-1) == targets).mean())


@dataclass(frozen=True)
class Score:
    """A metric next to FP32's. share: value ÷ reference; low, high: its 95 % interval over the evaluation's samples
    (paired bootstrap)."""

    value: float
    reference: float
    share: float
    low: float
    high: float

    def kept(self) -> str:
        """Return the share with its interval: `99.1 % (98.5–99.7)`."""
        return f"{100 * self.share:.1f} % ({100 * self.low:.1f}–{100 * self.high:.1f})"


def score(outputs: np.ndarray, reference: np.ndarray, model: Model) -> Score:
    """Return the score of `outputs` next to FP32's `reference`, both [N, …] for the whole evaluation set.

    Raise `UserError` where FP32's own score is not above 0.
    """
    value, best = (float(model.metric(one, model.targets)) for one in (outputs, reference))
    if not best > 0:
        raise UserError(
            f"FP32 scores {best:g} by {model.metric_name}, so that no share of it can be given; give a metric that is "
            "above 0 and grows with quality, e.g. 1 / (1 + error)"
        )
    number, shares = len(outputs), []
    for rows in np.random.default_rng(0).integers(0, number, (RESAMPLES, number)):
        ours, theirs = (model.metric(one[rows], model.targets[rows]) for one in (outputs, reference))
        shares.append(ours / theirs if theirs else np.nan)
    low, high = np.nanquantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    if low == high == 1:  # nothing differs, and so nothing would in any resample: the rule of three
        low, high = 1 - 3 / max(3, number), 1 + 3 / max(3, number)
    return Score(value, best, value / best, float(low), float(high))


class Gate:
    """The check of a comparison: the metric over the whole evaluation set is at least `threshold` of FP32's.

    scores: the `Score` of every checked answer, by the digests of its outputs and of FP32's; notes: that of each note.
    """

    def __init__(self, model: Model, threshold: float = THRESHOLD):
        self.model, self.threshold = model, checked_share(threshold, "check_threshold")
        self.scores: dict[tuple[str, str], Score] = {}
        self.notes: dict[str, Score] = {}

    def __call__(self, outputs: np.ndarray, reference: np.ndarray) -> CheckResult:
        """Check the outputs [N, …] of a variant against those of the baseline."""
        if not np.isfinite(outputs).all():
            return self._result("failed", None, "its outputs contain NaN or infinities")
        if outputs.shape != reference.shape:
            return self._result("failed", None, f"its outputs have shape {[*outputs.shape]}, not {[*reference.shape]}")
        key = digest({"outputs": outputs}), digest({"outputs": reference})
        found = self.scores[key] = self.scores.get(key) or score(outputs, reference, self.model)
        kept = found.kept().replace("(", "(95 % CI ")
        note = f"{self.model.metric_name} {found.value:.3f}, {kept} of FP32's {found.reference:.3f}"
        if not found.share >= self.threshold:  # NaN is no pass
            note += f"; {100 * found.share:.2f} % is below the threshold of {formatting.percent(self.threshold)}"
        elif found.low < self.threshold:
            note += "; the interval reaches below the threshold"
        self.notes[note] = found
        return self._result("passed" if found.share >= self.threshold else "failed", found.share, note)

    def _result(self, state: str, share: float | None, note: str) -> CheckResult:
        metric = f"{self.model.metric_name} relative to FP32"
        return CheckResult(state=state, metric=metric, value=share, threshold=self.threshold, note=note)


# Execution proof ------------------------------------------------------------------------------------------------------

PRODUCTS = re.compile("Conv|MatMul|Gemm")
"""Part of the name of each operator that is a product, in ONNX and among ONNX Runtime's own (FusedConv, QGemm, …)."""

NAMES = {
    "float": "FP32", "float32": "FP32", "f32": "FP32", "float16": "FP16", "f16": "FP16", "bfloat16": "BF16",
    "bf16": "BF16", "int8": "INT8", "uint8": "INT8", "i8": "INT8", "u8": "INT8",
}  # fmt: skip
"""Precisions by what ONNX Runtime, OpenVINO, PyTorch and LiteRT call the types."""


class Product(NamedTuple):
    """One matrix product or convolution that ran. precision: of its factors, e.g. "INT8"; "" if the engine names
    none."""

    provider: str
    precision: str


def proof(products: Sequence[Product], precision: str, threads: int, **facts: str | float) -> ExecutionProof:
    """Return the proof that an engine ran in `precision`: a low precision in which no product ran is a fallback.

    Operators that multiply by other names (LSTM, Einsum, fused attention) are not among the products.
    """
    facts |= {"threads": threads}
    by_provider = Counter(product.provider for product in products)
    facts["provider"] = ", ".join(f"{formatting.count(n, 'products')} by {name}" for name, n in by_provider.items())
    low = sum(product.precision == precision for product in products)
    if precision != "FP32" and not low:
        return fell_back(f"another precision: no product ran in {precision}", **facts)
    if precision != "FP32":
        facts[f"in_{precision.lower()}"] = f"{low} of {len(products)}"
    return verified(**facts)


def profiled(path: Path, inputs: Inputs, options: Any) -> list[Product]:
    """Return the products that one request runs in a new ONNX Runtime session on the CPU with its profiler on.

    ONNX Runtime rewrites a graph before it runs it, so the file is no proof; its profile is: each kernel that ran, by
    which provider, with the types of its inputs. options: `SessionOptions` as of the session to be proven.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder, "profile"))
        options.add_session_config_entry("session.disable_prepacking", "1")  # else the types of weights are missing
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [one["args"] for one in events if one.get("cat") == "Node" and one["name"].endswith("_kernel_time")]
    return [_product(one) for one in kernels if PRODUCTS.search(one["op_name"])]


def _product(kernel: dict[str, Any]) -> Product:
    """Return a product with the type of its second factor, which comes after scale and zero point in QLinear… ones."""
    kind = next(iter(kernel["input_type_shape"][3 if kernel["op_name"].startswith("Q") else 1]))
    return Product(kernel["provider"], NAMES.get(kind, kind))
