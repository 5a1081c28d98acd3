"""The typed result of one comparison, `kit.record/2`; `msgspec.json.schema(kit.Record)` is its JSON Schema.

A number that could not be measured is null, never NaN. All times are seconds, all memory is MiB, ratios are baseline ÷
variant (above 1 = the variant is faster).
"""

import math
from typing import Any, Literal, get_args

from msgspec import Struct, field
from msgspec.structs import force_setattr

from kit.errors import UserError

VERSION = "kit.record/2"

CONTROL = "A/A"
"""Name of the baseline's second process."""

State = Literal["measured", "skipped", "failed"]
Verdict = Literal[
    "baseline", "faster", "slower", "equivalent", "inconclusive", "checked, not timed", "rejected", "skipped", "failed"
]
Style = Literal["measured", "modelled", "ideal"]
Shape = Literal["lines", "points", "bars", "stacked", "timeline"]


class Measurements(Struct, frozen=True, kw_only=True):
    """Measurements of one variant in one session: parallel lists, one entry per round."""

    wall_s: list[float]
    """Wall-clock seconds of one call."""
    cpu_s: list[float | None] = []
    """CPU seconds of one call, of the worker and its children."""
    switches: list[int | None] = []
    """Involuntary context switches during the measurement."""
    metrics: dict[str, list[float | None]] = {}


class Effect(Struct, frozen=True, kw_only=True):
    """A paired ratio to the baseline: the median over rounds with its exact sign-test interval, widened with
    four process restarts or more to hold Student's 90 % interval over their medians."""

    speedup: float
    """exp(median of log(baseline seconds / variant seconds)), paired within rounds."""
    low: float | None
    """Lower end of the interval; null when there were too few rounds for one."""
    high: float | None
    rounds: int
    confidence: float
    """Coverage of the sign-test interval: 1 − alpha / interim analyses."""
    drift: float | None = None
    """Spearman correlation of the log-ratio with the round number; null under 10 rounds."""
    drift_p: float | None = None


class Session(Struct, frozen=True, kw_only=True):
    """Rounds in which the same workers took part. One per point, unless memory allowed only pairs."""

    variants: list[str]
    """The baseline's second process is called `A/A`."""
    order: list[list[int]]
    """For each round, the order of variants, as positions in `variants`."""
    interim_analyses: list[int]
    """Numbers of rounds (at most six)."""
    starts: list[int] = []
    """Numbers of rounds after which all processes were restarted; the first entry is 0."""
    calls: dict[str, list[int]] = {}
    """Calls timed as one block, by variant, per process restart: the same for variants of like speed."""
    blocks: dict[str, int] = {}
    """Blocks in one measurement, which is their median, by variant."""
    untimed_call: list[str] = []
    """Variants whose calls are short: each of their measurements begins with a call that is not timed."""
    measurements: dict[str, Measurements]
    noise: Effect | None
    """The baseline against itself (A/A)."""
    variance: Literal["machine", "seeds"] = "machine"
    """What varies between measurements of one program: the machine alone, or also the seeds of the work."""
    noise_floor: float | None
    """Smallest relative difference that counts, as 0.02 for 2 %: A/A's, and at least 10 % ÷ process restarts."""
    stopped: Literal["settled", "budget", "rounds", "interrupted", "baseline failed"]
    load: list[float | None]
    """One-minute load average of the machine at each round."""
    steal: list[float | None] = []
    """Share of all CPU time that the host gave to other machines, in each round."""
    round_s: float | None = None
    """Wall-clock seconds of a round, the mean, which is more than the measurements' where work times itself."""
    restart_s: float | None = None
    """Wall-clock seconds of restarting all processes and setting them up."""


class Memory(Struct, frozen=True, kw_only=True):
    """Peak memory of one call, from a pass of its own."""

    peak_mib: float
    """Highest resident memory during the call, above that after setup."""
    after_setup_mib: float
    method: str
    """How it was read, as `VmHWM` or `VmHWM of 3 processes, shared pages counted once`."""


class CheckResult(Struct, frozen=True, kw_only=True):
    """Whether the answer is good enough."""

    state: Literal["passed", "failed", "not checked", "reference"]
    """`reference` is the baseline's own answer; `not checked` is never a pass unless `asked` is false."""
    metric: str
    """What was compared, as `equal tables` or `accuracy`."""
    value: float | None = None
    threshold: float | None = None
    note: str = ""
    """What differed, or why the check did not run."""
    asked: bool = True


class ExecutionProof(Struct, frozen=True, kw_only=True):
    """Proof that the technique ran."""

    state: Literal["verified", "fell back", "unverified"]
    facts: dict[str, str | int | float | bool | None] = {}
    """As {"device": "NVIDIA H100", "threads": 2, "fallbacks": 0}: what a table prints."""
    costs: dict[str, float | None] = {}
    """Costs other than time, by name with its unit, as {"sent_mib": 1.5}: numbers for a technique's artifacts."""
    note: str = ""
    """On a fallback: to what."""


class PeakShare(Struct, frozen=True, kw_only=True):
    """Share of this machine's peak that a variant reached."""

    peak: str
    """Its name in `Machine.peaks`, as `memory_copy_gib_per_s`."""
    amount: float
    """Work of one call, in the peak's unit without the "per second"."""
    share: float | None = None
    """amount ÷ median seconds ÷ peak, as 0.4 for 40 %."""
    note: str = ""
    """How work was counted, as `columns read once`."""


class Variant(Struct, frozen=True, kw_only=True):
    """One variant at one size."""

    name: str
    label: str = ""
    """Noun phrase for it in a recommendation, e.g. `DuckDB`; empty: its name."""
    not_recommended: str = ""
    """Why it is timed and never recommended, e.g. `weak scaling: a batch of 64 on each rank`; empty: it may be."""
    state: State
    verdict: Verdict
    versions: dict[str, str] = {}
    """Versions of packages, where it ran in an interpreter of its own."""
    reason: str = ""
    """Why it was skipped, failed, rejected or inconclusive, or why no speed is claimed of it, in one sentence."""
    remedy: str = ""
    session: int | None = None
    """Position in the point's sessions; null if it took no part in any, as one that is checked, not timed."""
    made_s: float = 0.0
    """Seconds spent once, before the comparison: conversion, calibration, a build."""
    setup_s: float | None = None
    first_call_s: float | None = None
    median_s: float | None = None
    """Median wall-clock seconds of one call over the rounds."""
    repeats: int = 1
    """Calls timed together as one block."""
    effect: Effect | None = None
    """Null for the baseline, and where nothing was measured."""
    breakeven_calls: float | None = None
    """Calls after which the extra time spent once (made_s, setup, first call) is saved; null: never; 0: none extra."""
    metrics: dict[str, float | None] = {}
    memory: Memory | None = None
    check: CheckResult | None = None
    execution_proof: ExecutionProof | None = None
    peak_share: PeakShare | None = None


class Point(Struct, frozen=True, kw_only=True):
    """The comparison at one size."""

    size: int | float | None
    seed: int
    """Of the order of variants."""
    together: bool = True
    """False where variants did not share their rounds, as those that pytest-benchmark timed."""
    seconds: float
    """Wall-clock time of this point, all in all."""
    sessions: list[Session]
    variants: list[Variant]
    """In order of declaration."""


class Scaling(Struct, frozen=True, kw_only=True):
    """How one variant behaves over the sizes measured."""

    overtakes: Literal["baseline", "always", "never", "between", "inconclusive"]
    """Where it is faster than the baseline: at every size, at none, above `from_size`, or it is inconclusive."""
    from_size: float | None = None
    from_low: float | None = None
    from_high: float | None = None


class Series(Struct, frozen=True):
    """One line of a chart, its points, or one bar in each of its groups: parallel lists."""

    name: str
    """A variant's name gives it the variant's colour."""
    x: list[int | float | str]
    """Numbers for lines and points, names of categories for bars."""
    y: list[float | None]
    """Null is a gap; NaN becomes null."""
    low: list[float | None] | None = None
    """Lower ends of the intervals, which are drawn."""
    high: list[float | None] | None = None
    style: Style = "measured"

    def __post_init__(self) -> None:
        """Make plain lists of arrays and null of NaN. Raise UserError where the lists don't fit together."""
        force_setattr(self, "x", [_plain(value) for value in self.x])
        known = [name for name in ("y", "low", "high") if getattr(self, name) is not None]
        faults = {f"style={self.style!r}; it is one of {', '.join(get_args(Style))}": self.style not in get_args(Style)}
        for name in known:
            values = [_plain(value) for value in getattr(self, name)]
            force_setattr(self, name, values)
            odd = [value for value in values if not isinstance(value, int | float | None)]
            faults[f"{next(iter(odd), None)!r:.60} in {name}; it takes numbers, and None for a gap"] = bool(odd)
            faults[f"{len(values)} {name} for {len(self.x)} x; give one for each"] = len(values) != len(self.x)
        faults["just one of low= and high=; give both ends of the intervals, or none"] = len(known) == 2
        faults["an x that is no number; leave out that point"] = any(value is None for value in self.x)
        _refuse(f"series {self.name!r}", faults)


class Chart(Struct, frozen=True, tag="chart"):
    """A figure of a technique."""

    title: str
    """With its direction, where there is one: `Step time, lower is better`."""
    x: str
    """Label of the axis, with its unit."""
    y: str
    series: list[Series]
    shape: Shape = "lines"
    """Bars: a group per category; stacked: a series per part of the bars; timeline: blocks, x the row, y the start."""
    log_x: bool = False
    log_y: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        """Raise UserError where the series can't be drawn in this shape."""
        names = {(series.name, series.style) for series in self.series}
        numbers = all(isinstance(value, int | float) for series in self.series for value in series.x)
        along = self.shape in ("lines", "points")
        faults = {
            f"shape={self.shape!r}; it is one of {', '.join(get_args(Shape))}": self.shape not in get_args(Shape),
            "no series; give at least one": not self.series,
            "two series of one name; give each its own": len(names) < len(self.series),
            f'names as x, and {self.shape} need numbers; use shape="bars"': along and not numbers,
            "a part below 0, which can't be stacked; use shape=\"bars\"":
                self.shape == "stacked" and any((value or 0) < 0 for series in self.series for value in series.y),
            "an x that is not above 0, which log_x=True can't show":
                self.log_x and along and numbers and any(x <= 0 for series in self.series for x in series.x),
        }  # fmt: skip
        _refuse(f"chart {self.title!r}", faults)


class Table(Struct, frozen=True, tag="table"):
    """A table of a technique."""

    title: str
    columns: list[str]
    rows: list[list[str | int | float | bool | None]]
    """A cell per column; NaN becomes null."""
    note: str = ""

    def __post_init__(self) -> None:
        """Make plain cells of NumPy's. Raise UserError where a row does not fit the columns."""
        force_setattr(self, "rows", [[_plain(cell) for cell in row] for row in self.rows])
        what = f"table {self.title!r}"
        _refuse(what, {"no columns; name at least one": not self.columns})
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise UserError(f"{what} has {len(row)} cells in row {number} for {len(self.columns)} columns")
            if odd := [cell for cell in row if not isinstance(cell, str | int | float | None)]:
                raise UserError(f"{what} has {odd[0]!r:.60} in row {number}; a cell is a text or a number")


def _plain(value: Any) -> Any:
    """Return a scalar of NumPy or a tensor as Python's own, and None for a number that is not finite."""
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _refuse(what: str, faults: dict[str, bool]) -> None:
    """Raise UserError with the first fault that there is."""
    for fault in (fault for fault, found in faults.items() if found):
        raise UserError(f"{what} has {fault}")


class Gpu(Struct, frozen=True, kw_only=True):
    name: str
    memory_mib: float
    driver: str


class Machine(Struct, frozen=True, kw_only=True):
    """Where it was measured. Holds no host or user name."""

    key: str
    """Short hash of processor, cores, memory and GPUs."""
    cpu: str
    cores: int | None
    """Cores that this process may use (affinity and cgroup quota); null, as the memory, in a JSON of other tools."""
    cores_total: int | None
    memory_mib: float | None
    memory_limit_mib: float | None
    """The cgroup's limit, where it is below the physical memory."""
    system: str
    arch: str
    python: str
    gpus: list[Gpu] = []
    cuda: str | None = None
    instructions: list[str] = []
    """The processor's vector instructions that engines use, as `AVX-512 VNNI`."""
    peaks: dict[str, float | None] = {}
    """Peak throughputs of this session, by name with its unit: `memory_copy_gib_per_s`, …"""


class Git(Struct, frozen=True, kw_only=True):
    commit: str
    dirty: bool


class Asked(Struct, frozen=True, kw_only=True):
    """The comparison that was asked for."""

    comparison: str
    notebook: str = ""
    """Empty outside a notebook."""
    title: str = ""
    action: str = ""
    """Verb template of the recommendation, e.g. `Query with {variant}`; empty: `Use {variant}`."""
    baseline: str
    baseline_reason: str = ""
    """Why the baseline is the best without the technique, e.g. `the faster of 1 and 2 threads`."""
    unit: str = ""
    """Of a size, as `rows`."""
    sizes: list[int | float | None]
    parameters: dict[str, Any] = {}
    sources: dict[str, str] = {}
    """Source code of each variant, by name."""


class How(Struct, frozen=True, kw_only=True):
    """How it was measured."""

    kit: str
    seed: int
    time_budget_s: float
    """Time budget of the rounds at one size."""
    equivalence_margin: float
    """Largest difference that is "equivalent", as 0.03 for 3 %."""
    alpha: float
    """False positive rate of one variant at one size over all interim analyses."""
    max_interim_analyses: int
    max_rounds: int
    threads: int
    """Threads per variant, set before its imports."""
    timeout_s: float
    """Of one call."""
    isolated: bool
    """False: all in one process, for debugging."""


class Record(Struct, frozen=True, kw_only=True):
    """One comparison: the question, the machine, the method, every measurement, and the results."""

    schema: Literal["kit.record/2"] = VERSION
    id: str
    """Unique: two writers at once lose nothing."""
    written: str
    """UTC, as 2026-11-23T10:20:30Z."""
    complete: bool
    """False if it was interrupted: it has what was measured until then."""
    asked: Asked
    machine: Machine
    versions: dict[str, str]
    """Of the packages in use."""
    git: Git | None
    how: How
    points: list[Point]
    scaling: dict[str, Scaling] = {}
    """By variant; empty with fewer than two sizes."""
    artifacts: list[Chart | Table] = []
    extra: dict[str, Any] = field(default_factory=dict)
    """Free for a technique."""
