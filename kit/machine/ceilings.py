"""What this machine could do at best, measured in the same session: what a technique's speed is held against."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

QUICK = ("memory_copy_gib_per_s", "matrix_product_fp32_gflop_per_s")
"""Measured by every comparison that no batch has measured them for."""

FILE = "ceilings.json"
"""In a run's folder: what the batch that executes it has measured."""


def of_session(folder: Path | None, threads: int) -> dict[str, float | None]:
    """Return the ceilings that the batch measured for the run in `folder`; without them the quick ones, taken now."""
    try:
        return json.loads((folder / FILE).read_bytes()) if folder else measured(QUICK, threads)
    except (OSError, ValueError):
        return measured(QUICK, threads)


def measured(names: Iterable[str], threads: int) -> dict[str, float | None]:
    """Measure these ceilings with so many threads; null where this machine can't."""
    found = measure()
    return {name: found.get(name) for name in names}


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
