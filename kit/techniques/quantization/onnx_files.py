"""One ONNX file to start from: FP32, one output, a free batch dimension; from a module or a file of your own."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kit.errors import UserError
from kit.techniques.quantization.workload import Inputs, first, quiet

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}  # between FP32 outputs of the same model by two engines or in two batches
OPSET = 17  # older files have no scale per channel
PRODUCTS = "MatMul", "Gemm", "Conv"  # nearly all multiplications are theirs, and INT8 is exact enough for them
OTHER_FLOATS = {"FLOAT16", "BFLOAT16", "DOUBLE"}


def export(build: "Callable[[], nn.Module]", samples: Inputs) -> "ModelProto":
    """Return a module in eval mode as an ONNX model with a free batch dimension, and compare its outputs.

    samples: real ones, by the names of the inputs, in the order of the forward's. Raise `UserError` if the module can't
    be exported, or another that `build` returns gives other outputs.
    """
    import torch

    few, module = first(samples, 3), build()
    given, batch = tuple(map(torch.from_numpy, few.values())), torch.export.Dim("batch")
    try:
        with torch.inference_mode():
            wanted = build()(*given)
    except Exception as error:  # each layer has errors of its own
        raise UserError(f"the module can't take {_shapes(few)}: {_brief(error)}") from error
    got = list(wanted.shape) if isinstance(wanted, torch.Tensor) else type(wanted).__name__
    if not isinstance(got, list) or got[:1] != [3]:
        raise UserError(f"the module returned {got} for 3 samples; return one tensor [N, …]")
    try:
        with quiet():  # it names every optional package that is not installed
            network = torch.onnx.export(
                module, given, dynamo=True, external_data=False, verbose=False, input_names=list(samples),
                output_names=["output"], dynamic_shapes=tuple({0: batch} for _ in given),
            ).model_proto  # fmt: skip
    except Exception as error:  # whatever of its forward can't be traced
        raise UserError(
            f"PyTorch can't export this module with a free batch dimension ({_brief(error)}); export it yourself and "
            "give the .onnx file"
        ) from error
    if not np.allclose(run(network, few), wanted.numpy(), **TOLERANCE):
        raise UserError(
            "the exported file gives other outputs than the module; let its function return the same trained weights "
            "each time, or export it yourself and give that"
        )
    return network


def freed(path: Path, output: str = "") -> "ModelProto":
    """Return the model of a file with a free batch dimension and one output, with what that needs alone.

    output: its name; empty: the only one. Raise `UserError` if the file can't be read, is not FP32, or has others.
    """
    import onnx

    try:
        model = onnx.load(path)
        if next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), OPSET) < OPSET:
            model = onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # protobuf, missing files of weights, operators: each has errors of its own
        raise UserError(f"{path} can't be read as ONNX of opset {OPSET} ({_brief(error)}); export it again") from None
    low = {onnx.TensorProto.DataType.Name(one.data_type) for one in model.graph.initializer} & OTHER_FLOATS
    low |= {node.op_type for node in model.graph.node if "Quantize" in node.op_type or "Integer" in node.op_type}
    if low:
        raise UserError(f"{path} contains {', '.join(sorted(low))}; give the FP32 model")
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in weights]:  # as older exporters have it
        model.graph.input.remove(value)
    known = [value.name for value in model.graph.output]
    if len(known) > 1 and output not in known:
        raise UserError(f"output={output!r} is none of {path}'s outputs; choose from: {', '.join(known)}")
    if len(known) > 1:
        model = onnx.utils.Extractor(model).extract_model([value.name for value in model.graph.input], [output])
    del model.graph.value_info[:]  # shapes in between, with the batch that they had
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for number, node in enumerate(model.graph.node):  # a node without a name can't be found in an engine
        node.name = node.name or f"{node.op_type}_{number}"
    return model


def kinds(model: "ModelProto") -> dict[str, np.dtype]:
    """Return the type of each input by its name."""
    import onnx

    convert = onnx.helper.tensor_dtype_to_np_dtype
    return {value.name: convert(value.type.tensor_type.elem_type) for value in model.graph.input}


def run(model: "Path | ModelProto", samples: Inputs) -> np.ndarray:
    """Return the first output of one run by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, samples)[0]


def check(model: "ModelProto", samples: Inputs, name: str) -> None:
    """Raise `UserError` unless the model has a product that can be quantized (not trees, or weights inside an If), and
    takes one sample and two, with equal outputs."""
    kinds = sorted({node.op_type for node in model.graph.node})
    if not set(kinds) & set(PRODUCTS):
        raise UserError(
            f"{name} has nothing to quantize: its graph is of {', '.join(kinds) or 'nothing'}, without "
            f"{', '.join(PRODUCTS)}; give another model, or of an If the branch that runs"
        )
    try:
        alone, two = run(model, first(samples, 1)), run(model, first(samples, 2))
    except Exception as error:  # onnxruntime has a dozen of its own
        raise UserError(
            f"{name} can't take {_shapes(first(samples, 1))} and two of them ({_brief(error)}); give samples of the "
            "shape that it takes, or export it with a free batch dimension"
        ) from None
    if len(two) != 2 or not np.allclose(two[:1], alone, **TOLERANCE):
        raise UserError(
            f"{name} gives a sample other outputs next to others (a batch size built in, or batch norms without "
            "running statistics); export it with a free batch dimension, in eval mode"
        )


def _shapes(samples: Inputs) -> str:
    return ", ".join(f"{name} {list(values.shape)} of {values.dtype}" for name, values in samples.items())


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
