"""TensorRT 11: an engine built from an ONNX file, kept on disk, run on a stream of its own. Not run on a GPU yet.

Engines are strongly typed: they compute in the types that the file names, so that INT8 comes from Q/DQ pairs and FP16
from a converted file. TensorRT-RTX, the smaller library for graphics cards, has the same interface and builds without a
GPU: the tests build each file by it, through the same `build`.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from kit.errors import UserError
from kit.record.document import ExecutionProof
from kit.techniques.quantization.checks import Product, proof
from kit.techniques.quantization.variants import products_in
from kit.techniques.quantization.workload import Engine, Inputs, Model, ModelFile, cached_folder, sha256

Shapes = dict[str, tuple[int, ...]]  # of one sample, by input

TYPES = {"INT8": "int8", "BF16": "bfloat16|bf16", "FP16": "half|fp16", "FP32": "float|fp32"}
"""Words of the engine inspector ("Thirty-two wide channel vectorized row major Int8 format"), the lowest first."""


def tensorrt(file: ModelFile, model: Model, batch: int, threads: int) -> Engine:
    """Run by TensorRT 11 on the first GPU, built for requests of `batch` samples. `threads` have no effect."""
    import tensorrt as trt
    import torch

    shapes = {name: values.shape[1:] for name, values in model.evaluation.items()}
    device = torch.cuda.get_device_properties(0)
    key = (sha256(file.path), device.name, device.major, device.minor, trt.__version__, sorted(shapes.items()), batch)
    folder = cached_folder("tensorrt", key, lambda to: (to / "plan").write_bytes(build(trt, file.path, shapes, batch)))
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine((folder / "plan").read_bytes())
    context, stream, buffers = engine.create_execution_context(), torch.cuda.Stream(), {}
    for name, shape in shapes.items():
        context.set_input_shape(name, (batch, *shape))
    for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
        empty = np.empty(tuple(context.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name)))
        buffers[name] = torch.from_numpy(empty).cuda()
        context.set_tensor_address(name, buffers[name].data_ptr())
    (answer,) = buffers.keys() - shapes.keys()

    def run(inputs: Inputs) -> np.ndarray:
        with torch.cuda.stream(stream):
            for name in shapes:
                buffers[name].copy_(torch.from_numpy(inputs[name]))
            if not context.execute_async_v3(stream.cuda_stream):
                raise RuntimeError("TensorRT could not run the request; its own log shows why")
            return buffers[answer].float().cpu().numpy()

    def prove() -> ExecutionProof:
        inspector = engine.create_engine_inspector()
        inspector.execution_context = context  # else shapes, and with them formats, are left open
        layers = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))["Layers"]
        products = products_run(products_in(file), layers)
        return proof(products, file.precision, threads, device=device.name, version=trt.__version__)

    return Engine(run, prove)


def build(trt: ModuleType, path: Path, shapes: Shapes, batch: int, configure: Callable[[Any], object] = id) -> bytes:
    """Return the serialized engine of an ONNX file for requests of 1 to `batch` samples, tuned for `batch`. trt: the
    module of TensorRT or TensorRT-RTX. configure: gets the builder's configuration. Raise `UserError` with its reason.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network()
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        error = parser.get_error(0)
        reason = "the operator is not supported" if error.desc() == "false" else " ".join(error.desc().split())
        raise UserError(f"TensorRT does not take {path.name}: {error.node_operator()} {error.node_name()!r}: {reason}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the proof; costs nothing at run time
    configure(config)
    profile = builder.create_optimization_profile()
    for name, shape in shapes.items():
        profile.set_shape(name, (1, *shape), (batch, *shape), (batch, *shape))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UserError(f"TensorRT does not take {path.name}: its log above shows why")
    return bytes(plan)


def products_run(names: Sequence[str], layers: list[Any]) -> list[Product]:
    """Return the products of an ONNX file, by their nodes' names, as they ran. layers: of the engine inspector, whose
    metadata names the nodes that each contains ("[ONNX Layer: conv1]"); a product in none has no precision."""
    found = {}
    for layer in (layer for layer in layers if isinstance(layer, dict)):  # others are only named, in a string
        nodes = re.findall(r"\[ONNX Layer: ([^\]]*)\]", layer.get("Metadata") or "")
        found |= dict.fromkeys(nodes, Product(layer.get("LayerType", "layers"), precision_of(layer)))
    return [found.get(name, Product("layers that name no node", "")) for name in names]


def precision_of(layer: dict[str, Any]) -> str:
    """Return the precision in which a layer multiplies: INT8 by its weights' type or its kernel's name, else the lowest
    of its inputs' types; "" where it names none."""
    weights = layer["Weights"].get("Type", "") if isinstance(layer.get("Weights"), dict) else ""
    if weights.lower() == "int8" or re.search("i8i8|_i8_", layer.get("TacticName", "")):
        return "INT8"
    inputs = [pair for tensor in layer.get("Inputs", []) for pair in tensor.items()]
    types = " ".join(str(value) for name, value in inputs if "datatype" in name.lower())
    return next((kind for kind, words in TYPES.items() if re.search(rf"\b({words})\b", types, re.I)), "")
