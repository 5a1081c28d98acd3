"""Fit this machine's network and computing speed to what was measured on it, and check on a point that was left out.

Of repeated measurements the best one counts: what disturbs a run only adds to its time. What is left is held to the
model in ratios, not in seconds, so that a small message weighs as much as a large one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kit.errors import UserError
from kit.techniques.training.beyond.catalogue import HERE, Device, Network

Points = Mapping[int, float | Sequence[float]]


@dataclass(frozen=True)
class Check:
    """A modelled time beside a measured one that no fit has seen."""

    what: str
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """How far the prediction is off, as 0.1 for 10 % too long."""
        return self.predicted_s / self.measured_s - 1

    def in_words(self) -> str:
        """Say what was predicted and what came."""
        return (
            f"{self.what}: modelled {_ms(self.predicted_s)}, measured {_ms(self.measured_s)}, "
            f"off by {self.error:+.0%}; no fit has seen this point"
        )


@dataclass(frozen=True)
class Fit:
    """What was fitted: a `Network` or a `Device`, the points it was fitted to, the check, and for drawing
    modelled seconds at all measured points. worst: the largest relative miss among the points of the fit."""

    found: Any
    x: list[int]
    measured_s: list[float]
    modelled_s: list[float]
    worst: float
    check: Check


def ring(operation: str, ranks: int, num_bytes: float, latency_s: float, bytes_per_s: float) -> float:
    """Return the seconds of one operation over `ranks` in a ring: `num_bytes` is the whole tensor's size.

    All-reduce 2(p−1)α + 2(p−1)/p·S/B, all-gather and reduce-scatter half of it, a message α + S/B (Thakur, Rabenseifner
    and Gropp 2005, https://doi.org/10.1177/1094342005051521). Receiving costs nothing: the sender counts it.
    """
    if ranks == 1 or operation == "receive":
        return 0.0
    turns = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1, "all-to-all": 1}.get(operation)
    if turns is None:  # a message, or a broadcast of one through a chain of pieces
        return latency_s + num_bytes / bytes_per_s
    return turns * ((ranks - 1) * latency_s + (ranks - 1) / ranks * num_bytes / bytes_per_s)


def tree(ranks: int, num_bytes: float, latency_s: float, bytes_per_s: float) -> float:
    """Return the seconds of an all-reduce over two trees at once, 2⌈log₂p⌉α + 2S/B: what NCCL prefers to a ring where
    many ranks make latency count (Sanders, Speck and Träff 2009, https://doi.org/10.1016/j.parco.2009.09.001)."""
    return 2 * math.ceil(math.log2(ranks)) * latency_s + 2 * num_bytes / bytes_per_s


def fit_network(points: Points, ranks: int, held_out: int | None = None) -> Fit:
    """Fit latency and bandwidth to all-reduces: {bytes: seconds, or several} among `ranks` of this machine.

    held_out: the size to check on, by default the largest but one. In gloo a reduce-scatter is an all-reduce, and the
    network found says so. Raise UserError for fewer than four sizes, or times that no network could have.
    """
    if ranks < 2:
        raise UserError(f"a network can't be fitted to all-reduces of {ranks} rank; measure with 2 or more")
    sizes, seconds = _best(points, "all-reduces", least=4)
    left_out = _position(sizes, held_out, len(sizes) - 2)

    def model(size: float, latency_s: float, s_per_byte: float) -> float:
        return ring("all-reduce", ranks, size, latency_s, 1 / s_per_byte)

    start = seconds[0] / (2 * (ranks - 1)), seconds[-1] / sizes[-1] * ranks / (2 * (ranks - 1))
    (latency_s, s_per_byte), modelled, worst = _fitted(model, sizes, seconds, left_out, start)
    if seconds[-1] < 1.2 * seconds[0]:
        raise UserError(
            f"an all-reduce of {sizes[-1]} bytes took hardly longer than one of {sizes[0]}, so that nothing is known "
            "of the bandwidth; measure larger ones"
        )
    network = Network(HERE, latency_s, 1 / s_per_byte, true_reduce_scatter=False, trees=False, fitted=True)
    check = Check(f"all-reduce of {sizes[left_out] / 2**10:,.4g} KiB", modelled[left_out], seconds[left_out])
    return Fit(network, sizes, seconds, modelled, worst, check)


def fit_compute(points: Points, flops: float, memory_gib: float, held_out: int | None = None) -> Fit:
    """Fit a fixed cost and a rate to steps of one process: {batch: seconds a step, or several}.

    flops: operations of one sample. memory_gib: what a rank has. held_out: the batch to check on, by default the
    largest but one. Raise UserError for fewer than four batches, or times that don't grow with the batch.
    """
    batches, seconds = _best(points, "steps", least=4)
    left_out = _position(batches, held_out, len(batches) - 2)
    if seconds[-1] < 1.2 * seconds[0]:
        raise UserError(
            f"a step with batch {batches[-1]} took hardly longer than with {batches[0]}, so that nothing is known of "
            "the cost of a sample; measure larger batches"
        )

    def model(batch: float, fixed_s: float, sample_s: float) -> float:
        return fixed_s + batch * sample_s

    start = seconds[0] / 2, seconds[-1] / batches[-1]
    (fixed_s, sample_s), modelled, worst = _fitted(model, batches, seconds, left_out, start)
    device = Device(HERE, flops / sample_s, memory_gib, utilisation=1.0, fixed_s=fixed_s, fitted=True)
    check = Check(f"one process, batch {batches[left_out]}", modelled[left_out], seconds[left_out])
    return Fit(device, batches, seconds, modelled, worst, check)


def _best(points: Points, what: str, least: int) -> tuple[list[int], list[float]]:
    """Return the sizes in order, and the shortest time of each."""
    if len(points) < least:
        raise UserError(f"{len(points)} sizes of {what} are too few to fit two numbers and check a third; take {least}")
    best = {size: min(times) if isinstance(times, Sequence) else times for size, times in points.items()}
    for size, seconds in best.items():
        if not (size > 0 and 0 < seconds < float("inf")):
            raise UserError(f"{what} of size {size} took {seconds} s; both must be numbers above 0")
    return sorted(best), [float(best[size]) for size in sorted(best)]


def _position(sizes: list[int], held_out: int | None, default: int) -> int:
    if held_out is None:
        return default
    if held_out not in sizes:
        raise UserError(f"held_out={held_out} was not measured; take one of {', '.join(map(str, sizes))}")
    return sizes.index(held_out)


def _fitted(
    model: Callable[..., float], x: list[int], seconds: list[float], left_out: int, start: tuple[float, float]
) -> tuple[tuple[float, float], list[float], float]:
    """Return the two numbers of `model` that fit all points but one, modelled seconds at all points, and the worst
    relative miss of a point in the fit. Ratios are fitted, with a loss that lets single points stand out (soft L1)."""
    import numpy as np
    from scipy.optimize import least_squares

    used = [i for i in range(len(x)) if i != left_out]

    def misses(logs: Any) -> list[float]:
        return [float(np.log(model(x[i], *np.exp(logs)) / seconds[i])) for i in used]

    low, high = np.log(1e-15), np.log(1e3)
    begin = np.clip(np.log(start), low + 1, high - 1)
    logs = least_squares(misses, begin, bounds=(low, high), loss="soft_l1", f_scale=0.1).x
    first, second = (float(value) for value in np.exp(logs))
    worst = max(abs(float(np.expm1(miss))) for miss in misses(logs))
    return (first, second), [model(size, first, second) for size in x], worst


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
