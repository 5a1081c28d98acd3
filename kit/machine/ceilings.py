"""What this machine could do at best, measured in the same session: what a technique's speed is held against."""

import time
from collections.abc import Callable

import numpy as np


def measure(budget_s: float = 0.3) -> dict[str, float]:
    """Measure the ceilings, each within `budget_s` seconds: `memory_copy_gib_per_s` (bytes read, one thread, 64 MiB
    blocks) and `matrix_product_fp32_gflop_per_s` (1024 × 1024, the threads that NumPy takes). Best of the repeats."""
    source = np.ones(64 * 2**20 // 8)
    target = np.empty_like(source)
    matrix = np.ones((1024, 1024), np.float32)
    product = np.empty_like(matrix)
    return {
        "memory_copy_gib_per_s": source.nbytes / 2**30 / _best_s(lambda: np.copyto(target, source), budget_s),
        "matrix_product_fp32_gflop_per_s": 2 * 1024**3 / 1e9 / _best_s(lambda: matrix.dot(matrix, product), budget_s),
    }


def _best_s(call: Callable, budget_s: float) -> float:
    best, end = float("inf"), time.perf_counter() + budget_s
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
