"""FP8 (E4M3): Q/DQ files for the engines that multiply in it, NVIDIA's from compute capability 8.9 on.

The scales come from a calibration for INT8, which finds the largest magnitude of each tensor: INT8 maps it to 127, FP8
to 448. That takes nothing but ONNX Runtime's quantizer. Its own calibration for FP8 ("distribution") fits the standard
deviation instead and clips what lies farther out. NVIDIA's ModelOpt goes the same way as this module, but pins other
versions of ONNX and ONNX Runtime than the kit needs, and leaves out products that it expects no gain from: it is there
as `by_modelopt`, to compare with.

ONNX Runtime on a CPU computes such a file in FP32: good for its accuracy, not for its speed. And from its extended
optimizations on it silently drops each Relu before an FP8 QuantizeLinear (1.32: the rule ReluQuantRewrite looks at
integer zero points only), which the quality gate is there for; a Clip there it refuses to load, with an error.
"""

import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kit.techniques.quantization.smaller import precisions
from kit.techniques.quantization.work import Artefact, Inputs, Subject, digest, kept

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

LARGEST = 448.0
"""The largest finite E4M3 number (OCP 8-bit Floating Point Specification, revision 1.0)."""

OPSET = 19
"""The first in which QuantizeLinear and DequantizeLinear take FP8."""


def fp8(source: Artefact, subject: Subject, folder: Path | None = None) -> Artefact:
    """Return `source` (FP32) with its products and convolutions in FP8: one scale for each activation, one for each
    channel of the weights, which are stored in FP8."""

    def make(path: Path) -> dict:
        import onnx

        model = _with_int8_scales(source.path, subject.calibration)
        quantized = to_fp8(model)
        onnx.save(model, path)
        return {"weights": quantized}

    return _kept(source, subject, folder, "fp8", make)


def by_modelopt(source: Artefact, subject: Subject, folder: Path | None = None) -> Artefact:
    """Return `source` (FP32) in FP8 as NVIDIA's ModelOpt makes it: weights stay stored in FP32 (needs="modelopt").

    It runs in a process of its own, for it replaces parts of ONNX Runtime's quantizer, which then quantizes no longer
    as the rest of the kit needs it.
    """

    def make(path: Path) -> dict:
        given = {
            "onnx_path": source.path,
            "output_path": path,
            "quantize_mode": "fp8",
            "calibration_data_path": subject.folder / "calibration.npz",
            "calibration_method": "max",
            "calibration_eps": "cpu",
            "high_precision_dtype": "fp32",
        }
        options = [f"--{name}={value}" for name, value in given.items()]
        command = [sys.executable, "-m", "modelopt.onnx.quantization", *options]
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True
        )
        if done.returncode != 0 or not path.exists():
            raise RuntimeError(
                f"ModelOpt made no file: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}"
            )
        return {"made_by": f"ModelOpt {metadata.version('nvidia-modelopt')}"}

    return _kept(source, subject, folder, "fp8-modelopt", make)


def to_fp8(model: "ModelProto") -> int:
    """Turn a symmetric INT8 Q/DQ model whose weights are still floats into FP8, in place. Return how many weights.

    Weights become stored FP8 numbers before their DequantizeLinear; each scale keeps its tensor's largest magnitude.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = [_quantize(model, node, constants) for node in list(model.graph.node) if node.op_type == "QuantizeLinear"]
    read = {name for node in model.graph.node for name in node.input}
    used = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(used)
    return sum(weights)


def _quantize(model: "ModelProto", node: "NodeProto", constants: "dict[str, TensorProto]") -> bool:
    """Turn one QuantizeLinear, and each DequantizeLinear of its output, into FP8. Return whether it is of a weight."""
    from onnx import numpy_helper

    output = node.output[0]
    scale = numpy_helper.to_array(constants[node.input[1]]) * np.float32(127 / LARGEST)
    names = _store(model, f"{output}_scale", scale), _store(model, f"{output}_zero", _eights(np.zeros_like(scale)))
    readers = [one for one in model.graph.node if one.op_type == "DequantizeLinear" and one.input[0] == output]
    for one in (node, *readers):
        one.input[1], one.input[2] = names
    if node.input[0] not in constants:
        return False
    values = numpy_helper.to_array(constants[node.input[0]])
    stored = _store(model, f"{output}_fp8", _eights(values / _along(scale, node, values.ndim)))
    for one in readers:
        one.input[0] = stored
    model.graph.node.remove(node)
    return True


def _with_int8_scales(path: Path, samples: Inputs) -> "ModelProto":
    """Return the model with INT8 Q/DQ pairs around the inputs of its products, the weights still stored as floats."""
    import onnx

    with precisions.quiet(), precisions.simplified(path) as simple, tempfile.TemporaryDirectory() as folder:
        model = onnx.load(simple)
        if next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx")) < OPSET:
            onnx.save(onnx.version_converter.convert_version(model, OPSET), simple)
        quantized = Path(folder, "int8.onnx")
        unbound = {"AddQDQPairToWeight": True, "OpTypesToExcludeOutputQuantization": list(precisions.PRODUCTS)}
        precisions.quantize(simple, quantized, samples, options=unbound)
        return onnx.load(quantized)


def _eights(values: np.ndarray) -> np.ndarray:
    import ml_dtypes

    return np.clip(values, -LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn)


def _along(scale: np.ndarray, node: "NodeProto", dimensions: int) -> np.ndarray:
    """Return the scale of each channel in a shape that broadcasts over a tensor of so many dimensions."""
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    return scale.reshape([-1 if i == axis % dimensions else 1 for i in range(dimensions)]) if scale.size > 1 else scale


def _store(model: "ModelProto", name: str, values: np.ndarray) -> str:
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def _kept(source: Artefact, subject: Subject, folder: Path | None, kind: str, make) -> Artefact:
    name = f"{source.path.name.removesuffix('.onnx')}.{kind}"
    asked = {"source": source.sha256, "calibration": digest(subject.calibration)}
    return kept(folder or subject.folder / "made", name, ".onnx", make, "FP8", **asked)
