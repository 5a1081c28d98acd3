"""TensorRT 11: an engine built from an ONNX file, kept on disk, run on a stream of its own.

Written by the documentation of TensorRT 11, which is strongly typed: an engine computes in the types that the file
names, so that INT8 and FP8 come from Q/DQ pairs and FP16 from a converted file, and there is no calibrator and no
precision flag to set. TensorRT-RTX, the smaller library for graphics cards, has the same interface and builds without
a GPU: `accepted` asks it whether a file is one for TensorRT, on any machine. Both go through `build`.

Buffers on the device, pinned ones on the host and the stream are PyTorch's, which is there wherever this kit is.
"""

import functools
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from kit import places
from kit.errors import UserError
from kit.record.document import Engagement
from kit.techniques.quantization.engines import on_cpu, proof
from kit.techniques.quantization.work import Artefact, Engine, Inputs, Subject

CHECKED_FOR = "SM89"
"""Compute capability that `accepted` builds for: the first with FP8, and one that TensorRT-RTX 1.7 knows."""

CHECK_LIMIT_S = 300.0

KINDS = (
    ("INT8", re.compile(r"\bint8\b|i8i8|_i8_", re.I)),
    ("FP8", re.compile(r"\bfp8\b|e4m3", re.I)),
    ("BF16", re.compile(r"\bbfloat16\b|\bbf16\b", re.I)),
    ("FP16", re.compile(r"\bhalf\b|\bfp16\b", re.I)),
    ("FP32", re.compile(r"\bfloat\b|\bfp32\b", re.I)),
)
"""How the engine inspector writes types ("Thirty-two wide channel vectorized row major Int8 format", "Half"), and how
the names of kernels do ("sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_…")."""


class Refused(Exception):
    """TensorRT does not take a file; the message is its own reason, in one line."""


# --- the opener -------------------------------------------------------------------------------------------------------


def tensorrt_(artefact: Artefact, subject: Subject, batch: int, threads: int) -> Engine:
    """Run by TensorRT 11 on the first GPU, built for requests of up to `batch` samples and tuned for exactly that.

    A request is copied to the device, run and copied back, all of which is timed. FP32 products are TF32's, as
    TensorRT does them unless told otherwise. `threads` are of no use to it.
    """
    import tensorrt
    import torch

    try:
        plan = _kept_plan(tensorrt, artefact, _shapes(subject), batch, torch.cuda.get_device_properties(0))
    except Refused as refused:
        raise UserError(f"TensorRT does not take {artefact.path.name}: {refused}") from None
    runtime = tensorrt.Runtime(_logger(tensorrt))
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise RuntimeError(
            f"TensorRT could not load the engine that it built: {_one_line(str(_logger(tensorrt).errors))}"
        )
    context = engine.create_execution_context()
    stream = torch.cuda.Stream()
    run = bound(tensorrt, engine, context, _shapes(subject), batch, stream)

    def prove() -> Engagement:
        inspector = engine.create_engine_inspector()
        inspector.execution_context = context  # else shapes, and with them formats, are left open
        told = json.loads(inspector.get_engine_information(tensorrt.LayerInformationFormat.JSON))
        ran = ran_in(told, on_cpu.layers(artefact.path, subject))
        facts = {"device": torch.cuda.get_device_name(0), "layers": len(told["Layers"])}
        if unnamed := sum(not product.precision for product in ran.products):
            facts["products_in_no_layer"] = unnamed
        name = f"TensorRT {tensorrt.__version__}"
        counted = ran.multiplications * batch
        return proof.ran_as(artefact.precision, ran.share(artefact.precision), name, threads, counted, **facts)

    return Engine(run, prove, device="cuda")


def bound(
    trt: ModuleType, engine: Any, context: Any, shapes: dict[str, tuple[int, ...]], batch: int, stream: Any
) -> Callable[[Inputs], np.ndarray]:
    """Return the function that answers a request: buffers are allocated and bound to the context once, here.

    shapes: of one sample, by input. stream: a `torch.cuda.Stream`; None: buffers on the CPU, for tests.
    """
    import torch

    device, pinned = ("cuda", True) if stream else ("cpu", False)
    handle = stream.cuda_stream if stream else 0
    for name, shape in shapes.items():
        context.set_input_shape(name, (batch, *shape))
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    ours, theirs = {}, {}
    for name in names:
        shape, kind = tuple(context.get_tensor_shape(name)), _torch_type(engine.get_tensor_dtype(name))
        ours[name] = torch.empty(shape, dtype=kind, pin_memory=pinned)
        theirs[name] = torch.empty(shape, dtype=kind, device=device)
        context.set_tensor_address(name, theirs[name].data_ptr())
    modes = {name: engine.get_tensor_mode(name) for name in names}
    answer = next(name for name in names if modes[name] == trt.TensorIOMode.OUTPUT)

    def run(inputs: Inputs) -> np.ndarray:
        with torch.cuda.stream(stream):  # with None it does nothing
            for name in shapes:
                ours[name].copy_(torch.from_numpy(inputs[name]))
                theirs[name].copy_(ours[name], non_blocking=True)
            if not context.execute_async_v3(handle):
                raise RuntimeError("TensorRT could not run the request; its own log says why")
            ours[answer].copy_(theirs[answer], non_blocking=True)
        if stream:
            stream.synchronize()
        return ours[answer].float().numpy().copy()

    return run


def _torch_type(kind: Any) -> Any:
    import torch

    names = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "BOOL": "bool"}
    return getattr(torch, names.get(kind.name, kind.name.lower()))


def _shapes(subject: Subject) -> dict[str, tuple[int, ...]]:
    return {name: values.shape[1:] for name, values in subject.evaluation.items()}


# --- building ---------------------------------------------------------------------------------------------------------


def build(
    trt: ModuleType, path: Path, shapes: dict[str, tuple[int, ...]] | None, batch: int, configure: Callable
) -> tuple[bytes, Any]:
    """Return the serialized engine of an ONNX file for requests of 1 to `batch` samples, tuned for `batch`, and the
    configuration that it was built by.

    trt: the module `tensorrt` or TensorRT-RTX's. shapes: of one sample, by input; None: what the file leaves open
    becomes 1, and the number of samples that it insists on is taken. configure: gets the builder's configuration, for
    what the two libraries differ in. Raise Refused with TensorRT's own reason.
    """
    logger = _logger(trt)
    logger.errors.clear()
    builder = trt.Builder(logger)
    network = builder.create_network()
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        raise Refused(_parser_reason(parser))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the proof; costs nothing at run time
    configure(config)
    config.add_optimization_profile(_profile(builder, network, shapes, batch))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise Refused(_one_line(logger.errors[0] if logger.errors else "it gives no reason"))
    return bytes(plan), config


def _profile(builder: Any, network: Any, shapes: dict[str, tuple[int, ...]] | None, batch: int) -> Any:
    """Return the range of shapes that the engine is for."""
    profile = builder.create_optimization_profile()
    for one in (network.get_input(i) for i in range(network.num_inputs)):
        number, *rest = tuple(one.shape)
        if shapes and number not in (-1, batch):
            raise Refused(f"its input {one.name!r} takes {number} samples at a time, and {batch} were asked")
        sample = shapes[one.name] if shapes else [max(1, size) for size in rest]
        least, most = (1, batch) if number == -1 else (number, number)
        profile.set_shape(one.name, (least, *sample), (most, *sample), (most, *sample))
    return profile


def _parser_reason(parser: Any) -> str:
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    first = errors[0]
    said = "the operator is not supported" if first.desc() == "false" else first.desc()
    where = f"{first.node_operator()} {first.node_name()!r}: " if first.node_operator() else ""
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return _one_line(f"{where}{said}{more}")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 400 else f"{line[:400]}…"


@functools.cache
def _logger(trt: ModuleType) -> Any:
    """Return the one logger of this process, which keeps errors: TensorRT takes no second."""

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity, message):
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


# --- engines and timings kept on disk ---------------------------------------------------------------------------------


def _kept_plan(trt: ModuleType, artefact: Artefact, shapes: dict, batch: int, device: Any) -> bytes:
    """Return the engine from disk, or build it and keep it there: the same file, version, GPU and profile only."""
    folder = places.project() / "data" / "quantization" / "engines"
    where = f"{device.name}-{device.major}.{device.minor}-{trt.__version__}"
    key = hashlib.sha256(f"{artefact.sha256}-{where}-{sorted(shapes.items())}-{batch}".encode()).hexdigest()[:24]
    plan, timings = folder / f"{key}.engine", folder / f"{hashlib.sha256(where.encode()).hexdigest()[:24]}.timings"
    if not plan.exists():
        known = timings.read_bytes() if timings.exists() else b""
        built, config = build(trt, artefact.path, shapes, batch, functools.partial(_with_timings, known=known))
        _write(plan, built)
        _write(timings, bytes(config.get_timing_cache().serialize()))
    return plan.read_bytes()


def _with_timings(config: Any, known: bytes) -> None:
    """Give the builder what earlier builds timed, so that equal layers are not timed again."""
    config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)


# --- the proof --------------------------------------------------------------------------------------------------------


def ran_in(told: dict[str, Any], products: tuple[proof.Product, ...]) -> proof.Ran:
    """Return the products of a file with the precision that the engine's layers run them in.

    told: the engine inspector's JSON, of DETAILED verbosity. products: as `on_cpu.layers` finds them in the file. Each
    layer names the ONNX nodes that were fused into it in its metadata. A product that no layer names has no precision.
    """
    layers = [layer for layer in told["Layers"] if isinstance(layer, dict)]
    by_node = {node: layer for layer in layers for node in _nodes(layer)}
    found = []
    for product in products:
        layer = by_node.get(product.name)
        kind, precision = (layer.get("LayerType", ""), precision_of(layer)) if layer else ("", "")
        found.append(proof.Product(product.name, product.op, kind, precision, product.multiplications))
    return proof.Ran(tuple(found), Counter(layer.get("LayerType", "") for layer in layers))


def _nodes(layer: dict[str, Any]) -> list[str]:
    """Return the names of the ONNX nodes in a layer: `[ONNX Layer: conv1]\\x1e[ONNX Layer: relu1]`."""
    return re.findall(r"\[ONNX Layer: ([^\]]*)\]", layer.get("Metadata") or "")


def precision_of(layer: dict[str, Any]) -> str:
    """Return the precision that a layer multiplies in: by its weights' type, else its kernel's name, else the lowest of
    its inputs' types; "" where it says nothing."""
    weights = layer.get("Weights")
    told = [str(weights.get("Type", "")) if isinstance(weights, dict) else "", str(layer.get("TacticName", ""))]
    quantized = [kind for text in told for kind, pattern in KINDS[:2] if pattern.search(text)]
    if quantized:
        return quantized[0]
    inputs = " ".join(_type_of(tensor) for tensor in layer.get("Inputs", []))
    return next((kind for kind, pattern in KINDS if pattern.search(inputs)), "")


def _type_of(tensor: dict[str, Any]) -> str:
    """Return what is said of a tensor's type: TensorRT 10 has `Format/Datatype`, 11 has it apart, as `Datatype`."""
    return next((str(value) for name, value in tensor.items() if name.lower().endswith("datatype")), "")


# --- asking TensorRT-RTX ----------------------------------------------------------------------------------------------


def accepted(path: Path, batch: int = 16, target: str = CHECKED_FOR) -> str | None:
    """Return None if TensorRT takes an ONNX file, else its reason in one line: TensorRT-RTX parses and builds it.

    target: the compute capability to build for, as "SM89". It happens in a process of its own, which the library may
    crash. It needs the packages tensorrt-rtx-cu13-libs and -bindings, and no GPU; ModuleNotFoundError without.
    """
    rtx()
    code = "import sys; from kit.techniques.quantization.engines import on_tensorrt as t; t._answer(*sys.argv[1:])"
    process = subprocess.run(
        [sys.executable, "-c", code, str(path), str(batch), target],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(one or os.getcwd() for one in sys.path)},
        capture_output=True,
        text=True,
        timeout=CHECK_LIMIT_S,
    )
    if process.returncode != 0:
        last = (process.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return _one_line(f"TensorRT-RTX ended with status {process.returncode}: {last}")
    return json.loads(process.stdout.splitlines()[-1])


def rtx() -> ModuleType:
    """Return TensorRT-RTX."""
    import tensorrt_rtx_bindings

    return tensorrt_rtx_bindings


def _answer(path: str, batch: str, target: str) -> None:
    """Print what `accepted` returns, as JSON."""
    trt = rtx()

    def without_gpu(config: Any) -> None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.__members__[target], 0)

    reason = None
    try:
        build(trt, Path(path), None, int(batch), without_gpu)
    except Refused as refused:
        reason = str(refused)
    print(json.dumps(reason))
