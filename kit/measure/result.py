"""What a comparison found, for a person: a table, a sentence, a plot, and each variant by name."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from kit.errors import UserError
from kit.measure import statistics
from kit.measure.exhibits import Exhibits, in_jupyter, text_table
from kit.record import store, words
from kit.record.document import Chart, Effect, Point, Record, Session, Table, Variant


@dataclass(frozen=True)
class Outcome:
    """One variant at one size."""

    variant: Variant
    _sentence: str

    @property
    def verdict(self) -> str:
        """One of "baseline", "faster", "slower", "same", "unresolved", "correctness only", "invalid", "skipped" or
        "failed"."""
        return self.variant.verdict

    @property
    def reason(self) -> str:
        """Why, where the verdict alone does not say it."""
        return self.variant.reason

    @property
    def speedup(self) -> float | None:
        """Median of baseline ÷ variant over the rounds; None where nothing was measured."""
        return self.variant.effect.speedup if self.variant.effect else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Interval of the speed-up; None where there were too few rounds for one."""
        effect = self.variant.effect
        return (effect.low, effect.high) if effect and effect.low is not None else None

    @property
    def seconds(self) -> float | None:
        """Median wall-clock seconds of one warm call; None where no speed is claimed."""
        return self.variant.warm_s

    @property
    def reach(self) -> str:
        """What share of this machine's best it reached, with the arithmetic; empty where that is not known."""
        arithmetic = words.reach_arithmetic(self.variant)
        return f"{words.reach(self.variant.reach)}: {arithmetic}" if arithmetic else ""

    def __repr__(self) -> str:
        return f"{self._sentence}."


@dataclass(frozen=True)
class Pair:
    """One variant against another: seconds of the other ÷ its own, above 1 = faster; the verdict as of any variant."""

    effect: Effect
    verdict: str


def _unsound(variant: Variant) -> bool:
    quality, engagement = variant.quality, variant.engagement
    bad = quality is not None and (quality.state == "broken" or (quality.state == "unchecked" and quality.asked))
    return bad or variant.verdict == "invalid" or (engagement is not None and engagement.state == "fell back")


def _pair(session: Session, name: str, to: str, target: float) -> Pair | None:
    seconds = session.readings[to].wall_s, session.readings[name].wall_s
    found = statistics.effect(statistics.log_ratios(*seconds), session.starts)
    floor = None if session.noise_floor is None else math.log1p(session.noise_floor)
    return found and Pair(found, statistics.verdict(found, floor, target))


class Result:
    """What one comparison found. It shows itself as a table.

    `result["Polars"]` is one variant at the largest size (`.verdict`, `.speedup`, `.interval`, `.seconds`, `.reason`),
    `result.at(1_000_000)["Polars"]` at another. `.plot()` draws, `.sentence` says it, `.record` holds every reading.

    A stored record makes the same result again: `Result(kit.read(path))`.

    >>> from kit import Comparison
    >>> comparison = Comparison("sum", baseline="loop", seconds=0.1, isolate=False)
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
        return self._outcome(self._largest(), name)

    def __iter__(self) -> Iterator[str]:
        return (variant.name for variant in self._largest().variants)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __dir__(self) -> list[str]:
        return ["add", "at", "exhibits", "noise_floor", "paired", "path", "plot", "record", "sentence"]

    def at(self, size: float) -> "Result":
        """Return the result at one size alone. Raise UserError with the sizes there are for another one."""
        points = [point for point in self.record.points if point.size == size]
        if not points:
            sizes = ", ".join(words.count(p.size) for p in self.record.points if p.size is not None)
            raise UserError(f"nothing was measured at {size!r}; the sizes are {sizes or 'not given: leave out .at()'}")
        import msgspec

        return Result(msgspec.structs.replace(self.record, points=points), self.path)

    def paired(self, name: str, to: str) -> "Pair | None":
        """Return how one variant compares with another at the largest size, from the rounds that both took, and not by
        way of the baseline, whose noise would be in it. None where they shared none, or where an answer of one of them,
        or of the baseline that they are judged by, is not good or was not checked."""
        point = self._largest()
        if any(_unsound(v) for v in point.variants if v.name in (name, to, self.record.asked.baseline)):
            return None
        for session in point.sessions:
            if name in session.readings and to in session.readings:
                return _pair(session, name, to, self.record.how.target)
        return None

    @property
    def noise_floor(self) -> float | None:
        """Smallest relative difference that counts, as 0.02: what the baseline shows against itself, at least 1 %."""
        floors = [s.noise_floor for s in self._largest().sessions if s.noise_floor is not None]
        return max(floors, default=None)

    @property
    def sentence(self) -> str:
        """The verdict in words, over all sizes."""
        return words.summary(self.record)

    def plot(self) -> "Drawing":
        """Draw the speed-ups (and over several sizes the scaling curve), as SVG."""
        from kit.record import figures

        drawn = []
        if len(self.record.points) > 1:
            drawn.append(figures.scaling_curve(self.record))
        drawn.append(figures.speedups(self.record, self._largest()))
        return Drawing(drawn)

    def add(self, *exhibits: Chart | Table) -> Exhibits:
        """Keep a technique's own charts and tables in the record, and return them to be shown.

        One of a title that is there replaces it, so that a cell may be run twice. Raise UserError for anything else
        than a Chart or a Table, or if the record's file can't be written, which then stands as it was.
        """
        from kit.record import figures

        for exhibit in exhibits:
            if not isinstance(exhibit, Chart | Table):
                raise UserError(f"a result takes kit.Chart and kit.Table; got {exhibit!r:.80}")
        if self.path is not None:
            store.exhibit(self.path, exhibits)
        self.record = store.with_exhibits(self.record, exhibits)
        return Exhibits(*exhibits, look=figures.looks(self.record))

    @property
    def exhibits(self) -> Exhibits:
        """The charts and tables that were added to it."""
        from kit.record import figures

        return Exhibits(*self.record.exhibits, look=figures.looks(self.record))

    def __repr__(self) -> str:
        tables = [self._text_table(point) for point in self.record.points]
        return "\n".join([*tables, self.sentence, *self._caveats()])

    def _repr_html_(self) -> str:
        tables = "".join(self._html_table(point) for point in self.record.points)
        told = "".join(f"<p>{escape(text)}</p>" for text in self._caveats())
        return in_jupyter(tables + told)

    def _largest(self) -> Point:
        point = words.largest(self.record)
        if point is None:
            raise UserError("nothing was measured: the comparison was interrupted before its first size")
        return point

    def _outcome(self, point: Point, name: str) -> Outcome:
        variant = words.find(point, name)
        if variant is None:
            raise UserError(f"there is no variant {name!r}; the variants are {', '.join(self)}")
        return Outcome(variant, words.sentence(self.record, point, variant))

    def _caveats(self) -> list[str]:
        """Say what limits the finding, only where there is something to say."""
        record, said = self.record, []
        if not record.complete:
            said.append("Interrupted: this is what was measured until then.")
        if not record.how.isolated:
            said.append("Measured in one process (isolate=False): for debugging, not for claims.")
        if any(not point.together for point in record.points):
            said.append("Memory did not hold all variants at once: each was measured beside the baseline alone.")
        return said

    def _title(self, point: Point) -> str:
        size = words.count(point.size, self.record.asked.unit)
        return words.shown(self.record.asked.comparison, 60) + (f" at {size}" if size else "")

    def _text_table(self, point: Point) -> str:
        headings, rows = list(words.COLUMNS.values()), [words.cells(row) for row in words.rows(self.record, point)]
        return text_table(self._title(point), headings, rows, {"engagement", "verdict"}, set())

    def _html_table(self, point: Point) -> str:
        heads = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in words.COLUMNS.values())
        body = "".join(_html_row(row) for row in words.rows(self.record, point))
        return f"<table><caption>{escape(self._title(point))}</caption><tr>{heads}</tr>{body}</table>"


def _html_row(row: words.Row) -> str:
    cells = [_html_cell(name, text, row) for name, text in zip(words.COLUMNS, words.cells(row), strict=True)]
    return f"<tr>{''.join(cells)}</tr>"


def _html_cell(name: str, text: str, row: words.Row) -> str:
    if name == "engagement" and row.arithmetic:  # told when pointed at
        proof, share = text.removesuffix(row.reach), escape(row.reach)
        return f'<td class="wide">{escape(proof)}<abbr class="why" title="{escape(row.arithmetic)}">{share}</abbr></td>'
    wide = ' class="wide"' if name in ("engagement", "quality", "verdict") and len(text) > 24 else ""
    return f"<td{wide}>{escape(text)}</td>"


class Drawing:
    """Figures that show themselves as SVG in a notebook, and can be saved."""

    def __init__(self, figures: list):
        self.figures = figures

    def _repr_html_(self) -> str:
        from kit.record.style import to_svg

        return in_jupyter("".join(to_svg(figure, themed=True) for figure in self.figures))

    def save(self, path: Path | str) -> None:
        """Write the figures as SVG: to `path`, and with several figures to `path` with -1, -2, … before its ending.

        Raise UserError if `path` does not end in .svg or its folder is not there."""
        from kit.record.style import to_svg

        path = Path(path)
        if path.suffix.lower() != ".svg":
            raise UserError(f"a drawing is saved as SVG; got {path.name!r}, give a name that ends in .svg")
        if not path.parent.is_dir():
            raise UserError(f"there is no folder {str(path.parent)!r} to save {path.name!r} in; make it first")
        for number, figure in enumerate(self.figures, 1):
            numbered = path if len(self.figures) == 1 else path.with_stem(f"{path.stem}-{number}")
            numbered.write_text(to_svg(figure))
