"""What a comparison found, for a person: a table, a sentence, a plot, and each variant by name."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kit.errors import UserError
from kit.measure import statistics
from kit.measure.artifacts import Artifacts
from kit.record import formatting as fmt
from kit.record import recommendation, store
from kit.record.document import Chart, Effect, Point, Record, Table, Variant


@dataclass(frozen=True, repr=False)
class Outcome:
    """One variant at one size."""

    sentence: str
    verdict: str
    """One of baseline, faster, slower, equivalent, inconclusive, checked, not timed, rejected, skipped, failed."""
    reason: str
    """Why, where the verdict alone does not say it."""
    speedup: float | None
    """Median of baseline ÷ variant over the rounds; None where none is claimed: not timed, rejected, failed."""
    interval: tuple[float, float] | None
    """Interval of the speed-up; None where there were too few rounds for one."""
    seconds: float | None
    """Median wall-clock seconds of one warm call; None where no speed is claimed."""
    variant: Variant
    """All that the record holds of it."""

    def __repr__(self) -> str:
        return f"{self.sentence}."


@dataclass(frozen=True)
class Pair:
    """One variant against another: seconds of the other ÷ its own, above 1 = faster; the verdict as of any variant."""

    effect: Effect
    verdict: str


def _unsound(variant: Variant) -> bool:
    check, proof = variant.check, variant.execution_proof
    unchecked = check is not None and (check.state == "failed" or (check.state == "not checked" and check.asked))
    return unchecked or variant.verdict == "rejected" or (proof is not None and proof.state == "fell back")


class Result:
    """What one comparison found. It shows itself as a table.

    `result["Polars"]` is one variant at the largest size (`.verdict`, `.speedup`, `.interval`, `.seconds`, `.reason`),
    `result.at(1_000_000)["Polars"]` at another. `.plot()` draws, `.sentence` says it, `.record` holds all measurements.

    A stored record makes the same result again: `Result(kit.read(path))`.

    >>> from kit import Comparison
    >>> comparison = Comparison("sum", baseline="loop", time_budget_s=0.1, isolate=False)
    >>> for name in ("loop", "built in"):
    ...     _ = comparison.variant(name, lambda: lambda: sum(range(1000)))
    >>> result = comparison.run()
    >>> list(result), result["loop"].verdict
    (['loop', 'built in'], 'baseline')
    >>> Result(result.record).record is result.record
    True
    """

    def __init__(self, record: Record, path: Path | None = None):
        """record: what was found; path: where it was written."""
        self.record = record
        self.path = path

    def __getitem__(self, name: str) -> Outcome:
        """Return one variant at the largest size. Raise UserError with the names there are for an unknown one."""
        point = self._largest()
        variant = fmt.find(point, name)
        if variant is None:
            raise UserError(f"there is no variant {name!r}; the variants are {', '.join(self)}")
        sentence, effect = recommendation.sentence(self.record, point, variant), fmt.claimed(variant)
        speedup = effect.speedup if effect else None
        interval = (effect.low, effect.high) if effect and effect.low is not None else None
        return Outcome(sentence, variant.verdict, variant.reason, speedup, interval, variant.median_s, variant)

    def __iter__(self) -> Iterator[str]:
        return (variant.name for variant in self._largest().variants)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def at(self, size: float) -> "Result":
        """Return the result at one size alone. Raise UserError with the sizes there are for another one."""
        points = [point for point in self.record.points if point.size == size]
        if not points:
            sizes = ", ".join(fmt.count(p.size) for p in self.record.points if p.size is not None)
            raise UserError(f"nothing was measured at {size!r}; the sizes are {sizes or 'not given: leave out .at()'}")
        import msgspec

        return Result(msgspec.structs.replace(self.record, points=points), self.path)

    def paired(self, name: str, to: str) -> "Pair | None":
        """Return how one variant compares with another at the largest size, from the rounds that both took, and not by
        way of the baseline, whose noise would be in it. None where they shared none, or where an answer of one of them,
        or of the baseline that they are compared with, is not good or was not checked."""
        point, asked = self._largest(), (name, to, self.record.asked.baseline)
        shared = [one for one in point.sessions if {name, to} <= one.measurements.keys()]
        if not shared or any(_unsound(variant) for variant in point.variants if variant.name in asked):
            return None
        ratios = statistics.log_ratios(*(shared[0].measurements[one].wall_s for one in (to, name)))
        found, floor = statistics.effect(ratios, shared[0].starts), shared[0].noise_floor
        margin, log_floor = self.record.how.equivalence_margin, None if floor is None else math.log1p(floor)
        return found and Pair(found, statistics.verdict(found, log_floor, margin))

    @property
    def noise_floor(self) -> float | None:
        """Smallest relative difference that counts, as 0.02: what the baseline shows against itself, at least 1 %."""
        floors = [s.noise_floor for s in self._largest().sessions if s.noise_floor is not None]
        return max(floors, default=None)

    @property
    def sentence(self) -> str:
        """The verdict in words, over all sizes."""
        return recommendation.summary(self.record)

    def plot(self) -> Artifacts:
        """Draw the speed-ups (and over several sizes the scaling curve), as SVG."""
        from kit.charts import figures

        curves = [figures.scaling_curve(self.record)] if len(self.record.points) > 1 else []
        return Artifacts(*curves, figures.speedups(self.record, self._largest()))

    def add(self, *artifacts: Chart | Table) -> Artifacts:
        """Keep a technique's own charts and tables in the record, and return them to be shown.

        One of a title that is there replaces it, so that a cell may be run twice. Raise UserError for anything else
        than a Chart or a Table, or if the record's file can't be written, which then stands as it was.
        """
        from kit.charts import figures

        for artifact in artifacts:
            if not isinstance(artifact, Chart | Table):
                raise UserError(f"a result takes kit.Chart and kit.Table; got {artifact!r:.80}")
        if self.path is not None:
            store.artifact(self.path, artifacts)
        self.record = store.with_artifacts(self.record, artifacts)
        return Artifacts(*artifacts, look=figures.looks(self.record))

    @property
    def artifacts(self) -> Artifacts:
        """The charts and tables that were added to it."""
        from kit.charts import figures

        return Artifacts(*self.record.artifacts, look=figures.looks(self.record))

    def __repr__(self) -> str:
        return repr(self._shown(self.sentence))

    def _repr_html_(self) -> str:
        skipped = [v for point in self.record.points[-1:] for v in point.variants if v.verdict == "skipped"]
        lines = (f"Skipped: {one}." for one in recommendation.grouped(skipped, lambda variant: variant.reason))
        return self._shown(*lines)._repr_html_()

    def _shown(self, *notes: str) -> Artifacts:
        record, tables = self.record, []
        for point in record.points:
            size = fmt.count(point.size, record.asked.unit)
            title = fmt.shown(record.asked.comparison, 60) + (f" at {size}" if size else "")
            rows = [list(fmt.cells(record, point, one).values()) for one in point.variants if one.verdict != "skipped"]
            tables.append(Table(title, list(fmt.COLUMNS), rows))
        interrupted = [] if record.complete else ["Interrupted: this is what was measured until then."]
        debugged = ["Measured in one process (isolate=False): for debugging, not for claims."]
        return Artifacts(*tables, notes=[*notes, *interrupted, *([] if record.how.isolated else debugged)])

    def _largest(self) -> Point:
        point = fmt.largest(self.record)
        if point is None:
            raise UserError("nothing was measured: the comparison was interrupted before its first size")
        return point
