"""What a variant hands back: the work to time, and, where the work times itself, its measurements."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kit.record.document import ExecutionProof, PeakShare

TIME = "time_s_per_s"
"""A peak that needs no measuring: a second holds one second of work. For work whose own seconds are known."""


@dataclass(frozen=True)
class Peak:
    """Which of the machine's peaks bounds a call, and how much of it the call needs.

    name: as in `kit.machine.peaks`, as "memory_copy_gib_per_s", or `TIME`. amount: the least work that a call must
    do, in that peak's unit without the "per second": GiB, GFLOP, round trips; where it differs from call to call,
    the name of the variant's metric that holds it. note: what was counted, as "columns read once".
    """

    name: str
    amount: float | str
    note: str = ""

    def share(
        self, metrics: Mapping[str, float | None], median_s: float, peaks: Mapping[str, float | None]
    ) -> PeakShare | None:
        """Return the share that was reached, work of a call ÷ its time ÷ peak: None without any work, and no number
        where the machine has no such peak. metrics: of the variant, medians; peaks: by name, work per second."""
        amount = metrics.get(self.amount) if isinstance(self.amount, str) else float(self.amount)
        if not amount or not 0 < amount < math.inf:
            return None
        best = 1.0 if self.name == TIME else peaks.get(self.name)
        share = amount / median_s / best if best and median_s else None
        return PeakShare(peak=self.name, amount=amount, share=share, note=self.note)


@dataclass(frozen=True)
class Setup:
    """Work that is ready to be timed. A variant with nothing to prove and nothing to close returns the bare call.

    call: the work itself, called once or more a round; what it returns is the answer.
    execution_proof: called once after the rounds, outside the timing, in the same process: did it really run?
    close: called at the end, whatever happened (stops a cluster, closes a connection).
    not_timed: why no speed may be claimed of this variant here, as "oversubscribed: 4 ranks on 2 cores". It
        takes no part in the rounds; its answer, execution proof and memory are still looked at.
    seeded: the work is random (a search, a training), so the variance between seeds is measured too. call(seed) then
        gets a whole number: another one in each round, the same for all variants of a round but A/A, which shows the
        seed variance alone.
    made_s: seconds spent once, before: conversion, calibration, a build. The break-even counts them with the setup.
    peak: which peak of the machine bounds the call, or a function that returns it after the rounds; the result then
        shows the share of it that was reached.
    """

    call: Callable[..., Any]
    execution_proof: Callable[[], ExecutionProof] | None = None
    close: Callable[[], None] | None = None
    not_timed: str = ""
    seeded: bool = False
    made_s: float = 0.0
    peak: Peak | Callable[[], Peak | None] | None = None


@dataclass(frozen=True)
class Measurement:
    """What a call returns when the work times itself (a training step, a load test).

    seconds: what counts as the time of this call. metrics: the variant's own numbers, by name with their unit.
    answer: what the quality check reads, or a function that returns it: called outside of the timing and the memory
        pass, and only when the answer is to be checked.
    """

    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)
    answer: Any = None


def verified(
    note: str = "", *, costs: dict[str, float | None] | None = None, **facts: str | int | float | bool | None
) -> ExecutionProof:
    """Return the proof that the technique ran: `verified(device="NVIDIA H100", threads=2)`. costs: see there."""
    return ExecutionProof(state="verified", facts=facts, costs=costs or {}, note=note)


def fell_back(to: str, **facts: str | int | float | bool | None) -> ExecutionProof:
    """Return the finding that the technique did not run but something else did: `fell_back("pandas on the CPU")`."""
    return ExecutionProof(state="fell back", facts=facts, note=to)
