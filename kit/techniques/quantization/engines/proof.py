"""What really ran: every product and convolution of a request, with its type, its provider and its multiplications.

ONNX Runtime rewrites a graph before it runs it, so the file does not tell. Its profile does: each kernel that ran, by
which provider, with the types and shapes of what it was given.
"""

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.measure.work import engaged, fell_back
from kit.record import words
from kit.record.document import Engagement
from kit.techniques.quantization.work import Inputs

OPERANDS = {
    "Conv": (0, 1), "FusedConv": (0, 1), "ConvTranspose": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3),
    "NhwcFusedConv": (0, 1), "MatMul": (0, 1), "FusedMatMul": (0, 1), "Gemm": (0, 1), "FusedGemm": (0, 1),
    "MatMulInteger": (0, 1), "MatMulIntegerToFloat": (0, 1), "DynamicQuantizeMatMul": (0, 1),
    "QLinearMatMul": (0, 3), "QGemm": (0, 3),
}  # fmt: skip
"""Positions of what is multiplied among the inputs of each operator (ONNX and ONNX Runtime's own, by their schemas)."""

NAMES = {
    "float": "FP32", "float32": "FP32", "f32": "FP32", "float16": "FP16", "f16": "FP16", "bfloat16": "BF16",
    "bf16": "BF16", "int8": "INT8", "uint8": "INT8", "i8": "INT8", "u8": "INT8", "float8e4m3fn": "FP8",
}  # fmt: skip
"""Precisions by what ONNX Runtime, OpenVINO and PyTorch call the types."""


UNCOUNTED = frozenset(
    "LSTM GRU RNN DynamicQuantizeLSTM Einsum Attention QAttention MultiHeadAttention GroupQueryAttention "
    "DecoderMaskedMultiHeadAttention MatMulNBits MatMulBnb4 QMoE MoE".split()
)
"""Operators that multiply too, and how much can't be told from their shapes alone."""


@dataclass(frozen=True)
class Product:
    """One matrix product or convolution that ran."""

    name: str
    op: str
    provider: str
    precision: str
    """Of what it multiplies, as "INT8"."""
    multiplications: int


@dataclass(frozen=True)
class Ran:
    """What one request ran: its products, and how many nodes each provider ran."""

    products: tuple[Product, ...]
    nodes: dict[str, int]
    uncounted: tuple[str, ...] = ()
    """Operators that multiplied and are in no share."""

    @property
    def multiplications(self) -> int:
        """Of all products together."""
        return sum(product.multiplications for product in self.products)

    def share(self, precision: str) -> float:
        """Return the share of the multiplications that ran in this precision, 0 to 1."""
        low = sum(product.multiplications for product in self.products if product.precision == precision)
        return low / self.multiplications if self.multiplications else 0.0

    def in_words(self, what: str = "nodes") -> str:
        """Say what ran where: `40 nodes by CPUExecutionProvider`."""
        said = ", ".join(f"{number} {what} by {provider}" for provider, number in self.nodes.items())
        return said + (f"; {words.listing(self.uncounted)} not counted" if self.uncounted else "")


def ran_as(
    precision: str, share: float, provider: str, threads: int, multiplications: float | None = None, **facts: str | int
) -> Engagement:
    """Return the proof of an engine that was to run in `precision` and did so for `share` of the multiplications of all
    products and convolutions, 0 to 1. A low precision that nothing ran in was replaced: a fallback.

    provider: what ran how much, in words. multiplications: of one request, as the engine counts them.
    """
    if precision != "FP32" and not share:
        return fell_back(f"another precision: no product ran in {precision}", provider=provider, threads=threads)
    low = {} if precision == "FP32" else {f"in_{precision.lower()}": words.percent(share)}
    costs = {"low_precision": share, "multiplications": multiplications}
    return engaged(provider=provider, threads=threads, **low, **facts, costs=costs)


def profiled(path: Path, inputs: Inputs, options: Any, providers: list) -> Ran:
    """Run one request of a fresh ONNX Runtime session with its profiler on, and return what ran.

    options: the `SessionOptions` of the session that is to be proven; its profiling is switched on here. providers: as
    of that session. One rewriting is left out, a layout that changes no precision: it pads narrow layers, which would
    then be counted too large.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder, "profile"))
        options.add_session_config_entry("session.disable_prepacking", "1")  # else weights and their types are not told
        left_out = {"disabled_optimizers": ["NchwcTransformer"]}
        session = onnxruntime.InferenceSession(str(path), options, providers=providers, **left_out)
        session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    return read(events)


def read(events: list[dict[str, Any]]) -> Ran:
    """Return what ran, from the events of ONNX Runtime's profile."""
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    nodes: dict[str, int] = {}
    for event in kernels:
        nodes[event["args"]["provider"]] = nodes.get(event["args"]["provider"], 0) + 1
    ops = [event["args"]["op_name"] for event in kernels]
    products = [_product(event) for event, op in zip(kernels, ops, strict=True) if op in OPERANDS]
    return Ran(tuple(products), nodes, tuple(dict.fromkeys(op for op in ops if op in UNCOUNTED)))


def _product(event: dict[str, Any]) -> Product:
    told = event["args"]
    inputs = [next(iter(one.items())) for one in told["input_type_shape"]]
    (_, left), (kind, right) = (inputs[position] for position in OPERANDS[told["op_name"]])
    output = next(iter(told["output_type_shape"][0].values()))
    name = event["name"].removesuffix("_kernel_time")
    count = multiplications(told["op_name"], left, right, output)
    return Product(name, told["op_name"], told["provider"], NAMES.get(kind, kind), count)


def multiplications(op: str, left: list[int], right: list[int], output: list[int]) -> int:
    """Return how many scalar multiplications the operator makes, from the shapes of its operands and its output."""
    if op == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    if "Conv" in op:
        return math.prod(output) * math.prod(right[1:])
    inner = right[0] if len(right) < 2 or right[-1] == output[-1] else right[-1]  # the axis that is not in the output
    inner = right[-2] if len(right) > 1 and right[-1] == output[-1] else inner
    return math.prod(output) * inner
