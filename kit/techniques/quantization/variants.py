"""The engines, functions that open a file for requests of one batch size and can prove what ran: ONNX Runtime,
OpenVINO, PyTorch. TensorRT is in `tensorrt_engine.py`, LiteRT and ExecuTorch are in `edge.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kit.record.document import ExecutionProof
from kit.techniques.quantization.checks import NAMES, PRODUCTS, Product, profiled, proof
from kit.techniques.quantization.workload import Engine, Inputs, Model, ModelFile, first

OPENVINO = "Convolution", "GroupConvolution", "FullyConnected", "MatMul"  # its layers that are products


def onnx_runtime(file: ModelFile, model: Model, batch: int, threads: int) -> Engine:
    """Run by ONNX Runtime's CPU provider with all its graph optimizations."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file.path), session_options(threads), ["CPUExecutionProvider"])
    wanted = [session.get_outputs()[0].name]

    def prove() -> ExecutionProof:
        products = profiled(file.path, first(model.evaluation, batch), session_options(threads))
        return proof(products, file.precision, threads)

    return Engine(lambda inputs: session.run(wanted, inputs)[0], prove)


def session_options(threads: int) -> Any:
    """Return the options of every ONNX Runtime session here: so many threads, quiet."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return options


def products_in(file: ModelFile) -> list[str]:
    """Return the names of the nodes of an ONNX file that are products."""
    import onnx

    return [node.name for node in onnx.load(file.path).graph.node if PRODUCTS.search(node.op_type)]


def openvino(file: ModelFile, model: Model, batch: int, threads: int) -> Engine:
    """Run by OpenVINO on the CPU, compiled for this batch; a BF16 file is converted as it is loaded."""
    import openvino as ov

    core = ov.Core()
    network = core.read_model(file.path)
    network.reshape({name: ov.PartialShape([batch, *values.shape[1:]]) for name, values in model.evaluation.items()})
    hint = {"BF16": "bf16", "FP16": "f16"}.get(file.precision, "f32")
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(network, "CPU", options)
    request = compiled.create_infer_request()

    def run(inputs: Inputs) -> np.ndarray:
        return request.infer(inputs, share_inputs=True, share_outputs=True)[0].copy()

    def prove() -> ExecutionProof:
        return proof(_openvino_products(compiled, products_in(file)), file.precision, threads)

    return Engine(run, prove)


def _openvino_products(compiled: Any, names: Sequence[str]) -> list[Product]:
    """Return the products of the compiled graph: its product layers (one with a bias has the name of the addition), and
    those of the file's products that a Subgraph was made of."""
    products = []
    for node in compiled.get_runtime_model().get_ops():
        facts = {name: value.astype(str) for name, value in node.get_rt_info().items() if hasattr(value, "astype")}
        kind, made_of = facts.get("layerType"), facts.get("originalLayersNames", "").split(",")
        number = sum(name in names for name in made_of) if kind == "Subgraph" else kind in OPENVINO
        precision = facts.get("runtimePrecision", "")
        products += number * [Product(facts.get("primitiveType", ""), NAMES.get(precision, precision))]
    return products


def pytorch(file: ModelFile, model: Model, batch: int, threads: int) -> Engine:
    """Run the model's module by PyTorch on the CPU, eager, as people write it first; a BF16 file under autocast."""
    import torch

    torch.set_num_threads(threads)
    module, autocast = model.build(), torch.autocast("cpu", torch.bfloat16, enabled=file.precision == "BF16")

    def run(inputs: Inputs) -> np.ndarray:
        with torch.inference_mode(), autocast:
            return module(*[torch.from_numpy(inputs[name]) for name in model.evaluation]).float().numpy()

    def prove() -> ExecutionProof:
        """Prove by the type of what each convolution and linear layer returns."""
        products = []

        def note(layer: Any, given: Any, output: torch.Tensor) -> None:
            kind = str(output.dtype).removeprefix("torch.")
            products.append(Product(f"PyTorch {torch.__version__}", NAMES.get(kind, kind)))

        kinds = torch.nn.Linear, torch.nn.modules.conv._ConvNd
        hooks = [layer.register_forward_hook(note) for layer in module.modules() if isinstance(layer, kinds)]
        run(first(model.evaluation, batch))
        for hook in hooks:
            hook.remove()
        return proof(products, file.precision, threads)

    return Engine(run, prove)
