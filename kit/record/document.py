"""What a record holds: the typed result of one comparison, as `kit.record/1`.

The classes below are the one place where the format is documented; `record.schema.json` beside this file is
generated from them (`python -m kit.record.schema`). A number that could not be measured is null, never NaN.
All times are seconds, all memory is MiB, ratios are baseline ÷ variant (above 1 = the variant is faster).
"""

import math
from typing import Any, Literal

from msgspec import Struct, field
from msgspec.structs import force_setattr

from kit.errors import UserError

VERSION = "kit.record/1"

CONTROL = "A/A"
"""Name of the baseline's second process."""

State = Literal["measured", "skipped", "failed"]
Verdict = Literal[
    "baseline", "faster", "slower", "same", "unresolved", "correctness only", "invalid", "skipped", "failed"
]


class Readings(Struct, frozen=True, kw_only=True):
    """Every reading of one variant in one session, in round order: parallel lists, one entry a round."""

    wall_s: list[float]
    """Wall-clock seconds of one call (a reading of several repeats is divided by their number)."""
    cpu_s: list[float | None]
    """CPU seconds of one call, of the worker and its children."""
    switches: list[int | None]
    """Involuntary context switches of the worker during the reading."""
    metrics: dict[str, list[float | None]] = {}
    """The variant's own metrics, by name."""


class Effect(Struct, frozen=True, kw_only=True):
    """A paired ratio to the baseline: median over rounds with its interval.

    The interval is the exact sign-test one over rounds, widened from four sets of processes on to hold Student's 90 %
    interval over the medians of the sets."""

    speedup: float
    """exp(median of log(baseline seconds / variant seconds)), paired within rounds."""
    low: float | None
    """Lower end of the interval; null when there were too few rounds for one."""
    high: float | None
    rounds: int
    confidence: float
    """Coverage of the sign-test interval at this look (1 − alpha / looks)."""
    drift: float | None = None
    """Spearman correlation of the log-ratio with the round number; null under 10 rounds."""
    drift_p: float | None = None


class Session(Struct, frozen=True, kw_only=True):
    """Rounds in which the same workers lived together. One a point, unless memory allowed only pairs."""

    variants: list[str]
    """Who took part; the baseline's second process is called `A/A`."""
    order: list[list[int]]
    """For each round, the order of visits, as positions in `variants`."""
    looks: list[int]
    """Numbers of rounds at which the data was looked at (at most six)."""
    starts: list[int] = []
    """Numbers of rounds after which all processes were started afresh; the first entry is 0."""
    readings: dict[str, Readings]
    noise: Effect | None
    """The baseline against itself (A/A)."""
    noise_floor: float | None
    """Smallest relative difference that can count here, as 0.02 for 2 %: what the baseline shows against itself, and at
    least what the luck of so many starts leaves."""
    stopped: Literal["settled", "budget", "rounds", "interrupted", "baseline failed"]
    load: list[float | None]
    """One-minute load average of the machine at each round (null where there is none)."""
    steal: list[float | None]
    """Share of CPU time taken by the hypervisor during each round, 0 to 1 (null where it is not known)."""


class Memory(Struct, frozen=True, kw_only=True):
    """Peak memory of one call, from a pass of its own."""

    peak_mib: float
    """Highest resident memory during the call, above what stood after preparation."""
    standing_mib: float
    """Resident memory after preparation."""
    method: str
    """How it was read, as `VmHWM` or `VmHWM summed over 3 processes`."""
    device_peak_mib: float | None = None
    """Device memory of the process and its children after the call, by the driver: a peak only where the allocator
    keeps what it took; null where the driver does not tell."""


class Quality(Struct, frozen=True, kw_only=True):
    """Whether the answer is good enough."""

    state: Literal["held", "broken", "unchecked", "reference"]
    """`reference` is the baseline's own answer; `unchecked` is never a pass unless `asked` is false."""
    measure: str
    """What was compared, as `equal tables` or `accuracy`."""
    value: float | None = None
    bound: float | None = None
    note: str = ""
    """What differed, or why the check did not run."""
    asked: bool = True


class Engagement(Struct, frozen=True, kw_only=True):
    """Proof that the technique really ran."""

    state: Literal["engaged", "fell back", "not stated"]
    facts: dict[str, str | int | float | bool | None] = {}
    """As {"device": "NVIDIA H100", "threads": 2, "fallbacks": 0}: what a table prints."""
    costs: dict[str, float | None] = {}
    """What it cost beside time, by name with its unit, as {"sent_mib": 1.5}: numbers for a technique's exhibits."""
    note: str = ""
    """On a fallback: to what."""


class Reach(Struct, frozen=True, kw_only=True):
    """What share of what this machine could do at best a variant reached."""

    ceiling: str
    """Its name in `Machine.ceilings`, as `memory_copy_gib_per_s`."""
    amount: float
    """Work of one call, in the ceiling's unit without the "per second"."""
    share: float | None = None
    """amount ÷ median seconds ÷ ceiling, as 0.4 for 40 %; null where the ceiling or the time is not known."""
    note: str = ""
    """What was counted as work, as `columns read once`."""


class Variant(Struct, frozen=True, kw_only=True):
    """What is known of one variant at one size."""

    name: str
    state: State
    verdict: Verdict
    reason: str = ""
    """Why it was skipped, failed, invalid or unresolved, or why no speed is claimed of it, in one sentence."""
    remedy: str = ""
    """What to do to have it run."""
    session: int | None = None
    """Position in the point's sessions; null if it took no part in any, as one checked for correctness only."""
    prepare_s: float | None = None
    cold_s: float | None = None
    """The first call, kept apart."""
    warm_s: float | None = None
    """Median wall-clock seconds of one call over the rounds."""
    repeats: int = 1
    """Calls in one reading."""
    effect: Effect | None = None
    """Null for the baseline, and where nothing was measured."""
    breakeven_calls: float | None = None
    """Calls after which the extra preparation has paid for itself; null if it never does, 0 if there is no extra."""
    metrics: dict[str, float | None] = {}
    """Medians of the variant's own metrics."""
    memory: Memory | None = None
    quality: Quality | None = None
    engagement: Engagement | None = None
    reach: Reach | None = None
    """Null where the variant did not say what work it does."""


class Point(Struct, frozen=True, kw_only=True):
    """The comparison at one size."""

    size: int | float | None
    seed: int
    """Seed of the order of visits."""
    together: bool
    """False when memory allowed only one variant beside the baseline at a time."""
    seconds: float
    """Wall-clock time that this point took, all in all."""
    sessions: list[Session]
    variants: list[Variant]
    """In the order in which they were declared."""


class Scaling(Struct, frozen=True, kw_only=True):
    """How one variant behaves over the sizes measured."""

    exponent: float | None
    """Slope of log(seconds) over log(size), least squares over the sizes measured; null under 2 sizes."""
    exponent_low: float | None
    exponent_high: float | None
    """95 % bootstrap interval over the readings."""
    overtakes: Literal["baseline", "always", "never", "between", "unresolved"]
    """From which size on it beats the baseline: at every size, at none, from `from_size` on, or it can't be told."""
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
    style: Literal["measured", "modelled", "ideal"] = "measured"
    """Measured is drawn full, modelled dashed and hollow and named so, ideal as a thin grey line."""

    def __post_init__(self) -> None:
        """Make plain lists of arrays and null of NaN. Raise UserError where the lists don't fit together."""
        what = f"series {self.name!r}"
        _among(what, style=(self.style, ("measured", "modelled", "ideal")))
        force_setattr(self, "x", [_plain(value) for value in self.x])
        for name in ("y", "low", "high"):
            values = getattr(self, name)
            if values is None:
                continue
            force_setattr(self, name, values := [_real(what, name, value) for value in values])
            if len(values) != len(self.x):
                raise UserError(f"{what} has {len(values)} {name} for {len(self.x)} x; give one for each")
        if (self.low is None) != (self.high is None):
            raise UserError(f"{what} has just one of low= and high=; give both ends of the intervals, or none")
        if any(value is None for value in self.x):
            raise UserError(f"{what} has an x that is no number; leave out that point")


class Chart(Struct, frozen=True, tag="chart"):
    """A figure of a technique: what a speed-up alone does not show."""

    title: str
    """With its direction, where there is one: `Step time, lower is better`."""
    x: str
    """Label of the axis, with its unit."""
    y: str
    series: list[Series]
    shape: Literal["lines", "points", "bars", "stacked"] = "lines"
    """Points: nothing between them; bars: a group a category; stacked: each series is one part of the bars."""
    log_x: bool = False
    log_y: bool = False
    note: str = ""
    """What a reader must know, in a sentence or two."""

    def __post_init__(self) -> None:
        """Raise UserError where the series can't be drawn in this shape."""
        what = f"chart {self.title!r}"
        _among(what, shape=(self.shape, ("lines", "points", "bars", "stacked")))
        if not self.series:
            raise UserError(f"{what} has no series; give at least one")
        if len({(series.name, series.style) for series in self.series}) < len(self.series):
            raise UserError(f"{what} has two series of one name; give each its own")
        numbers = all(isinstance(value, int | float) for series in self.series for value in series.x)
        along = self.shape in ("lines", "points")
        if along and not numbers:
            raise UserError(f'{what} has names as x, and {self.shape} need numbers; use shape="bars"')
        if self.shape == "stacked" and any((value or 0) < 0 for series in self.series for value in series.y):
            raise UserError(f'{what} has a part below 0, which can\'t be stacked; use shape="bars"')
        if self.log_x and along and any(value <= 0 for series in self.series for value in series.x):
            raise UserError(f"{what} has an x that is not above 0, which log_x=True can't show")


class Table(Struct, frozen=True, tag="table"):
    """A table of a technique."""

    title: str
    columns: list[str]
    rows: list[list[str | int | float | bool | None]]
    """A cell a column; null is printed as —, NaN becomes null."""
    note: str = ""

    def __post_init__(self) -> None:
        """Make plain cells of NumPy's. Raise UserError where a row does not fit the columns."""
        if not self.columns:
            raise UserError(f"table {self.title!r} has no columns; name at least one")
        force_setattr(self, "rows", [[_plain(cell) for cell in row] for row in self.rows])
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise UserError(
                    f"table {self.title!r} has {len(row)} cells in row {number} for {len(self.columns)} columns"
                )
            if odd := [cell for cell in row if not isinstance(cell, str | int | float | None)]:
                raise UserError(
                    f"table {self.title!r} has {odd[0]!r:.60} in row {number}; a cell is a text or a number"
                )


def _plain(value: Any) -> Any:
    """Return a scalar of NumPy or a tensor as Python's own, and None for a number that is not finite."""
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _real(what: str, name: str, value: Any) -> float | None:
    value = _plain(value)
    if value is not None and not isinstance(value, int | float):
        raise UserError(f"{what} has {value!r:.60} in {name}; it takes numbers, and None for a gap")
    return value


def _among(what: str, **options: tuple[str, tuple[str, ...]]) -> None:
    for name, (given, allowed) in options.items():
        if given not in allowed:
            raise UserError(f"{what} has {name}={given!r}; it is one of {', '.join(allowed)}")


class Gpu(Struct, frozen=True, kw_only=True):
    name: str
    memory_mib: float
    driver: str


class Machine(Struct, frozen=True, kw_only=True):
    """On what it was measured. Holds no host or user name."""

    key: str
    """Short hash of processor, cores, memory and GPUs: equal on equal machines."""
    cpu: str
    cores: int
    """Cores that this process may use (affinity and cgroup quota)."""
    cores_total: int
    memory_mib: float
    """Physical memory."""
    memory_limit_mib: float | None
    """The cgroup's limit, where there is one below the physical memory."""
    system: str
    arch: str
    python: str
    gpus: list[Gpu] = []
    cuda: str | None = None
    instructions: list[str] = []
    """The processor's vector instructions that engines make use of, as `AVX-512 VNNI`; empty where it does not tell."""
    ceilings: dict[str, float | None] = {}
    """What this machine could do in this session, by name with its unit: `memory_copy_gib_per_s`, …"""


class Git(Struct, frozen=True, kw_only=True):
    commit: str
    dirty: bool


class Asked(Struct, frozen=True, kw_only=True):
    """What was asked."""

    comparison: str
    notebook: str = ""
    """Name of the notebook, or empty if the comparison ran outside one."""
    title: str = ""
    """One line for people: what is compared."""
    baseline: str
    unit: str = ""
    """What a size counts, as `rows`."""
    sizes: list[int | float | None]
    parameters: dict[str, Any] = {}
    sources: dict[str, str] = {}
    """Source code of each variant, by name."""


class How(Struct, frozen=True, kw_only=True):
    """How it was measured."""

    kit: str
    """Version of the kit."""
    seed: int
    seconds: float
    """Time budget of the rounds at one size."""
    target: float
    """Largest difference that may be called "same", as 0.03 for 3 %."""
    alpha: float
    """Chance of a false call of one variant at one size allowed over all looks together."""
    max_looks: int
    max_rounds: int
    threads: int
    """Threads allowed to each variant, set before its imports."""
    limit_s: float
    """Longest time allowed to one call."""
    isolated: bool
    """False: all in one process, for debugging; memory and thread counts are then not the variant's own."""


class Record(Struct, frozen=True, kw_only=True):
    """One comparison: what was asked, on what, how, every reading, and what follows from them."""

    schema: Literal["kit.record/1"] = VERSION
    id: str
    """Unique: two writers at once lose nothing."""
    written: str
    """UTC, as 2026-11-23T10:20:30Z."""
    complete: bool
    """False if it was interrupted: what was measured until then is here."""
    asked: Asked
    machine: Machine
    versions: dict[str, str]
    """Versions of the packages in use."""
    git: Git | None
    how: How
    points: list[Point]
    scaling: dict[str, Scaling] = {}
    """By variant; empty with fewer than two sizes."""
    exhibits: list[Chart | Table] = []
    """The technique's own charts and tables."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Free for a technique: what does not fit above."""
