"""A comparison over its dated runs: the speed-up of each variant by date, and when it changed.

`Collector` takes records one by one and keeps little of each, so that ten thousand fit; `histories` is for a few.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kit.compare import comparable
from kit.record import words
from kit.record.document import Record
from kit.stored import choose

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kit.record import timeline

FEWEST_DATES = 3
"""Runs from which on there is a history."""
LEAST_SHIFT = 0.05
"""A change under 5 % is not told: the state of a machine drifts as much from day to day."""
MOST_MOMENTS = 200
"""The newest of a series, which are enough to see its end and cheap to test."""
MOST_DRAWN = 60
"""The newest moments of a series that a figure has room for."""


@dataclass(frozen=True)
class Moment:
    """What one run found of one variant: its speed-up over the baseline of the same run."""

    written: str
    speedup: float
    low: float | None
    high: float | None
    record: Record
    """Without its points: what it was measured on and with."""


@dataclass(frozen=True)
class Turn:
    """The level changed between the moment before `index` and that one; above 1 = faster from then on."""

    index: int
    written: str
    ratio: float
    low: float
    high: float
    p: float
    different: tuple[str, ...]
    """What differs between the two runs around it: packages, commit, machine's software."""

    @property
    def sentence(self) -> str:
        """As `from 14 November 2026 on 1.3× [1.2, 1.4] slower; different at that date: pandas 3.0.5 → 3.0.6`."""
        faster = self.ratio >= 1
        ends = (self.ratio, self.low, self.high) if faster else (1 / self.ratio, 1 / self.high, 1 / self.low)
        told = f"from {words.day(self.written)} on {words.with_interval(*ends)} {'faster' if faster else 'slower'}"
        return f"{told}; different at that date: {'; '.join(self.different)}" if self.different else told


@dataclass(frozen=True)
class Series:
    """One variant over its dates, and where its level changed."""

    variant: str
    moments: list[Moment]
    turns: list[Turn]

    @property
    def sentence(self) -> str:
        """What became of it, in words."""
        many = f"{len(self.moments)} runs"
        if self.turns:
            return f"{self.variant}: {'; then '.join(turn.sentence for turn in self.turns)}"
        from kit.compare import changepoints

        if len(self.moments) < changepoints.FEWEST:
            return f"{self.variant}: {many} are too few to tell a change from chance; it takes {changepoints.FEWEST}"
        return f"{self.variant}: no change was found over {many}"


@dataclass(frozen=True)
class History:
    """One comparison on one machine, at its largest size, over its dated runs."""

    notebook: str
    comparison: str
    parameters: str
    """Hash of all parameters, as of `choose.Brief`."""
    machine: str
    size: int | float | None
    unit: str
    baseline: str
    series: list[Series]

    @property
    def key(self) -> tuple[str, str, str, str]:
        """As `(*brief.question, brief.machine)` of the room of stored runs."""
        return self.notebook, self.comparison, self.parameters, self.machine

    @property
    def sentences(self) -> list[str]:
        """What became of each variant, those that changed first."""
        return [one.sentence for one in sorted(self.series, key=lambda one: not one.turns)]

    def figure(self, look: dict | None = None) -> "Figure":
        """Return the speed-ups by date with their intervals, changes marked."""
        from kit.record import timeline

        lines = [_dated(one) for one in self.series]
        return timeline.history(lines, self.baseline, words.count(self.size, self.unit), self.sentences, look)


def _dated(one: Series) -> "timeline.Dated":
    from kit.record import timeline

    drawn, left_out = one.moments[-MOST_DRAWN:], max(0, len(one.moments) - MOST_DRAWN)
    return timeline.Dated(
        one.variant,
        [moment.written for moment in drawn],
        [moment.speedup for moment in drawn],
        [moment.low for moment in drawn],
        [moment.high for moment in drawn],
        [turn.index - left_out for turn in one.turns if turn.index > left_out],
    )


@dataclass
class Collector:
    """Takes records in any order, and keeps of each what a history needs."""

    _found: dict[tuple, dict[str, list[Moment]]] = field(default_factory=dict)
    _units: dict[tuple, str] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Keep what one record says of its largest size, unless it was interrupted or made for debugging."""
        point = words.largest(record)
        if point is None or not record.complete or not record.how.isolated:
            return
        asked = record.asked
        key = (
            words.shown(asked.notebook, 80), words.shown(asked.comparison, 120), choose.fingerprint(asked.parameters),
            words.shown(record.machine.key, 40), point.size, words.shown(asked.baseline, 60),
        )  # fmt: skip
        self._units[key] = words.shown(asked.unit, 40)
        bare = _bare(record)
        for variant in point.variants:
            if variant.effect is not None and variant.effect.speedup > 0 and variant.verdict != "invalid":
                moments = self._found.setdefault(key, {}).setdefault(words.shown(variant.name, 60), [])
                found = variant.effect
                moments.append(Moment(record.written, found.speedup, found.low, found.high, bare))

    def histories(self) -> list[History]:
        """Return every comparison with at least three dated runs, a variant's changes found."""
        found = []
        for key, variants in self._found.items():
            series = [_series(name, moments) for name, moments in variants.items() if len(moments) >= FEWEST_DATES]
            if series:
                found.append(History(*key[:4], size=key[4], unit=self._units[key], baseline=key[5], series=series))
        return sorted(found, key=lambda one: (one.notebook or "~", one.comparison, one.key))


def histories(records: Iterable[Record]) -> list[History]:
    """Return every comparison with at least three dated runs among `records`."""
    collector = Collector()
    for record in records:
        collector.add(record)
    return collector.histories()


def _bare(record: Record) -> Record:
    import msgspec

    asked = msgspec.structs.replace(record.asked, parameters={}, sources={})
    return msgspec.structs.replace(record, asked=asked, points=[], scaling={}, exhibits=[], extra={})


def _series(name: str, moments: list[Moment]) -> Series:
    ordered = sorted(moments, key=lambda moment: (moment.written, moment.record.id))[-MOST_MOMENTS:]
    return Series(name, ordered, _turns(ordered))


def _turns(moments: list[Moment]) -> list[Turn]:
    """Return the changes of level: told from chance, and large enough to matter."""
    from kit.compare import changepoints

    logs = [math.log(moment.speedup) for moment in moments]
    points = changepoints.find(logs)
    edges = [0, *(point.index for point in points), len(logs)]
    turns = []
    for place, point in enumerate(points, start=1):
        before, after = logs[edges[place - 1] : point.index], logs[point.index : edges[place + 1]]
        middle, low, high = changepoints.shift(before, after)
        if abs(middle) >= math.log1p(LEAST_SHIFT):
            around = moments[point.index - 1].record, moments[point.index].record
            ratios = (math.exp(value) for value in (middle, low, high))
            turns.append(Turn(point.index, moments[point.index].written, *ratios, point.p, _different(*around)))
    return turns


def _different(a: Record, b: Record) -> tuple[str, ...]:
    return tuple(comparable.differences(a, b)[:4])
