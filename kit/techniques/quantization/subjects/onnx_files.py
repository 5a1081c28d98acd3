"""One ONNX file to start from: FP32, one output, a free batch dimension; of an own file or of a PyTorch module."""

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.errors import UserError
from kit.techniques.quantization.work import Inputs

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}
"""Between the same model's outputs by two engines or in two batches, in FP32."""

OPSET = 17  # older files have no scale a channel
EXTERNAL_FROM = 2**31
"""Bytes that an ONNX file cannot hold."""


def export(module: "nn.Module", samples: Inputs, path: Path) -> None:
    """Write a module, in eval mode, as an ONNX file with its weights inside and the batch dimension free.

    samples: some real ones, at least two, by the names that the inputs shall have, in the order of the forward's.
    Raise `UserError` if PyTorch can't export it.
    """
    import torch

    given = tuple(torch.from_numpy(values[:2].copy()) for values in samples.values())
    batch = torch.export.Dim("batch")
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells of every package that it could export and that is not here
    try:
        with warnings.catch_warnings(action="ignore"):
            torch.onnx.export(
                module, given, path, dynamo=True, external_data=False, verbose=False,
                input_names=list(samples), output_names=["output"], dynamic_shapes=tuple({0: batch} for _ in given),
            )  # fmt: skip
    except Exception as error:  # whatever of its forward can't be traced
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"PyTorch can't export this module with a free batch dimension ({reason}); export it yourself and give the "
            ".onnx file"
        ) from error
    finally:
        logger.setLevel(level)


def freed(path: Path) -> "ModelProto":
    """Return the model of an own file with the batch dimension free, and only its first output.

    Raise `UserError` if it can't be read, or is not FP32. Whether it runs in any batch, `runs_in_any_batch` tells.
    """
    import onnx

    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf, missing files of weights: each has errors of its own
        raise UserError(f"{path} can't be read as ONNX ({error}); export it again") from None
    _is_fp32(model, path)
    if model.ByteSize() >= EXTERNAL_FROM:
        raise UserError(f"{path} has {model.ByteSize() / 2**30:.1f} GiB with its weights; 2 GiB are the most here")
    for value in (*inputs(model), *model.graph.output[:1]):
        dimensions = value.type.tensor_type.shape.dim
        if not dimensions and not value.type.tensor_type.HasField("shape") and value in model.graph.output:
            continue  # a file need not tell the shape of an output
        if not dimensions:
            raise UserError(f"{path}: {value.name} has no dimension; the first must be the samples of a batch")
        dimensions[0].dim_param = "batch"
    del model.graph.output[1:]
    if next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), OPSET) < OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OPSET)
        except Exception as error:
            raise UserError(f"{path} can't be brought to opset {OPSET} ({_brief(error)}); export it again") from None
    del model.graph.value_info[:]  # shapes of what is between, with the batch that it had
    return model


def _is_fp32(model: "ModelProto", path: Path) -> None:
    import onnx

    kinds = {onnx.TensorProto.DataType.Name(one.data_type) for one in model.graph.initializer}
    low = {"FLOAT16", "BFLOAT16", "DOUBLE"} & kinds
    quantized = {node.op_type for node in model.graph.node if "Quantize" in node.op_type or "Integer" in node.op_type}
    if found := sorted(low | quantized):
        raise UserError(f"{path} holds {', '.join(found)}; give the FP32 model, from which precisions are made here")


def inputs(model: "ModelProto") -> list[Any]:
    """Return what the model asks for: older files name their weights among the inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def kinds(model: "ModelProto") -> dict[str, np.dtype]:
    """Return the type of each input by its name."""
    import onnx

    return {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in inputs(model)
    }


def run(model: "Path | ModelProto", samples: Inputs) -> np.ndarray:
    """Run a model once by ONNX Runtime and return its first output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, samples)[0]


def runs_in_any_batch(model: "ModelProto", samples: Inputs, name: str) -> None:
    """Run two samples together and each alone. Raise `UserError` if that fails or gives other outputs."""
    first, second = ({key: values[row : row + 1] for key, values in samples.items()} for row in (0, 1))
    shapes = ", ".join(f"{key} {list(values.shape[1:])} of {values.dtype}" for key, values in samples.items())
    try:
        alone = run(model, first), run(model, second)
    except Exception as error:  # onnxruntime has a dozen of its own
        remedy = "give samples of the shape that it takes, or export it with a free batch dimension"
        raise UserError(f"{name} can't take one sample with {shapes} ({_brief(error)}); {remedy}") from None
    try:
        together = run(model, {key: values[:2] for key, values in samples.items()})
        same = together.shape[:1] == (2,) and np.allclose(together, np.concatenate(alone), **TOLERANCE)
        reason = "two samples together give other outputs than each alone"
    except Exception as error:
        same, reason = False, _brief(error)
    if not same:
        raise UserError(f"{name} has its batch built in ({reason}); export it with a free batch dimension")


def agrees(path: Path, module: "nn.Module", samples: Inputs) -> bool:
    """Return whether the file gives the module's own outputs on a few real samples, alone and together."""
    import torch

    for number in (1, 3):
        few = {name: values[:number] for name, values in samples.items()}
        with torch.inference_mode():
            wanted = module(*(torch.from_numpy(values) for values in few.values())).numpy()
        got = run(path, few)
        if got.shape != wanted.shape or not np.allclose(got, wanted, **TOLERANCE):
            return False
    return True


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[-160:]
