"""FP32 → FP16, dynamic INT8, static INT8: files that ONNX Runtime, OpenVINO and, for Q/DQ, TensorRT take.

Static INT8 is explicit: pairs of QuantizeLinear and DequantizeLinear (Q/DQ) around each product, symmetric, with no
integer bias, as TensorRT asks for and the others take as well; TensorRT refuses the defaults of `quantize_static`.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.common.parameters import one_of
from kit.machine.fingerprint import machine
from kit.techniques.quantization import workload
from kit.techniques.quantization.onnx_files import PRODUCTS
from kit.techniques.quantization.workload import Inputs, Model, ModelFile, cached_file, count, quiet

if TYPE_CHECKING:
    from onnx import ModelProto

FOR_TENSORRT = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "QDQDisableWeightAdjustForInt32Bias": True,  # there is none; and per channel it fails on a Gemm (1.32)
}

METHODS = {"min-max": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
"""How the range of an activation is chosen: all of it, what keeps most information (Kullback–Leibler divergence), all
but the 0.001 % farthest out."""


def saturates() -> bool:
    """Return whether 8-bit weights are too much for this processor: x86 without VNNI adds pairs of products in 16 bits,
    which saturate without an error (VPMADDUBSW). ONNX Runtime then asks for weights of 7 bits (`reduce_range`)."""
    here = machine()
    fast = any("VNNI" in name or "AMX" in name for name in here.instructions)
    return here.arch.lower() in ("x86_64", "amd64") and not fast


def fp32(model: Model, precision: str = "FP32") -> ModelFile:
    """Return the model as it is; "BF16": for an engine that converts as it loads (OpenVINO, PyTorch)."""
    return ModelFile(model.onnx, precision)


def fp16(model: Model) -> ModelFile:
    """Return the model with weights and arithmetic in FP16; inputs and outputs keep their types."""

    def make(path: Path) -> None:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        onnx.save(convert_float_to_float16(onnx.load(model.onnx), keep_io_types=True), path)

    return cached_file(model, "fp16", make, "FP16")


def dynamic_int8(model: Model) -> ModelFile:
    """Return the model with the weights of its matrix products in INT8; activations are quantized as they come, by the
    range of each request. Convolutions stay in FP32: ONNX Runtime has no fast dynamic kernel for them."""

    def make(path: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        options = {"op_types_to_quantize": ["MatMul"], "weight_type": QuantType.QInt8, "reduce_range": saturates()}
        with quiet():
            quantize_dynamic(simplified(model.onnx), path, **options)

    return cached_file(model, "int8-dynamic", make, "INT8", weight_bits=8 - saturates())


def static_int8(model: Model, *, source: ModelFile | None = None, method: str = "min-max", **options: Any) -> ModelFile:
    """Return the model with explicit Q/DQ pairs in INT8, its activations' ranges calibrated on its own data.

    source: another FP32 file of the model, e.g. a pruned one. method: of METHODS. options: of `quantize_static`, in
    place of those below, e.g. `per_channel=False`, or `nodes_to_exclude=["/layer1/Conv"]`, which stays in float.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    calibrate, source = CalibrationMethod[METHODS[one_of(method, METHODS, "calibration method")]], source or fp32(model)
    options = {
        "quant_format": QuantFormat.QDQ, "activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8,
        "per_channel": True, "reduce_range": saturates(), "op_types_to_quantize": list(PRODUCTS),
        "calibrate_method": calibrate, "extra_options": FOR_TENSORRT, **options,
    }  # fmt: skip

    def make(path: Path) -> dict:
        with quiet():
            quantize_static(simplified(source.path), path, Reader(model.calibration), **options)
        return source.settings | {"samples": count(model.calibration)}

    calibration, origin = workload.digest(model.calibration), workload.sha256(source.path)[:16]
    return cached_file(model, "int8", make, "INT8", calibration=calibration, input=origin, options=repr(options))


class Reader:
    """All samples for ONNX Runtime's calibration, one at a time: the histogram calibrators (entropy, percentile) stack
    the activations of all batches and fail on a smaller last one."""

    def __init__(self, samples: Inputs):
        self._samples = iter(workload.batches(samples, 1))

    def get_next(self) -> Inputs | None:
        """Return the next sample; None after the last."""
        return next(self._samples, None)


def simplified(path: Path) -> "ModelProto":
    """Return a model with constants folded, batch norms fused into convolutions, all shapes noted, and each Gemm as a
    MatMul with an Add: without an integer bias ONNX Runtime has no INT8 kernel for a Gemm."""
    import onnx
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder, quiet():
        quant_pre_process(path, f"{folder}/simple.onnx", skip_symbolic_shape=True)
        model = ONNXModel(onnx.load(f"{folder}/simple.onnx"))
    model.replace_gemm_with_matmul()
    for number, node in enumerate(model.nodes()):
        node.name = node.name or f"{node.op_type}_{number}"  # a node without a name can't be excluded
    model.clean_initializers()
    model.topological_sort()
    return onnx.shape_inference.infer_shapes(model.model)


def ranges(file: ModelFile) -> dict[str, float]:
    """Return the largest value that each activation of a static INT8 file can have, by the tensor's name."""
    import onnx

    constants = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(file.path).graph.initializer}
    scales = {name: scale for name, scale in constants.items() if name.endswith("_scale") and scale.ndim == 0}
    return {name.removesuffix("_scale"): 127 * float(scale) for name, scale in scales.items()}
