"""What must be true of a server before its speed counts: its own answer to each request, computed and not cached."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

from kit.record.document import CheckResult

TOLERANCE = 1e-3
"""Relative difference of outputs that count as equal: batches and threads change the order of additions."""
CACHED = 1.2
"""A repeated request that is answered so many times as fast, significantly, comes from a cache."""


def same_answers(answer: Mapping[str, Any], _: Mapping[str, Any]) -> CheckResult:
    """Return whether a server gave each request its own answer, the one that the model gives offline, and computed it:
    a request that is repeated must take as long as those that differ (as in MLPerf's TEST04)."""
    pairs = list(zip(answer["served"], answer["offline"], strict=True))
    equal = sum(
        served is not None and tuple(served[:2]) == tuple(offline[:2])
        and math.isclose(served[2], offline[2], rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        for served, offline in pairs
    )  # fmt: skip
    wrong = len(pairs) - equal + answer["mixed up"]
    note = f"{len(pairs) - equal} of {len(pairs)} differ, {answer['mixed up']} were another request's" if wrong else ""
    different, repeated = np.array(answer["different_s"]), np.array(answer["repeated_s"])
    ratio = float(np.median(different) / np.median(repeated))
    if not wrong and ratio > CACHED and mannwhitneyu(different, repeated, alternative="greater").pvalue < 1e-4:
        wrong, note = len(repeated), f"a repeated request is answered {ratio:.1f}× as fast: it comes from a cache"
    state = "failed" if wrong else "passed"
    return CheckResult(state=state, metric="answers unlike the offline ones", value=wrong, threshold=0.0, note=note)
