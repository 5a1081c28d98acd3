"""Histories: a change of level is found and said, chance is not called a change, and few runs claim nothing."""

import itertools
import math
import random

import msgspec
import numpy as np
import pytest
from record_factory import Made, machine, make_record

from kit.compare import changepoints, history
from kit.record import timeline
from kit.record.style import to_svg


def series(sizes: list[tuple[int, float]], noise: float, seed: int) -> list[float]:
    """Values with levels of so many values each, as logs, and normal noise on top."""
    chance = random.Random(seed)
    return [level + chance.gauss(0, noise) for count, level in sizes for _ in range(count)]


def found(values: list[float]) -> list[int]:
    return [point.index for point in changepoints.find(values)]


def records(slower_from: int, many: int = 12, ratio: float = 1.3, **changes) -> list:
    """One run a day of which Polars is `ratio` times slower from the day `slower_from` on, with a new Polars."""
    made = []
    for day in range(1, many + 1):
        slower = ratio if day >= slower_from else 1.0
        variants = {"pandas": Made(), "Polars": Made(ratio=6 / slower), "DuckDB": Made(ratio=4)}
        record = make_record(variants, seed=day, id=f"day-{day}", written=f"2026-11-{day:02d}T10:00:00Z", **changes)
        versions = record.versions | {"polars": "2.2.0" if day >= slower_from else "2.1.0"}
        made.append(msgspec.structs.replace(record, versions=versions))
    return made


def test_false_alarms_are_rare():
    """On series without a change at most one in twenty has an alarm, whatever the shape of the noise."""
    random_ = np.random.default_rng(3)
    shapes = (lambda n: random_.normal(0, 0.03, n), lambda n: 0.03 * random_.standard_t(3, n))
    alarms = [bool(found(list(shape(n)))) for n in (8, 10, 20) for shape in shapes for _ in range(25)]
    assert sum(alarms) <= 14  # of 150: what a true rate of 5 % exceeds once in a hundred times


def drifting(count: int, alike: float, chance: np.random.Generator) -> list[float]:
    """Values without a change of level of which neighbours correlate by `alike`."""
    values = chance.normal(0, 0.05, count)
    for at in range(1, count):
        values[at] = alike * values[at - 1] + math.sqrt(1 - alike**2) * values[at]
    return list(values)


@pytest.mark.parametrize(("alike", "most"), [(0.3, 20), (0.6, 34)])
def test_drift_is_seldom_taken_for_a_change(alike, most):
    """Where runs near each other are alike, far fewer series have an alarm than without the correction."""
    chance = np.random.default_rng(5)
    alarms = [bool(found(drifting(count, alike, chance))) for count in (20, 30, 60) for _ in range(40)]
    assert sum(alarms) <= most  # of 120; without the correction some 24 and 62


@pytest.mark.parametrize(("percent", "runs", "least"), [(10, 5, 11), (30, 5, 12), (10, 10, 15), (30, 10, 18)])
def test_true_shifts_are_found(percent, runs, least):
    """In 3 % of noise a shift of 10 % is mostly found with five runs on each side, and nearly always with ten."""
    shift = -math.log1p(percent / 100)
    made = [series([(runs, 0.0), (runs, shift)], 0.03, seed) for seed in range(20)]
    hits = [any(abs(at - runs) <= 1 for at in found(values)) for values in made]
    assert sum(hits) >= least


def test_several_changes():
    """A level that goes and comes back is two changes, each where it happened."""
    assert found(series([(20, 0.0), (20, -0.3), (10, 0.0)], 0.02, 1)) == [20, 40]


def test_few_runs_claim_nothing():
    """Under eight values no change is claimed, however large it looks."""
    assert found([0.0, 0.01, 0.0, 0.9, 0.9, 0.91, 0.9]) == []


def test_an_outlier_is_no_change():
    """One value far off is not taken for a change of level."""
    values = series([(12, 0.0)], 0.02, 2)
    values[6] = 3.0
    assert found(values) == []


def test_a_history_says_from_when_on_and_what_differed():
    """The sentence names the date, the factor with its interval, and the package whose version changed there."""
    one = history.histories(records(slower_from=7))[0]
    polars = next(series for series in one.series if series.variant == "Polars")
    assert [turn.written for turn in polars.turns] == ["2026-11-07T10:00:00Z"]
    assert polars.sentence.startswith("Polars: from 7 November 2026 on 1.3")
    assert polars.sentence.endswith("slower; different at that date: polars 2.1.0 → 2.2.0")
    assert polars.turns[0].low < 1 / 1.3 < polars.turns[0].high
    assert "DuckDB: no change was found over 12 runs" in one.sentences


def test_small_shifts_are_not_told():
    """A change under 5 % is not told, even where it is no chance: machines drift as much."""
    small = history.histories(records(slower_from=7, ratio=1.03, noise=0.002))[0]
    assert not any(series.turns for series in small.series)


def test_what_belongs_to_one_history():
    """Other machines, parameters and sizes are histories of their own; interrupted runs and debugging ones in none."""
    runs = records(slower_from=99, many=4)
    elsewhere = [msgspec.structs.replace(run, machine=machine("Other CPU")) for run in runs]
    stopped = [msgspec.structs.replace(run, complete=False) for run in runs]
    in_process = [msgspec.structs.replace(run, how=msgspec.structs.replace(run.how, isolated=False)) for run in runs]
    told = history.histories([*runs, *elsewhere, *stopped, *in_process, *records(99, 2, parameters={"rows": 5})])
    assert len(told) == 2
    assert {one.machine for one in told} == {runs[0].machine.key, elsewhere[0].machine.key}
    assert all(len(series.moments) == 4 for one in told for series in one.series)
    assert "too few to tell a change from chance; it takes 8" in told[0].sentences[0]


def test_the_key_is_that_of_stored_runs():
    """A history is found by the question and machine under which the report keeps its newest record."""
    from kit.stored.choose import Shelf
    from kit.stored.gather import File

    shelf, runs = Shelf(), records(slower_from=99, many=3)
    for run in runs:
        shelf.add(File(None, "x", "x", 1), run)
    brief = shelf.newest()[0]
    assert history.histories(runs)[0].key == (*brief.question, brief.machine)


def test_the_figure_tells_what_it_shows():
    """The figure draws each variant, marks the change, and says it for those who can't see it."""
    one = history.histories(records(slower_from=7))[0]
    svg = to_svg(one.figure(), themed=True)
    assert "Polars" in svg and "DuckDB" in svg and "stroke-dasharray" in svg
    assert "from 7 November 2026 on" in svg.split(">", 1)[0]


def test_hostile_dates_and_names_are_drawn():
    """A date that is none and a name full of markup are drawn and said without harm."""
    runs = [msgspec.structs.replace(run, written=f"<b>{n}") for n, run in enumerate(records(99, many=3))]
    svg = to_svg(history.histories(runs)[0].figure(), themed=True)
    assert "<b>" not in svg


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.85, 1.2), (0.97, 1.03), (0.6, 1.6), (0.9, 6), (0.1, 30), (0.001, 1e6), (1200, 1800), (0.3, 0.5)],
)
def test_ticks_do_not_touch(low, high):
    """An axis of ratios has several round ticks, 1 among them where it lies there, none too near another."""
    ticks = timeline._ticks(low, high)
    assert 3 <= len(ticks) <= 10 and low <= ticks[0] and ticks[-1] <= high
    assert (1 in ticks) == (low <= 1 <= high)
    gaps = [math.log(b / a) / math.log(high / low) for a, b in itertools.pairwise(ticks)]
    assert min(gaps) >= timeline.CLOSEST
    assert len({f"{tick:.2g}" if high / low > 4 else f"{tick:.4g}" for tick in ticks}) == len(ticks)
