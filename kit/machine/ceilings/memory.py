"""Memory copy: blocks that no cache holds, a part a thread."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kit.machine.ceilings.probe import Conditions, best_s

BLOCK_MIB = 256


def copy_gib_per_s(conditions: Conditions) -> float:
    """Return GiB/s of bytes read (as many are written), all threads together."""
    source = np.ones(BLOCK_MIB * 2**20 // 8)
    target = np.empty_like(source)
    parts = list(
        zip(np.array_split(target, conditions.threads), np.array_split(source, conditions.threads), strict=True)
    )
    with ThreadPoolExecutor(conditions.threads) as pool:
        seconds = best_s(lambda: list(pool.map(lambda part: np.copyto(*part), parts)), conditions.budget_s)
    return BLOCK_MIB / 1024 / seconds


PROBES = {"memory_copy_gib_per_s": copy_gib_per_s}
