"""Peak throughput of this machine, measured in the same session: the rates that a technique's speed is compared with.

The probes run in a process of their own (`probes.py`), its thread counts set before its imports: the caller imports no
library for them, and a probe that crashes or hangs costs only itself.
"""

import json
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from kit.machine import capabilities, isolated

PRODUCTS = ("matrix_product_fp32_gflop_per_s", "matrix_product_bf16_gflop_per_s", "matrix_product_int8_gop_per_s")
ON_CPU = ("memory_copy_gib_per_s", *PRODUCTS)
ON_GPU = ("device_copy_gib_per_s", *(f"device_{name}" for name in PRODUCTS))
"""Of the first GPU, measured where there is a driver."""
QUICK = ON_CPU[:2]
"""Measured by every comparison; the others where a variant names them."""

BUDGET = "KIT_PROBE_S"
"""Environment variable: seconds that each probe repeats its work for; 0: nothing is measured, all is null."""
BUDGET_S, LIMIT_S = 0.25, 120.0
"""Of each probe by default, and of their process in all: first imports from a slow disk may take most of it."""
REMEMBERED_S = 600.0
"""A notebook with many comparisons measures once; a kernel that lives for days measures again."""

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_remembered: dict[tuple[str, int], tuple[float, "Found"]] = {}


@dataclass(frozen=True)
class Found:
    """One peak: its rate, or None and the reason."""

    rate: float | None
    reason: str = ""


def every() -> list[str]:
    """Return the names of all peaks that this machine may have: those of a GPU where there is a driver."""
    return [*ON_CPU, *(ON_GPU if capabilities.has_driver() else ())]


def measured(names: Iterable[str], threads: int) -> dict[str, float | None]:
    """Measure these peaks with so many threads; null where this machine can't, and for an unknown name.

    What this process has measured within ten minutes is not measured again.
    """
    asked, now = list(dict.fromkeys(names)), time.monotonic()
    old = [name for name in asked if now - _remembered.get((name, threads), (-math.inf,))[0] > REMEMBERED_S]
    for name, found in examined(old, threads).items():
        _remembered[name, threads] = time.monotonic(), found
    return {name: _remembered[name, threads][1].rate for name in asked}


def examined(names: Iterable[str], threads: int) -> dict[str, Found]:
    """Measure these peaks now, each with the reason where it is null."""
    asked, budget_s, found = list(dict.fromkeys(names)), float(os.environ.get(BUDGET) or BUDGET_S), {}
    for name in asked:
        if name not in ON_CPU + ON_GPU:
            found[name] = Found(None, "no such peak is known")
        elif name in ON_GPU and not capabilities.has_driver():
            found[name] = Found(None, "no NVIDIA driver")
        elif budget_s == 0:
            found[name] = Found(None, f"{BUDGET}=0")
    while left := [name for name in asked if name not in found]:
        found |= _probed(left, threads, budget_s)
    return {name: found[name] for name in asked}


def _probed(names: list[str], threads: int, budget_s: float) -> dict[str, Found]:
    """Probe in one process, in this order, until it is through or ended; the probe at which it ended is reported as
    broken, so that at least one name is known after each call."""
    arguments = ["-m", "kit.machine.probes", str(threads), str(budget_s), *names]
    status, printed, errors = isolated.python(arguments, LIMIT_S, **dict.fromkeys(_THREADS, str(threads)))
    found = {}
    for name, rate, reason in map(json.loads, printed.split("\n")[:-1]):
        found[name] = Found(rate if rate and 0 < rate < math.inf else None, reason)
    if broken := [name for name in names if name not in found]:
        found[broken[0]] = Found(None, isolated.why_ended(status, errors, LIMIT_S))
    return found
