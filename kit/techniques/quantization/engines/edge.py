"""The engines of phones and small devices, run here on the CPU: LiteRT (TensorFlow Lite's successor), and ExecuTorch
(PyTorch Mobile's). Both compute by XNNPACK.

Neither takes an ONNX file: they convert the module, for exactly the batch that is asked, and for INT8 calibrate it by
their own quantizers on the subject's own data: products and convolutions, with a scale for each channel of their
weights, as the kit's Q/DQ files have it; LiteRT by the smallest and largest activation, ExecuTorch by histograms. What
was converted is kept, and made anew for other weights.

LiteRT needs="litert_torch" and "ai_edge_quantizer" (packages litert-torch 0.10, ai-edge-litert 2.3, ai-edge-quantizer
0.10, which need no TensorFlow; one that they need, xdsl 0.28, asks for a typing-extensions older than Jupyter's and
works with that one, so that they are installed with --no-deps). ExecuTorch needs="executorch" (1.5). Their conversion
takes seconds, which the facts of the proof tell, as they do the size of the file.
"""

import contextlib
import hashlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.errors import UserError
from kit.record import words
from kit.record.document import Engagement
from kit.techniques.quantization.engines import proof
from kit.techniques.quantization.engines.on_cpu import first
from kit.techniques.quantization.engines.on_cpu import module_of as in_torch
from kit.techniques.quantization.work import Artefact, Engine, Inputs, Subject, digest, kept

if TYPE_CHECKING:
    from torch import nn

CALIBRATED = 256
"""Samples of the calibration that are taken, whatever the batch."""

LITERT = {"CONV_2D": "Conv", "DEPTHWISE_CONV_2D": "Conv", "FULLY_CONNECTED": "MatMul", "BATCH_MATMUL": "MatMul"}
"""ONNX's names of LiteRT's products."""

EXECUTORCH = {"convolution": "Conv", "linear": "MatMul", "addmm": "MatMul", "mm": "MatMul", "bmm": "MatMul"}
"""ONNX's names of the products in ExecuTorch's graphs, by their weights' layout."""

DELEGATES = {"XnnpackBackend": "XNNPACK"}

SIGNATURE = "serving_default"

# ------------------------------------------------------------------------------------------------ LiteRT


def litert(artefact: Artefact, subject: Subject, batch: int, threads: int) -> Engine:
    """Run by LiteRT, in FP32 or INT8; inputs and outputs keep their types."""
    from ai_edge_litert.interpreter import Interpreter

    made = _converted(artefact, subject, batch, ".tflite", _to_litert, "litert-torch")
    with quiet():
        interpreter = Interpreter(str(made.path), num_threads=threads)
        interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner(SIGNATURE)
    names = sorted(runner.get_input_details(), key=lambda name: int(name.rpartition("_")[2]))  # args_0, args_1, …

    def run(inputs: Inputs) -> np.ndarray:
        given = dict(zip(names, (inputs[name] for name in subject.calibration), strict=True))
        return next(iter(runner(**given).values()))

    def prove() -> Engagement:
        return _proof(artefact, made, _by_litert(interpreter), threads)

    return Engine(run, prove)


def _to_litert(module: "nn.Module", precision: str, batches: list[Inputs], path: Path) -> dict[str, Any]:
    import litert_torch

    with quiet():
        converted = litert_torch.convert(module, _tensors(batches[0]))
        converted.export(str(path))
        if precision == "INT8":
            _quantize_litert(path, batches)
    return {}


def _quantize_litert(path: Path, batches: list[Inputs]) -> None:
    """Replace a LiteRT file by one with static INT8 products.

    Ranges are min-max's: the quantizer's own way averages over requests, which clips what only few of them reach.
    """
    from ai_edge_quantizer.calibrator import CalibrationInterpreter, CalibrationMode
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.quantizer import Quantizer
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    mode = CalibrationMode.CALIBRATION_PRESERVE_ALL_TENSORS
    interpreter = CalibrationInterpreter(str(path), mode=mode, qsv_update_func=min_max_update)
    runner = interpreter.get_signature_runner(SIGNATURE)
    for one in batches:
        runner(**{f"args_{place}": values for place, values in enumerate(one.values())})
    quantizer = Quantizer(str(path))
    for op in LITERT:
        quantizer.add_static_config(".*", TFLOperationName(op), activation_num_bits=8, weight_num_bits=8)
    quantizer.quantize(interpreter.get_calibration_results()).export_model(str(path), overwrite=True)


def _by_litert(interpreter: Any) -> list[proof.Product]:
    """Return the products of the interpreter's graph. XNNPACK runs those whose weights it was handed."""
    nodes = interpreter._get_ops_details()  # there is no public way to ask what a delegate took over
    handed = {tensor for node in nodes if node["op_name"] == "DELEGATE" for tensor in node["inputs"]}
    products = []
    for node in nodes:
        if (op := LITERT.get(node["op_name"])) is None:
            continue
        left, right, output = (
            interpreter._get_tensor_details(one, 0) for one in (*node["inputs"][:2], node["outputs"][0])
        )
        shapes = [[int(n) for n in one["shape"]] for one in (left, right, output)]
        provider = "XNNPACK" if {*node["inputs"][:2]} & handed else "LiteRT's own kernels"
        kinds = {proof.NAMES.get(np.dtype(one["dtype"]).name, "") for one in (left, right)}
        precision = kinds.pop() if len(kinds) == 1 else "FP32"
        count = _litert_count(node["op_name"], *shapes)
        products.append(proof.Product(f"{node['op_name']} {node['index']}", op, provider, precision, count))
    return products


def _litert_count(op: str, left: list[int], right: list[int], output: list[int]) -> int:
    """Return how many scalar multiplications an operator makes: a convolution's weights are [out, h, w, in], those of
    one by depth [1, h, w, out], a product's [out, in] (schema of LiteRT)."""
    if op == "DEPTHWISE_CONV_2D":
        return int(np.prod(output)) * right[1] * right[2]
    inner = left[-1] if op == "BATCH_MATMUL" else int(np.prod(right[1:]))
    return int(np.prod(output)) * inner


# ------------------------------------------------------------------------------------------------ ExecuTorch


def executorch_(artefact: Artefact, subject: Subject, batch: int, threads: int) -> Engine:
    """Run by ExecuTorch, in FP32 or INT8, with XNNPACK for what it can take."""
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    made = _converted(artefact, subject, batch, ".pte", _to_executorch, "executorch")
    portable_lib._unsafe_reset_threadpool(threads)  # unsafe while something runs; nothing does
    method = Runtime.get().load_program(made.path).load_method("forward")

    def run(inputs: Inputs) -> np.ndarray:
        tensors = [torch.from_numpy(inputs[name]) for name in subject.calibration]
        return method.execute(tensors)[0].numpy()

    def prove() -> Engagement:
        products = [proof.Product(*product) for product in made.settings["products"]]
        return _proof(artefact, made, products, portable_lib._threadpool_get_thread_count())

    return Engine(run, prove)


def _to_executorch(module: "nn.Module", precision: str, batches: list[Inputs], path: Path) -> dict[str, Any]:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    tensors = _tensors(batches[0])
    with quiet(), torch.no_grad():
        if precision == "INT8":
            module = _quantized_for_xnnpack(module, batches)
        lowered = to_edge_transform_and_lower(torch.export.export(module, tensors), partitioner=[XnnpackPartitioner()])
        products = [
            [product.name, product.op, product.provider, product.precision, product.multiplications]
            for product in _in_graph(lowered.exported_program().graph_module)
        ]
        path.write_bytes(lowered.to_executorch().buffer)
    return {"products": products}


def _quantized_for_xnnpack(module: "nn.Module", batches: list[Inputs]) -> "nn.Module":
    """Return the module with Q/DQ pairs around its products, where XNNPACK expects them (PyTorch's PT2E)."""
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    aten = torch.ops.aten
    others = {aten.add.Tensor, aten.add_.Tensor, aten.mul.Tensor, aten.mul_.Tensor, aten.cat.default}
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    quantizer.set_filter_function(lambda node: node.target not in others)
    prepared = prepare_pt2e(torch.export.export(module, _tensors(batches[0])).module(), quantizer)
    for one in batches:
        prepared(*_tensors(one))
    return convert_pt2e(prepared)


def _in_graph(graph_module: Any, provider: str = "ExecuTorch's own kernels") -> Iterator[proof.Product]:
    """Yield the products of a lowered graph and of the parts of it that were handed to a delegate.

    XNNPACK computes in integers what comes from a dequantization: it has the pair and the product as one kernel.
    """
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" and hasattr(lowered := getattr(graph_module, node.target), "backend_id"):
            yield from _in_graph(
                lowered.original_module.graph_module, DELEGATES.get(lowered.backend_id, lowered.backend_id)
            )
        packet = getattr(getattr(node.target, "_op", node.target), "overloadpacket", None)
        if node.op != "call_function" or (name := getattr(packet, "__name__", "")) not in EXECUTORCH:
            continue
        left, right = node.args[1:3] if name == "addmm" else node.args[:2]
        op = "ConvTranspose" if name == "convolution" and node.args[6] else EXECUTORCH[name]
        shapes = [list(one.meta["val"].shape) for one in (left, right, node)]
        precision = "INT8" if "dequantize" in str(left.target) else "FP32"
        yield proof.Product(node.name, op, provider, precision, proof.multiplications(op, *shapes))


# ------------------------------------------------------------------------------------------------ both


def _converted(
    artefact: Artefact,
    subject: Subject,
    batch: int,
    suffix: str,
    convert: Callable[["nn.Module", str, list[Inputs], Path], dict[str, Any]],
    package: str,
) -> Artefact:
    """Return what the module behind an artefact was converted to, for requests of `batch` samples."""
    if artefact.precision not in ("FP32", "INT8"):
        raise UserError(f"{package} is run in FP32 and INT8 here, and this file is {artefact.precision}")
    module = in_torch(artefact, subject)
    stem = artefact.path.name.removesuffix(".onnx")
    return kept(
        subject.folder / "made",
        f"{stem}.{artefact.precision.lower()}-of-{batch}",
        suffix,
        lambda path: convert(module, artefact.precision, _batches(subject.calibration, batch), path),
        artefact.precision,
        weights=_weights(module),
        calibration=digest(subject.calibration),
        batch=batch,
        package=f"{package} {metadata.version(package)}",
    )


def _weights(module: "nn.Module") -> str:
    """Return a hash of the module's layers and all that it has learned."""
    whole = hashlib.sha256(repr(module).encode())
    for name, tensor in module.state_dict().items():
        whole.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return whole.hexdigest()


def _batches(samples: Inputs, batch: int) -> list[Inputs]:
    """Return the calibration in batches; the last is filled up from the first."""
    number = min(CALIBRATED, len(next(iter(samples.values()))))
    filled = first({name: values[:number] for name, values in samples.items()}, -(-number // batch) * batch)
    return [{name: values[i : i + batch] for name, values in filled.items()} for i in range(0, number, batch)]


def _tensors(inputs: Inputs) -> tuple:
    import torch

    return tuple(torch.from_numpy(values) for values in inputs.values())


def _proof(artefact: Artefact, made: Artefact, products: list[proof.Product], threads: int) -> Engagement:
    """Return the proof that the converted file ran: in which precision, and by whose kernels."""
    ran = proof.Ran(tuple(products), dict(Counter(product.provider for product in products)))
    facts = {"file": words.mib(made.mib), "converted_in": words.duration(made.made_s)}
    share, by = ran.share(artefact.precision), ran.in_words("products")
    return proof.ran_as(artefact.precision, share, by, threads, ran.multiplications, **facts)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep out of the worker's log what the converters say of their progress."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
