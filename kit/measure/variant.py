"""One variant while it is measured: its process as long as it lives, and what is known of it so far."""

import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from kit.measure.process import Worker, WorkerFailed
from kit.measure.work import Peak
from kit.measure.worker import MOST_CALLS, SHORTEST_BLOCK_S
from kit.record.document import CheckResult, ExecutionProof, Measurements, Memory

LIKE_SPEED = 4.0
"""Variants whose calls differ by less than this factor take the same number of calls in a measurement."""
MOST_BLOCKS, LONGEST_BLOCKS_S = 8, 8e-3
"""A measurement is the median of so many blocks of calls, as long as they stay within these seconds."""
UNTIMED_BELOW_S = 0.02
"""Calls shorter than this follow on an untimed one: what it costs to find one's caches emptied by the other variants is
a part of a shorter call that counts, and of a longer one that does not."""


@dataclass(eq=False)
class VariantProcess:
    """One variant of a session: its worker while it lives, and what it has found."""

    name: str
    packed: bytes
    python: str = ""
    """Another interpreter, in which it runs; empty: this one."""
    versions: dict[str, str] = field(default_factory=dict)
    worker: Worker | None = None
    failed: str = ""
    not_timed: str = ""
    """Why it takes no part in the rounds."""
    seeded: bool = False
    """Whether it draws on chance."""
    made_s: float = 0.0
    """Seconds spent once, before this comparison: conversion, calibration."""
    setup_s: float | None = None
    first_call_s: float | None = None
    resident_mib: float = 0.0
    call_s: float = 0.0
    """Seconds of one warm call, before the rounds."""
    times_itself: bool = False
    calls: list[int] = field(default_factory=list)
    """Calls that are timed together as one block, one entry for each set of processes."""
    blocks: int = 1
    """Blocks in one measurement."""
    untimed_call: bool = False
    """Whether each measurement begins with a call that is not timed."""
    start_s: float = 0.0
    """Seconds to have a fresh process set up and warm."""
    memory: Memory | None = None
    check: CheckResult | None = None
    execution_proof: ExecutionProof | None = None
    peak: Peak | None = None
    measurements: list[dict] = field(default_factory=list)
    """As the worker gives them: wall_s and metrics; one for each round."""

    def order(self, name: str, *arguments):
        """Give the worker an order; if it cannot go on, note why, end it, and return None."""
        if self.failed or self.worker is None:
            return None
        try:
            return self.worker.order(name, *arguments)
        except WorkerFailed as failure:
            self.fail(failure)
            return None

    def measure(self, seed: int) -> None:
        """Take one measurement."""
        measured = self.order("measure", seed, self.calls[-1], self.blocks, self.untimed_call)
        if measured is not None:
            self.measurements.append(measured)

    def fail(self, failure: WorkerFailed) -> None:
        """Note the reason and end what is left of the worker. The others go on."""
        self.failed = failure.reason
        if failure.output.strip():  # into the notebook and the run's log: the row has room for one line only
            print(f"{self.name} failed: {failure.reason}\n{failure.output.rstrip()}", file=sys.stderr)
        if self.worker is not None:
            self.worker.kill()
            self.worker = None

    def leave(self) -> None:
        """End the worker; what is known stays."""
        if self.worker is not None:
            self.worker.end()
            self.worker = None

    @property
    def measurement_s(self) -> float:
        """Seconds that one measurement takes, about."""
        return self.call_s * (self.calls[-1] * self.blocks + self.untimed_call)

    def wall_s(self) -> list[float]:
        """Return the seconds of each round so far."""
        return [measured["wall_s"] for measured in self.measurements]

    def columns(self) -> Measurements:
        """Return all measurements as the record holds them."""
        taken = self.measurements
        names = dict.fromkeys(name for measured in taken for name in measured["metrics"])
        return Measurements(
            wall_s=self.wall_s(),
            cpu_s=[measured.get("cpu_s") for measured in taken],
            switches=[measured.get("switches") for measured in taken],
            metrics={name: [measured["metrics"].get(name) for measured in taken] for name in names},
        )


def leave_together(variants: Sequence[VariantProcess]) -> None:
    """End the workers of all variants at once: one that has much to close must not hold up the others."""
    with ThreadPoolExecutor(max(1, len(variants))) as pool:
        list(pool.map(VariantProcess.leave, variants))


def choose_calls(variants: Sequence[VariantProcess], random: np.random.Generator) -> None:
    """Choose, for the next set of processes, how many calls and blocks each variant's measurement times, and whether an
    untimed call precedes them: the same for all variants of like speed, always so for the baseline and A/A.

    variants: the baseline first, A/A second. Where a number must differ from the baseline's, it is drawn anew for each
    set of processes, so that what the number itself adds is not the same in all of them.
    """
    groups: list[list[VariantProcess]] = [list(variants[:2])]
    for variant in sorted(variants[2:], key=lambda v: v.call_s):
        alike = [group for group in groups if _alike(group[0], variant)]
        if alike:
            alike[0].append(variant)
        else:
            groups.append([variant])
    for position, group in enumerate(groups):
        calls, blocks = _calls_and_blocks(group, random if position else None)
        untimed_call = not group[0].times_itself and min(v.call_s for v in group) < UNTIMED_BELOW_S
        for variant in group:
            variant.calls.append(calls)
            variant.blocks, variant.untimed_call = blocks, untimed_call


def _alike(one: VariantProcess, other: VariantProcess) -> bool:
    low, high = sorted((one.call_s, other.call_s))
    return one.times_itself == other.times_itself and high <= LIKE_SPEED * low


def _calls_and_blocks(group: Sequence[VariantProcess], random: np.random.Generator | None) -> tuple[int, int]:
    """Return calls that fill a block, drawn up to twice that where `random` is given, and how many blocks to take."""
    if group[0].times_itself:
        return 1, 1
    call_s = max(float(np.mean([variant.call_s for variant in group])), 1e-9)
    least = math.ceil(SHORTEST_BLOCK_S / call_s)
    calls = min(MOST_CALLS, least if random is None or least == 1 else int(random.integers(least, 2 * least)))
    return calls, int(np.clip(LONGEST_BLOCKS_S / (calls * call_s), 1, MOST_BLOCKS))
