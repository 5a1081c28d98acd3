"""The variants of 04_quantization: engines × precisions, with the packages that each engine requires."""

from functools import partial

from kit import Comparison
from kit.techniques.quantization.edge import executorch, litert
from kit.techniques.quantization.precisions import dynamic_int8, fp16, fp32, static_int8
from kit.techniques.quantization.tensorrt_engine import tensorrt
from kit.techniques.quantization.variants import onnx_runtime, openvino, pytorch
from kit.techniques.quantization.workload import Model, Served

FILES = {
    "FP32": fp32,
    "BF16": partial(fp32, precision="BF16"),
    "FP16": fp16,
    "INT8": static_int8,
    "INT8, dynamic": dynamic_int8,
    "INT8, entropy": partial(static_int8, method="entropy"),
    "INT8, percentile": partial(static_int8, method="percentile"),
    "INT8, per tensor": partial(static_int8, per_channel=False),
    "INT8, all operators": partial(static_int8, op_types_to_quantize=None),
}
"""What makes a file of a model, by precision. INT8 is static, min-max, with one scale per channel."""

ENGINES = {
    "ONNX Runtime": (onnx_runtime, [], ["FP32", "FP16", *[name for name in FILES if "INT8" in name]]),
    "OpenVINO": (openvino, ["openvino"], ["FP32", "BF16", "INT8"]),
    "PyTorch": (pytorch, [], ["FP32", "BF16"]),
    "LiteRT": (litert, ["litert_torch", "ai_edge_quantizer"], ["FP32", "INT8"]),
    "ExecuTorch": (executorch, ["executorch"], ["FP32", "INT8"]),
    "TensorRT": (tensorrt, ["tensorrt"], ["FP32", "FP16", "INT8"]),
}
"""(opener, required packages, precisions) by engine."""

TAKE_FILES = (onnx_runtime, openvino, tensorrt)  # they run the ONNX file itself; others convert the module


def declare(comparison: Comparison, model: Model) -> None:
    """Declare each engine in each of its precisions, and make the files of those that the comparison asks for."""
    for engine, (opener, requires, kinds) in ENGINES.items():
        no_module = "" if model.build or opener in TAKE_FILES else "needs a module: model='package.module:build'"
        for name, kind in [(f"{engine} {kind}", kind) for kind in kinds]:
            if not comparison.only or name in [comparison.baseline, *comparison.only]:
                comparison.variant(name, Served(opener, FILES[kind](model)), requires=requires, skip=no_module)
