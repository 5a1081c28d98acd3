"""Matrix products of the processor: the best of the libraries that are there, at the size that suits them best."""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from kit.machine.ceilings.probe import Conditions, Impossible, best_s

Product = Callable[[int], Callable[[], object]]
"""Prepares the product of two square matrices of a size."""

SMALLEST, LARGEST = 512, 8192
LONG_ENOUGH_S = 0.01
"""A larger size is tried only while a product takes less: short ones spend their time on handing out the work where
there are many cores, long ones are never undisturbed where there are neighbours."""


def fp32_gflop_per_s(conditions: Conditions) -> float:
    """Return 10⁹ operations a second, an addition and a multiplication counted as two: NumPy's or PyTorch's."""
    return _best_of((_numpy_fp32, *_by_torch(_torch_fp32, conditions)), conditions)


def bf16_gflop_per_s(conditions: Conditions) -> float:
    """Return the same for BF16, by PyTorch."""
    return _best_of(_by_torch(_torch_bf16, conditions), conditions)


def int8_gop_per_s(conditions: Conditions) -> float:
    """Return the same for INT8 summed up as INT32, by PyTorch or ONNX Runtime: their kernels need not be the same."""
    by_torch = _by_torch(_torch_int8, conditions)
    return _best_of((*by_torch, lambda n: _onnx_int8(n, conditions.threads)), conditions)


def _by_torch(product: Product, conditions: Conditions) -> list[Product]:
    """Return the product by all threads, and by one: where a neighbour has a core, threads that wait for each other at
    every product are slower than one that waits for nobody (4 against 108 GFLOP/s at a load of 10 on 2 cores)."""
    return [partial(_with_threads, product, threads) for threads in dict.fromkeys((conditions.threads, 1))]


def _with_threads(product: Product, threads: int, n: int) -> Callable[[], object]:
    import torch

    torch.set_num_threads(threads)
    return product(n)


def _best_of(products: Iterable[Product], conditions: Conditions) -> float:
    """Return the best rate of any library; raise what the last one raised if none could."""
    found, why = [], Impossible("no library here has it")
    for product in products:
        try:
            found.append(best_rate(product, conditions.budget_s))
        except Exception as error:  # a library that is missing, or whose build has no kernel for this processor
            why = error
    if not found:
        raise why
    return max(found)


def best_rate(product: Product, budget_s: float, smallest: int = SMALLEST, largest: int = LARGEST) -> float:
    """Return the best rate, in 10⁹ operations a second, over sizes that double while products are short."""
    best, n = 0.0, smallest
    while True:
        seconds = best_s(product(n), budget_s / 2)
        best = max(best, 2 * n**3 / 1e9 / seconds)
        n *= 2
        if seconds > LONG_ENOUGH_S or n > largest:
            return best


def _numpy_fp32(n: int) -> Callable[[], object]:
    left = np.full((n, n), 0.5, np.float32)
    product = np.empty_like(left)
    return lambda: left.dot(left, product)


def _torch(n: int, kind: str) -> Callable[[], object]:
    import torch

    left = torch.rand(n, n).to(getattr(torch, kind))
    product = torch.empty_like(left)
    return lambda: torch.mm(left, left, out=product)


def _torch_fp32(n: int) -> Callable[[], object]:
    return _torch(n, "float32")


def _torch_bf16(n: int) -> Callable[[], object]:
    return _torch(n, "bfloat16")


def _torch_int8(n: int) -> Callable[[], object]:
    import torch

    left = torch.randint(-100, 100, (n, n), dtype=torch.int8)
    return lambda: torch._int_mm(left, left)


def _onnx_int8(n: int, threads: int) -> Callable[[], object]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).integers(-100, 100, (n, n), np.int8)
    left = helper.make_tensor_value_info("left", TensorProto.UINT8, [n, n])
    product = helper.make_tensor_value_info("product", TensorProto.INT32, [n, n])
    node = helper.make_node("MatMulInteger", ["left", "weights"], ["product"])
    graph = helper.make_graph([node], "product", [left], [product], [numpy_helper.from_array(weights, "weights")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {"left": np.random.default_rng(1).integers(0, 200, (n, n), np.uint8)}
    return lambda: session.run(None, given)


PROBES = {
    "matrix_product_fp32_gflop_per_s": fp32_gflop_per_s,
    "matrix_product_bf16_gflop_per_s": bf16_gflop_per_s,
    "matrix_product_int8_gop_per_s": int8_gop_per_s,
}
