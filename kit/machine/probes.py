"""The process that measures peaks (`python -m kit.machine.probes THREADS BUDGET_S NAME…`).

It prints a line of JSON a peak, [name, rate or null, reason], as soon as it is known: what it crashes on is then the
first name without a line. Every rate is the best of its repeats; a matrix product counts 2n³ operations.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

MIB = 2**20
COPY_MIB, DEVICE_COPY_MIB = 256, 512
"""Blocks of memory copies, which no cache holds."""
SIZES, DEVICE_SIZES, LONG_ENOUGH_S = (512, 8192), (2048, 16384), 0.01
"""Of matrices, doubled while a product takes less than `LONG_ENOUGH_S`: short ones spend their time on handing out the
work where there are many cores, long ones are never undisturbed where there are neighbours."""


def best_s(call: Callable[[], object], budget_s: float) -> float:
    """Return the shortest time of a call, the first not counted.

    The repeats go on for so many seconds, and up to three times as long until the two shortest agree within a tenth: a
    busy neighbour may leave no call alone for a while."""
    call()
    times, begun, spent = [np.inf, np.inf], time.perf_counter(), 0.0
    while np.isinf(times[0]) or spent < budget_s or (times[1] > 1.1 * times[0] and spent <= 3 * budget_s):
        start = time.perf_counter()
        call()
        end = time.perf_counter()
        times, spent = sorted([*times, end - start])[:2], end - begun
    return times[0]


def memory_copy(threads: int, budget_s: float) -> float:
    """Return GiB/s of bytes read (as many are written), all threads together, a part a thread."""
    source = np.ones(COPY_MIB * MIB // 8)
    target = np.empty_like(source)
    parts = list(zip(*(np.array_split(array, threads) for array in (target, source)), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        return COPY_MIB / 1024 / best_s(lambda: list(pool.map(lambda part: np.copyto(*part), parts)), budget_s)


def product(kind: str, threads: int, budget_s: float) -> float:
    """Return 10⁹ operations a second of the best of the libraries here; kind: fp32, bf16 or int8.

    PyTorch computes by all threads and by one: where a neighbour has a core, threads that wait for each other at every
    product are slower than one that waits for nobody."""
    ways = [partial(_by_torch, kind, number, "cpu") for number in dict.fromkeys((threads, 1))]
    ways += {"fp32": [_by_numpy], "int8": [partial(_by_onnxruntime, threads)]}.get(kind, [])
    rates, why = [], None
    for way in ways:
        try:
            rates.append(best_rate(way, budget_s / 2, *SIZES))
        except Exception as error:  # a library that is missing, or whose build has no kernel for this processor
            why = error
    if not rates:
        raise why
    return max(rates)


def best_rate(prepare: Callable[[int], Callable], budget_s: float, smallest: int, largest: int) -> float:
    """Return the best rate of products of two square matrices, in 10⁹ operations a second, over sizes."""
    best, n, seconds = 0.0, smallest, 0.0
    while n <= largest and seconds <= LONG_ENOUGH_S:
        seconds = best_s(prepare(n), budget_s)
        best, n = max(best, 2 * n**3 / 1e9 / seconds), 2 * n
    return best


def _by_numpy(n: int) -> Callable[[], object]:
    left = np.full((n, n), 0.5, np.float32)
    out = np.empty_like(left)
    return lambda: left.dot(left, out)


def _by_torch(kind: str, threads: int, device: str, n: int) -> Callable[[], object]:
    torch, wait = _torch(device)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    if kind == "int8":
        left = torch.randint(-100, 100, (n, n), dtype=torch.int8, device=device)
        right = left.t().contiguous().t() if device != "cpu" else left  # by columns, as a GPU's units take it
        return lambda: (torch._int_mm(left, right), wait())
    left = torch.rand(n, n, device=device).to(torch.bfloat16 if kind == "bf16" else torch.float32)
    out = torch.empty_like(left)
    return lambda: (torch.mm(left, left, out=out), wait())


def _by_onnxruntime(threads: int, n: int) -> Callable[[], object]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).integers(-100, 100, (n, n), np.int8)
    left = helper.make_tensor_value_info("left", TensorProto.UINT8, [n, n])
    out = helper.make_tensor_value_info("out", TensorProto.INT32, [n, n])
    node = helper.make_node("MatMulInteger", ["left", "weights"], ["out"])
    graph = helper.make_graph([node], "product", [left], [out], [numpy_helper.from_array(weights, "weights")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {"left": np.random.default_rng(1).integers(0, 200, (n, n), np.uint8)}
    return lambda: session.run(None, given)


def _torch(device: str):
    """Return PyTorch and how to wait for the device. Raise RuntimeError where PyTorch can't use it."""
    import torch

    if device == "cpu":
        return torch, lambda: None
    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch is installed without CUDA, or for another one")
    return torch, torch.cuda.synchronize


def device_product(kind: str, threads: int, budget_s: float, device: str = "cuda") -> float:
    """Return 10⁹ operations a second of a matrix product on the GPU; kind: fp32, bf16 or int8."""
    return best_rate(partial(_by_torch, kind, threads, device), budget_s, *DEVICE_SIZES)


def device_copy(threads: int, budget_s: float, device: str = "cuda") -> float:
    """Return GiB/s of bytes read (as many are written) within the GPU's memory."""
    torch, wait = _torch(device)
    source = torch.ones(DEVICE_COPY_MIB * MIB // 4, device=device)
    target = torch.empty_like(source)
    return DEVICE_COPY_MIB / 1024 / best_s(lambda: (target.copy_(source), wait()), budget_s)


PROBES = {"memory_copy_gib_per_s": memory_copy, "device_copy_gib_per_s": device_copy}
for _kind, _unit in (("fp32", "gflop"), ("bf16", "gflop"), ("int8", "gop")):
    PROBES[f"matrix_product_{_kind}_{_unit}_per_s"] = partial(product, _kind)
    PROBES[f"device_matrix_product_{_kind}_{_unit}_per_s"] = partial(device_product, _kind)


def main(threads: str, budget_s: str, *names: str) -> None:
    """Measure the peaks of these names in this order and print each."""
    out = os.fdopen(os.dup(1), "w")  # a library that prints must not get between the lines
    os.dup2(2, 1)
    for name in names:
        try:
            found = float(PROBES[name](int(threads), float(budget_s))), ""
        except Exception as error:  # whatever a library raises where a machine can't
            found = None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        print(json.dumps([name, *found]), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
