"""The engines of phones and small devices, run here on the CPU: LiteRT (TensorFlow Lite's successor) and ExecuTorch
(PyTorch Mobile's). Both compute by XNNPACK.

Neither takes an ONNX file: they convert the module for exactly one batch size, and for INT8 calibrate it by their own
quantizers on the model's own data: products and convolutions, a scale per channel of the weights.

LiteRT needs the packages litert-torch 0.10, ai-edge-litert 2.3 and ai-edge-quantizer 0.10, installed with --no-deps:
their requirement xdsl 0.28 asks for an older typing-extensions than Jupyter's, and works with it. ExecuTorch needs
executorch 1.5.
"""

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from kit.record.document import ExecutionProof
from kit.techniques.quantization.checks import NAMES, Product, proof
from kit.techniques.quantization.workload import Engine, Inputs, Model, ModelFile, batches, cached_file, digest, quiet

# Products, by each engine's names
LITERT = "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL"
EXECUTORCH = "convolution", "linear", "addmm", "mm", "bmm"


def litert(file: ModelFile, model: Model, batch: int, threads: int) -> Engine:
    """Run by LiteRT, in FP32 or INT8; inputs and outputs keep their types."""
    from ai_edge_litert.interpreter import Interpreter

    made = _converted(file, model, batch, ".tflite", _to_litert, "litert-torch")
    with quiet():
        interpreter = Interpreter(str(made.path), num_threads=threads)
        interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()

    def run(inputs: Inputs) -> np.ndarray:
        given = {f"args_{place}": inputs[name] for place, name in enumerate(model.calibration)}
        return next(iter(runner(**given).values()))

    return Engine(run, lambda: proof(_litert_products(interpreter), file.precision, threads))


def _to_litert(module: Any, precision: str, parts: list[Inputs], path: Path) -> None:
    import litert_torch
    import torch
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.quantizer import Quantizer

    litert_torch.convert(module, tuple(map(torch.from_numpy, parts[0].values()))).export(str(path))
    if precision == "INT8":
        quantizer = Quantizer(str(path))
        for op in LITERT:
            quantizer.add_static_config(".*", TFLOperationName(op), activation_num_bits=8, weight_num_bits=8)
        requests = [{f"args_{place}": values for place, values in enumerate(one.values())} for one in parts]
        found = quantizer.calibrate({"serving_default": requests})
        quantizer.quantize(found).export_model(str(path), overwrite=True)


def _litert_products(interpreter: Any) -> list[Product]:
    """Return the products of the interpreter's graph, by the types of their factors."""
    products = []
    for node in interpreter._get_ops_details():  # there is no public way to see them
        if node["op_name"] in LITERT:
            types = {np.dtype(interpreter._get_tensor_details(one, 0)["dtype"]).name for one in node["inputs"][:2]}
            products.append(Product("LiteRT", NAMES.get(types.pop(), "") if len(types) == 1 else "FP32"))
    return products


def executorch(file: ModelFile, model: Model, batch: int, threads: int) -> Engine:
    """Run by ExecuTorch, in FP32 or INT8, with XNNPACK for what it can take."""
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    made = _converted(file, model, batch, ".pte", _to_executorch, "executorch")
    portable_lib._unsafe_reset_threadpool(threads)  # unsafe while something runs; nothing does
    method = Runtime.get().load_program(made.path).load_method("forward")

    def run(inputs: Inputs) -> np.ndarray:
        tensors = [torch.from_numpy(inputs[name]) for name in model.calibration]
        return method.execute(tensors)[0].numpy()

    def prove() -> ExecutionProof:
        products = [Product(*product) for product in made.settings["products"]]
        return proof(products, file.precision, portable_lib._threadpool_get_thread_count())

    return Engine(run, prove)


def _to_executorch(module: Any, precision: str, parts: list[Inputs], path: Path) -> dict[str, Any]:
    import torch
    from executorch.backends.xnnpack.recipes import XNNPackRecipeType
    from executorch.export import ExportRecipe, export

    recipe = {"FP32": XNNPackRecipeType.FP32, "INT8": XNNPackRecipeType.PT2E_INT8_STATIC_PER_CHANNEL}[precision]
    tensors = [tuple(map(torch.from_numpy, one.values())) for one in parts]
    session = export(module, tensors, ExportRecipe.get_recipe(recipe))
    path.write_bytes(session.get_pte_buffer())
    return {"products": _executorch_products(session.get_edge_program_manager().exported_program().graph_module)}


def _executorch_products(graph_module: Any, provider: str = "ExecuTorch's own kernels") -> list[Product]:
    """Return the products of a lowered graph and of the parts of it that were handed to a delegate.

    XNNPACK computes in integers what comes from a dequantization: it has the pair and the product as one kernel.
    """
    products = []
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" and hasattr(lowered := getattr(graph_module, node.target), "backend_id"):
            backend = lowered.backend_id.replace("XnnpackBackend", "XNNPACK")
            products += _executorch_products(lowered.original_module.graph_module, backend)
        packet = getattr(getattr(node.target, "_op", node.target), "overloadpacket", None)
        if node.op == "call_function" and (name := getattr(packet, "__name__", "")) in EXECUTORCH:
            factor = node.args[1 if name == "addmm" else 0]
            products.append(Product(provider, "INT8" if "dequantize" in str(factor.target) else "FP32"))
    return products


def _converted(
    file: ModelFile, model: Model, batch: int, suffix: str, convert: Callable[..., dict | None], package: str
) -> ModelFile:
    """Return the file that a model was converted to, for requests of `batch` samples."""
    parts = batches(model.calibration, batch)

    def make(path: Path) -> dict | None:
        with quiet():
            return convert(model.build(), file.precision, parts, path)

    return cached_file(
        model, f"{package}-{file.precision.lower()}", make, file.precision, suffix, batch=batch,
        calibration=digest(model.calibration), package=f"{package} {metadata.version(package)}",
    )  # fmt: skip
