"""What a race of searches has shown beside its speed-ups: losses over trials and over time, what a search itself costs,
what pruning saves. All of it is read from the record's own rounds."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kit.measure.result import Pair, Result
from kit.record import words
from kit.record.document import Chart, Effect, Point, Series, Table, Variant
from kit.techniques.tuning.race import Race

_AFTER = re.compile(r"loss after (\d+) trials('s? time)?$")


def measured(point: Point) -> list[Variant]:
    """Return the searches that took rounds, in the order in which they were declared."""
    return [one for one in point.variants if one.state == "measured" and one.session is not None]


def rounds(point: Point, variant: Variant) -> dict[str, np.ndarray]:
    """Return each metric and the seconds of one search over its rounds, shape (rounds,), NaN where a round has none."""
    readings = point.sessions[variant.session].readings[variant.name]
    metrics = {name: np.array(values, float) for name, values in readings.metrics.items()}
    return metrics | {"seconds": np.array(readings.wall_s)}


def losses(result: Result, race: Race, best: float | None, *, over_time: bool = False) -> Chart | None:
    """Return the loss (the regret, where the best is known) over trials or over time at the largest size, each search's
    median over the rounds with its quartiles; None where trials take no time beside the search."""
    point = result.record.points[-1]
    what = "regret" if best is not None else "loss"
    curves = [curve(one, rounds(point, one), race, best or 0.0, over_time) for one in measured(point)]
    drawn = [series for series in curves if series.x]
    if not drawn:
        return None
    number = max(len(point.sessions[one.session].readings[one.name].wall_s) for one in measured(point))
    return Chart(
        title=f"{what.capitalize()} over {'time' if over_time else 'trials'}, lower is better",
        x="seconds of trials and search" if over_time else "trials",
        y=f"{what} of the setting that is best so far",
        series=drawn,
        log_x=True,
        log_y=best is not None,
        note=f"Medians over {number} rounds, a seed each, with their quartiles. A setting is chosen by what its trial "
        "showed, and drawn by its loss without noise where that is known.",
    )


def curve(variant: Variant, metrics: dict[str, np.ndarray], race: Race, best: float, over_time: bool) -> Series:
    """Return one search's median loss less `best`, with its quartiles, over trials or over their seconds."""
    found: dict[int, tuple[float, float, float]] = {}
    for name, values in metrics.items():
        after = _AFTER.match(name)
        known = values[~np.isnan(values)] - best
        if after and bool(after[2]) == over_time and 2 * len(known) >= len(values):
            found[int(after[1])] = tuple(np.quantile(known, [0.25, 0.5, 0.75]).tolist())
    trials = sorted(found)
    low, middle, high = zip(*(found[number] for number in trials), strict=True) if found else ((), (), ())
    x = [number * race.mean_s if over_time else number for number in trials]
    return Series(variant.name, x, list(middle), list(low), list(high))


def to_target(result: Result) -> Table:
    """Return for each size and search how often and how soon it came to the target, and what the search itself took."""
    rows = []
    for point in result.record.points:
        for one in measured(point):
            metrics = rounds(point, one)
            search, work, trials = (float(np.sum(metrics[name])) for name in ("sampler s", "work s", "trials"))
            rows.append(
                [
                    point.size,
                    one.name,
                    len(metrics["seconds"]),
                    f"{np.mean(metrics['reached']):.0%}",
                    float(np.median(metrics["seconds"])),
                    float(1e3 * search / trials),
                    f"{search / (search + work):.1%}",
                ]
            )
    return Table(
        "How often the target was reached, and what the search itself took",
        ["random trials", "search", "rounds", "reached", "median s", "search ms a trial", "share of time"],
        rows,
        note="A search that has not reached the target after three times the trials is given up, and counted with the "
        "time of three times the trials at least: where few rounds reached it, the truth is worse.",
    )


@dataclass(frozen=True)
class Pruned:
    """What pruning does to a search. saved: share of the work of a trial, its median over the rounds, with the ends of
    its 95 % bootstrap interval; sooner: at the target than the same search without pruning."""

    name: str
    saved: float
    saved_low: float
    saved_high: float
    sooner: Effect | None
    verdict: str | None


def pruning(result: Result) -> list[Pruned]:
    """Return what pruning does to each search that was also run without."""
    found = []
    for name, saved, pair in _against_whole(result):
        low, high = np.quantile(_resampled(saved), [0.025, 0.975])
        effect, verdict = (pair.effect, pair.verdict) if pair else (None, None)
        found.append(Pruned(name, float(np.median(saved)), float(low), float(high), effect, verdict))
    return found


def _against_whole(result: Result) -> Iterator[tuple[str, np.ndarray, Pair | None]]:
    point = result.record.points[-1]
    by_name = {one.name: one for one in measured(point)}
    for name, one in by_name.items():
        plain = by_name.get(name.partition(" + ")[0])
        if plain is not None and plain is not one:
            saved = 1 - _work_a_trial(point, one) / _work_a_trial(point, plain)
            yield name, saved, result.paired(name, to=plain.name)


def saved_by_pruning(result: Result) -> Table | None:
    """Return the share of work that pruning saved a trial, beside the same search without; None where none pruned."""
    rows = []
    for one in pruning(result):
        effect = one.sooner
        told = words.with_interval(effect.speedup, effect.low, effect.high) if effect else None
        rows.append([one.name, f"{one.saved:.0%} [{one.saved_low:.0%}, {one.saved_high:.0%}]", told, one.verdict])
    if not rows:
        return None
    return Table(
        "What pruning saves, and whether the answer comes sooner",
        ["search", "work saved a trial", "sooner at the target than without", "verdict"],
        rows,
        note="Work saved: median over the rounds with its 95 % bootstrap interval. A trial stopped early is cheap and "
        "may have been the best.",
    )


def _work_a_trial(point: Point, variant: Variant) -> np.ndarray:
    metrics = rounds(point, variant)
    return metrics["work s"] / metrics["trials"]


def _resampled(values: np.ndarray, draws: int = 1000) -> np.ndarray:
    chosen = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    return np.median(values[chosen], axis=1)


def first_half(values: Sequence[float], at: Sequence[float]) -> float | None:
    """Return when half of the gain was there: the first of `at` whose loss is at most midway from first to last."""
    if len(values) < 2 or values[-1] >= values[0]:
        return None
    middle = (values[0] + values[-1]) / 2
    return next(when for value, when in zip(values, at, strict=True) if value <= middle)
