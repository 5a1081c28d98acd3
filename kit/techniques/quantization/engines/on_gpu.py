"""The engines of an NVIDIA GPU beside TensorRT: ONNX Runtime's CUDA provider, PyTorch, and torchao's quantization.

A request begins and ends in the host's memory, so that each answer pays for its way to the device and back. FP32
products are TF32's in all three engines of a GPU: TensorRT and ONNX Runtime do so unless told otherwise, and PyTorch is
told to here. `threads` is what the host may use.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.errors import UserError
from kit.measure.work import fell_back
from kit.record.document import Engagement
from kit.techniques.quantization.engines import on_cpu, proof
from kit.techniques.quantization.work import Artefact, Engine, Inputs, Subject

if TYPE_CHECKING:
    from torch import nn

CUDA = "CUDAExecutionProvider"

GRAIN = 16
"""Both sides of a linear layer's weight must be multiples of this for the integer and FP8 products of a GPU."""


# --- ONNX Runtime -----------------------------------------------------------------------------------------------------


def onnx_runtime_cuda(artefact: Artefact, subject: Subject, batch: int, threads: int) -> Engine:
    """Run by ONNX Runtime's CUDA provider; what it has no kernel for runs on the CPU, and the proof says what.

    It has no integer kernels for Q/DQ pairs: it computes them in float, which is a fallback.
    """
    return by_provider(CUDA, artefact, subject, batch, threads)


def by_provider(provider: str, artefact: Artefact, subject: Subject, batch: int, threads: int) -> Engine:
    """Return ONNX Runtime with one provider, and its CPU provider for the rest."""
    import onnxruntime

    providers = list(dict.fromkeys([provider, *on_cpu.CPU]))
    session = onnxruntime.InferenceSession(str(artefact.path), on_cpu.session_options(threads), providers=providers)
    wanted = [session.get_outputs()[0].name]

    def prove() -> Engagement:
        inputs = on_cpu.first(subject.evaluation, batch)
        ran = proof.profiled(artefact.path, inputs, on_cpu.session_options(threads), providers)
        return ran_by(provider, ran, artefact.precision, threads)

    return Engine(lambda inputs: session.run(wanted, inputs)[0], prove, device="cuda" if provider == CUDA else "cpu")


def ran_by(provider: str, ran: proof.Ran, precision: str, threads: int) -> Engagement:
    """Return the proof that `provider` ran the products of a request: none of them may have run elsewhere."""
    strays = [product for product in ran.products if product.provider != provider]
    if strays:
        names = sorted({product.provider for product in strays})
        where = f"{', '.join(names)} for {len(strays)} of {len(ran.products)} products"
        return fell_back(where, provider=ran.in_words(), threads=threads)
    return proof.ran_as(precision, ran.share(precision), ran.in_words(), threads, ran.multiplications)


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def pytorch_cuda(artefact: Artefact, subject: Subject, batch: int, threads: int) -> Engine:
    """Run by PyTorch through torch.compile, all weights in the artefact's precision (FP32, FP16 or BF16)."""
    return on_device("cuda", artefact, subject, batch, threads)


def torchao_int8(artefact: Artefact, subject: Subject, batch: int, threads: int) -> Engine:
    """Run linear layers in INT8, weights by channel and activations as they come by row, and the rest in BF16."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig

    return on_device("cuda", artefact, subject, batch, threads, Int8DynamicActivationInt8WeightConfig())


def torchao_fp8(artefact: Artefact, subject: Subject, batch: int, threads: int) -> Engine:
    """Run linear layers in FP8, scaled by row, and the rest in BF16; from compute capability 8.9 on."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow

    config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
    return on_device("cuda", artefact, subject, batch, threads, config)


def on_device(
    device: str, artefact: Artefact, subject: Subject, batch: int, threads: int, config: Any = None
) -> Engine:
    """Return the module behind an artefact on a device, compiled; UserError where there is none.

    config: torchao's, for the linear layers. The proof asks the same module uncompiled, whose products can be counted.
    """
    import torch

    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(threads)
    kind = torch.bfloat16 if config else getattr(torch, _TYPES.get(artefact.precision, "float32"))
    module = on_cpu.module_of(artefact, subject).to(device, kind)
    if config:
        quantize(module, config)
    compiled = torch.compile(module)

    def run(inputs: Inputs, by: Callable = compiled) -> np.ndarray:
        tensors = [_sent(inputs[name], device, kind) for name in subject.evaluation]
        with torch.inference_mode():
            return by(*tensors).float().cpu().numpy()

    def prove() -> Engagement:
        if compiled is not module and not on_cpu.graph_count():
            return fell_back("uncompiled code: torch.compile caught no graph")
        _count_integer_products()
        done = on_cpu.multiplied(lambda: run(on_cpu.first(subject.evaluation, batch), module))
        share = done.get(artefact.precision, 0) / max(1, sum(done.values()))
        name = f"PyTorch {torch.__version__} on {_name(device)}"
        return proof.ran_as(artefact.precision, share, name, threads, sum(done.values()))

    return Engine(run, prove, device=device)


_TYPES = {"FP16": "float16", "BF16": "bfloat16"}


def quantize(module: "nn.Module", config: Any) -> int:
    """Quantize, in place, the linear layers that the fast products take, and return how many; UserError if none."""
    from torch import nn
    from torchao.quantization import quantize_

    def takes(layer: nn.Module, name: str) -> bool:
        return isinstance(layer, nn.Linear) and layer.in_features % GRAIN == layer.out_features % GRAIN == 0

    taken = [name for name, layer in module.named_modules() if takes(layer, name)]
    if not taken:
        raise UserError(
            f"torchao quantizes linear layers whose sides are multiples of {GRAIN}, and the model has none; "
            "leave its variants out, or quantize convolutions by a Q/DQ file for TensorRT"
        )
    quantize_(module, config, filter_fn=takes)
    return len(taken)


def _sent(values: np.ndarray, device: str, kind: Any) -> Any:
    """Return an input on the device; floats in the type that the module computes in."""
    import torch

    tensor = torch.from_numpy(values).to(device, non_blocking=True)
    return tensor.to(kind) if tensor.is_floating_point() else tensor


def _count_integer_products() -> None:
    """Have PyTorch's flop counter know its integer product, which it does not (2.13)."""
    import torch
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    if torch.ops.aten._int_mm in flop_registry:
        return

    @register_flop_formula(torch.ops.aten._int_mm)
    def _(left, right, *rest, out_shape=None, **options) -> int:
        return 2 * left[0] * left[1] * right[1]


def _name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "the CPU"
