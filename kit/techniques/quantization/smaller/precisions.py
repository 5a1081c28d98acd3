"""FP32 → FP16, dynamic INT8, static INT8: each a file that ONNX Runtime, OpenVINO and, for Q/DQ, TensorRT take.

Static INT8 is explicit: pairs of QuantizeLinear and DequantizeLinear (Q/DQ) around each product, symmetric, with no
integer bias, which is what TensorRT asks for and the others take as well. The defaults of `quantize_static` it refuses.
"""

import contextlib
import hashlib
import io
import logging
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kit.errors import UserError
from kit.techniques.quantization.work import Artefact, Inputs, Subject, digest, kept

PRODUCTS = ("MatMul", "Gemm", "Conv")
"""The operators worth quantizing: they hold nearly all multiplications, and integers are exact enough for them."""

FOR_TENSORRT = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "QDQDisableWeightAdjustForInt32Bias": True,  # there is none; and by channel, it breaks on a Gemm (1.32)
}

METHODS = {"min-max": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
"""How the range of an activation is chosen from what calibration saw: all of it; what keeps most information
(Kullback–Leibler divergence); all but the 0.001 % that lie farthest out."""

BATCH = 16
"""Samples that calibration runs at a time."""


def fp32(subject: Subject) -> Artefact:
    """Return the model as it is."""
    return Artefact(subject.onnx, "FP32")


def bf16(subject: Subject) -> Artefact:
    """Return the FP32 file, to be run in BF16 by an engine that converts as it loads (OpenVINO, PyTorch)."""
    return replace(fp32(subject), precision="BF16")


def fp16(source: Artefact, subject: Subject) -> Artefact:
    """Return `source` with weights and arithmetic in FP16; inputs and outputs keep their types."""

    def make(path: Path) -> dict:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(source.path), keep_io_types=True), path)
        return {}

    return kept(_folder(subject), f"{_stem(source)}.fp16", ".onnx", make, "FP16", source=source.sha256)


def dynamic_int8(source: Artefact, subject: Subject) -> Artefact:
    """Return `source` with the weights of its matrix products in INT8; activations are quantized as they come, by the
    range of each request. Convolutions stay in FP32: ONNX Runtime has no fast dynamic kernel for them."""

    def make(path: Path) -> dict:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with quiet(), simplified(source.path) as simple:
            quantize_dynamic(simple, path, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        return {}

    return kept(_folder(subject), f"{_stem(source)}.int8-dynamic", ".onnx", make, "INT8", source=source.sha256)


def static_int8(
    source: Artefact,
    subject: Subject,
    *,
    method: str = "min-max",
    per_channel: bool = True,
    exclude: Sequence[str] = (),
    only: Sequence[str] = (),
    ops: Collection[str] = PRODUCTS,
) -> Artefact:
    """Return `source` with explicit Q/DQ pairs in INT8, its activations' ranges calibrated on the subject's own data.

    method: of METHODS. per_channel: a scale for each channel of the weights, or one for all. exclude: names of nodes
    that stay in float; only: names of the nodes to quantize, where not all. ops: types of operators to quantize; empty:
    every one that ONNX Runtime can, which is the lesson of what not to do.
    """
    if method not in METHODS:
        raise UserError(f"there is no calibration by {method!r}; it is one of {', '.join(METHODS)}")

    def make(path: Path) -> dict:
        with quiet(), simplified(source.path) as simple:
            given = {"method": method, "per_channel": per_channel, "exclude": exclude, "only": only, "ops": ops}
            quantize(simple, path, subject.calibration, **given)
        return {"samples": len(next(iter(subject.calibration.values())))}

    return kept(
        _folder(subject),
        _name(source, method, per_channel, exclude, only, ops),
        ".onnx",
        make,
        "INT8",
        source=source.sha256,
        calibration=digest(subject.calibration),
        method=method,
        per_channel=per_channel,
        exclude=" ".join(exclude),
        only=" ".join(only),
        operators=" ".join(sorted(ops)) or "every one",
        options=" ".join(f"{name}={value}" for name, value in FOR_TENSORRT.items()),
    )


def quantize(
    model: Path,
    path: Path,
    samples: Inputs,
    *,
    method: str = "min-max",
    per_channel: bool = True,
    exclude: Sequence[str] = (),
    only: Sequence[str] = (),
    ops: Collection[str] = PRODUCTS,
    ranges: Path | None = None,
    options: dict[str, object] | None = None,
) -> None:
    """Write to `path` what `model` is with explicit Q/DQ pairs in INT8, as TensorRT takes them. ranges: a file of the
    activations' ranges: read where it is there, else calibrated and written. options: more of ONNX Runtime's own."""
    from onnxruntime import quantization as ort

    ort.quantize_static(
        model,
        path,
        Reader(samples),
        quant_format=ort.QuantFormat.QDQ,
        activation_type=ort.QuantType.QInt8,
        weight_type=ort.QuantType.QInt8,
        per_channel=per_channel,
        op_types_to_quantize=list(ops) or None,
        nodes_to_exclude=list(exclude) or None,
        nodes_to_quantize=list(only) or None,
        calibrate_method=ort.CalibrationMethod[METHODS[method]],
        calibration_cache_path=ranges,
        extra_options=FOR_TENSORRT | (options or {}),
    )


class Reader:
    """Hands samples to ONNX Runtime's calibration, some at a time."""

    def __init__(self, samples: Inputs, batch: int = BATCH):
        number = len(next(iter(samples.values())))
        self._batches = iter(
            [{name: values[i : i + batch] for name, values in samples.items()} for i in range(0, number, batch)]
        )

    def get_next(self) -> Inputs | None:
        """Return the next batch, or None after the last."""
        return next(self._batches, None)

    def __iter__(self) -> Iterator[Inputs]:
        return self._batches


@contextlib.contextmanager
def simplified(path: Path) -> Iterator[Path]:
    """Yield a copy with constants folded, batch norms fused into convolutions, all shapes noted, and each Gemm as a
    MatMul with an Add: without an integer bias ONNX Runtime has no INT8 kernel for a Gemm."""
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        simple = Path(folder, "simple.onnx")
        try:
            quant_pre_process(path, simple, skip_symbolic_shape=True)
        except Exception:  # it only prepares: what it can't read, the quantizer may
            shutil.copy(path, simple)
        model = ONNXModel(onnx.load(simple))
        model.replace_gemm_with_matmul()
        for number, node in enumerate(model.nodes()):
            node.name = node.name or f"{node.op_type}_{number}"  # what has no name can't be left out
        model.clean_initializers()
        model.topological_sort()
        onnx.save(onnx.shape_inference.infer_shapes(model.model), simple)
        yield simple


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep out of the notebook ONNX Runtime's progress, and its advice to preprocess, which was followed."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)


def _folder(subject: Subject) -> Path:
    return subject.folder / "made"


def _stem(source: Artefact) -> str:
    return source.path.name.removesuffix(".onnx")


def _name(source: Artefact, method: str, per_channel: bool, exclude, only, ops) -> str:
    """Return the file's name: what differs from the usual settings is in it."""
    parts = ["int8", "" if method == "min-max" else method, "" if per_channel else "per-tensor"]
    if frozenset(ops) != frozenset(PRODUCTS):
        parts.append("-".join(sorted(ops)).lower() or "everything")
    if exclude or only:
        parts.append(hashlib.sha256(repr((sorted(exclude), sorted(only))).encode()).hexdigest()[:8])
    return f"{_stem(source)}.{'-'.join(filter(None, parts))}"
