"""What a variant hands back: the work to time, and, where the work times itself, its readings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kit.record.document import Engagement

TIME = "time_s_per_s"
"""A ceiling that needs no measuring: a second holds one second of work. For work whose own seconds are known."""


@dataclass(frozen=True)
class Ceiling:
    """Which of the machine's ceilings bounds a call, and how much of it the call needs.

    name: as in `kit.machine.ceilings`, as "memory_copy_gib_per_s", or `TIME`. amount: the least work that a call must
    do, in that ceiling's unit without the "per second": GiB, GFLOP, round trips; where it differs from call to call,
    the name of the variant's metric that holds it. note: what was counted, as "columns read once".
    """

    name: str
    amount: float | str
    note: str = ""


@dataclass(frozen=True)
class Prepared:
    """Work that is ready to be timed. A variant with nothing to prove and nothing to close returns the bare call.

    call: the work itself, called once or more a round; what it returns is the answer.
    engagement: called once after the rounds, outside the timing, in the same process: did the technique really run?
    close: called at the end, whatever happened (stops a cluster, closes a connection).
    correctness_only: why no speed may be claimed of this variant here, as "oversubscribed: 4 ranks on 2 cores". It
        takes no part in the rounds; its answer, engagement and memory are still looked at.
    seeded: the work draws on chance (a search, a training), so its luck is part of what is measured. call(seed) then
        gets a whole number: another one in each round, the same for all variants of a round but A/A, which shows what
        luck alone does.
    ceiling: which ceiling of the machine bounds the call, or a function that says so after the rounds; the result then
        says what share of it was reached.
    """

    call: Callable[..., Any]
    engagement: Callable[[], Engagement] | None = None
    close: Callable[[], None] | None = None
    correctness_only: str = ""
    seeded: bool = False
    ceiling: Ceiling | Callable[[], Ceiling | None] | None = None


@dataclass(frozen=True)
class Reading:
    """What a call returns when the work times itself (a training step, a load test).

    seconds: what counts as the time of this call. metrics: the variant's own numbers, by name with their unit.
    answer: what the quality check reads, or a function that returns it: called apart from timing and weighing, and
        only when the answer is to be checked.
    """

    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)
    answer: Any = None


def engaged(
    note: str = "", *, costs: dict[str, float | None] | None = None, **facts: str | int | float | bool | None
) -> Engagement:
    """Return the proof that the technique ran: `engaged(device="NVIDIA H100", threads=2)`. costs: see `Engagement`."""
    return Engagement(state="engaged", facts=facts, costs=costs or {}, note=note)


def fell_back(to: str, **facts: str | int | float | bool | None) -> Engagement:
    """Return the finding that the technique did not run but something else did: `fell_back("pandas on the CPU")`."""
    return Engagement(state="fell back", facts=facts, note=to)
