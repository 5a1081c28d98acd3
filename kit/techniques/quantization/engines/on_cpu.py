"""The engines of a CPU: ONNX Runtime, OpenVINO, PyTorch. Each opens a file for requests of one batch size, and can
prove what it ran. A GPU's are in `on_gpu.py` and `on_tensorrt.py`, those of small devices in `edge.py`."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kit.errors import UserError
from kit.measure.work import fell_back
from kit.record.document import Engagement
from kit.techniques.quantization.engines import proof
from kit.techniques.quantization.work import Artefact, Engine, Inputs, Subject

CPU = ["CPUExecutionProvider"]

OPENVINO = {"Convolution": "Conv", "GroupConvolution": "Conv", "FullyConnected": "MatMul", "MatMul": "MatMul"}
"""ONNX's names of the layers in which OpenVINO multiplies."""


def onnx_runtime(artefact: Artefact, subject: Subject, batch: int, threads: int) -> Engine:
    """Run by ONNX Runtime's CPU provider with all its graph optimizations."""
    import onnxruntime

    options = session_options(threads)
    session = onnxruntime.InferenceSession(str(artefact.path), options, providers=CPU)
    wanted = [session.get_outputs()[0].name]

    def prove() -> Engagement:
        ran = proof.profiled(artefact.path, first(subject.evaluation, batch), session_options(threads), CPU)
        share = ran.share(artefact.precision)
        return proof.ran_as(artefact.precision, share, ran.in_words(), threads, ran.multiplications)

    return Engine(lambda inputs: session.run(wanted, inputs)[0], prove)


def session_options(threads: int):
    """Return the options that every ONNX Runtime session here has: so many threads, quiet."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return options


def openvino(artefact: Artefact, subject: Subject, batch: int, threads: int) -> Engine:
    """Run by OpenVINO on the CPU, compiled for this batch; a BF16 artefact is converted as it is loaded."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(artefact.path)
    model.reshape({name: ov.PartialShape([batch, *values.shape[1:]]) for name, values in subject.evaluation.items()})
    hint = {"BF16": "bf16", "FP16": "f16"}.get(artefact.precision, "f32")
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(model, "CPU", options)
    request = compiled.create_infer_request()

    def run(inputs: Inputs) -> np.ndarray:
        return request.infer(inputs, share_inputs=True, share_outputs=True)[0].copy()

    def prove() -> Engagement:
        sizes = {product.name: batch * product.multiplications for product in layers(artefact.path, subject)}
        ran = _by_openvino(compiled, sizes)
        share = ran.share(artefact.precision)
        return proof.ran_as(artefact.precision, share, ran.in_words("layers"), threads, ran.multiplications)

    return Engine(run, prove)


def _by_openvino(compiled, sizes: dict[str, int]) -> proof.Ran:
    """Return what the compiled graph runs, by its own account: its layers with their kernels, types and shapes.

    sizes: multiplications of a request by the names of the file's nodes, for products that OpenVINO has fused with what
    is around them into a "Subgraph", which tells only whose they were.
    """
    products = []
    for node in compiled.get_runtime_model().get_ops():
        told = {name: value.astype(str) for name, value in node.get_rt_info().items() if hasattr(value, "astype")}
        if (op := OPENVINO.get(told.get("layerType"))) is not None:
            shapes = [list(node.get_input_shape(position)) for position in (0, 1)]
            count = proof.multiplications(op, *shapes, list(node.get_output_shape(0)))
        elif told.get("layerType") == "Subgraph":
            op, count = "Subgraph", sum(sizes.get(name, 0) for name in told["originalLayersNames"].split(","))
        if op is not None and count:
            precision = proof.NAMES.get(told["runtimePrecision"], told["runtimePrecision"])
            products.append(proof.Product(node.get_friendly_name(), op, told["primitiveType"], precision, count))
    return proof.Ran(tuple(products), Counter(product.provider for product in products))


def layers(path: Path, subject: Subject) -> tuple[proof.Product, ...]:
    """Return the products and convolutions of an ONNX file by the names of its own nodes, with one sample's
    multiplications, from one run by ONNX Runtime that rewrites nothing."""
    import onnxruntime

    options = session_options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return proof.profiled(path, first(subject.evaluation, 1), options, CPU).products


def pytorch(artefact: Artefact, subject: Subject, batch: int, threads: int) -> Engine:
    """Run by PyTorch, eager, as people write it first; a BF16 artefact under autocast."""
    return in_pytorch(artefact, subject, batch, threads, compiled=False)


def pytorch_compiled(artefact: Artefact, subject: Subject, batch: int, threads: int) -> Engine:
    """Run by PyTorch through torch.compile."""
    return in_pytorch(artefact, subject, batch, threads, compiled=True)


def in_pytorch(artefact: Artefact, subject: Subject, batch: int, threads: int, *, compiled: bool) -> Engine:
    """Return the module behind an artefact, ready to run; UserError where there is none."""
    import torch

    module = module_of(artefact, subject)
    low = artefact.precision == "BF16"
    torch.set_num_threads(threads)
    called = torch.compile(module) if compiled else module

    def run(inputs: Inputs, by=called) -> np.ndarray:
        tensors = [torch.from_numpy(inputs[name]) for name in subject.evaluation]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=low):
            return by(*tensors).float().numpy()

    def prove() -> Engagement:
        graphs = {"compiled_graphs": graph_count()} if compiled else {}
        if graphs and not graphs["compiled_graphs"]:
            return fell_back("uncompiled code: torch.compile caught no graph")
        done = multiplied(lambda: run(first(subject.evaluation, batch), module))
        whole = sum(done.values())
        share = done.get(artefact.precision, 0) / max(1, whole)
        return proof.ran_as(artefact.precision, share, f"PyTorch {torch.__version__}", threads, whole, **graphs)

    return Engine(run, prove)


def module_of(artefact: Artefact, subject: Subject):
    build = artefact.build or subject.build
    if build is None:
        raise UserError(
            f"{subject.name} is an ONNX file, and PyTorch needs a module; give model='package.module:build' to have it"
        )
    return build().eval()


def graph_count() -> int:
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def multiplied(run: Callable[[], object]) -> dict[str, int]:
    """Return the multiplications that PyTorch does in `run`, by the precision that each product is given, after its own
    flop counter, which counts each multiplication with its addition."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    done: dict[str, int] = {}

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            count = flop_registry.get(function._overloadpacket)
            if count is None:
                with self:  # without gradients a layer arrives whole: look into it, as the flop counter does
                    made = function.decompose(*arguments, **(options or {}))
                if made is not NotImplemented:
                    return made
            made = function(*arguments, **(options or {}))
            if count is not None:
                kind = next(one.dtype for one in arguments if isinstance(one, torch.Tensor))
                name = proof.NAMES.get(str(kind).removeprefix("torch."), str(kind))
                done[name] = done.get(name, 0) + count(*arguments, **(options or {}), out_val=made) // 2
            return made

    with Counting():
        run()
    return done


def first(samples: Inputs, number: int) -> Inputs:
    """Return so many samples, from the first on, over again where there are too few."""
    return {name: np.take(values, range(number), axis=0, mode="wrap") for name, values in samples.items()}
