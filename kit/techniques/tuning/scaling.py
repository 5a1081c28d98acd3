"""What more workers bring: trials end sooner, and answers come sooner, which is not the same.

A search by many asks before it knows: the more trials are under way, the less each one can learn from. So throughput
and the time to a given loss are shown side by side, on the simulated clock, over many seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kit.measure.statistics import ALPHA, sign_test_interval
from kit.record.document import Chart, Series, Table
from kit.techniques.tuning.clock import History, simulate
from kit.techniques.tuning.problem import Problem
from kit.techniques.tuning.searches import SEARCHES
from kit.techniques.tuning.workers.variants import JOURNAL, OnStorage, Work

WAVES = 3
"""Trials for each worker, at least."""


@dataclass(frozen=True)
class Scaled:
    """One search by 1 worker and by more, with the same seeds. Arrays have the shape (workers, seeds).

    trials: of each search, but at least three times the workers: the last to end must not decide how fast many are.
    a_trial_s: from the beginning to the last end, divided by the trials; to_target_s: to the loss that random search
    by one worker has after half of `trials`, infinite if it was not reached; losses: after `trials` ends; utilisation:
    0 to 1.
    """

    search: str
    problem: str
    trials: int
    workers: list[int]
    a_trial_s: np.ndarray
    to_target_s: np.ndarray
    losses: np.ndarray
    utilisation: np.ndarray

    def sped_up(self, seconds: np.ndarray) -> list[tuple[float, float | None, float | None]]:
        """Return for each number of workers by how much sooner than by one: the median over seeds and its interval."""
        with np.errstate(invalid="ignore"):  # infinite by infinite: neither came there
            return [_median(seconds[0] / row) for row in seconds]


def scale(
    problem: Problem, searches: Sequence[str], workers: Sequence[int], trials: int, seeds: int
) -> dict[str, Scaled]:
    """Return each search by each number of workers, once a seed. 1 is among the numbers, whether asked for or not."""
    alone = [simulate(SEARCHES["random"], problem, trials=trials, seed=seed + 1) for seed in range(seeds)]
    target = float(np.median([history.after(trials // 2) for history in alone]))
    return {name: _scaled(problem, name, sorted({1, *workers}), trials, seeds, target) for name in searches}


def _scaled(problem: Problem, search: str, workers: list[int], trials: int, seeds: int, target: float) -> Scaled:
    histories = [
        [
            simulate(SEARCHES[search], problem, workers=number, trials=max(trials, WAVES * number), seed=seed + 1)
            for seed in range(seeds)
        ]
        for number in workers
    ]
    of_each = (
        lambda one: one.span_s / len(one.trials),
        lambda one: _time_to(one, target),
        lambda one: one.after(trials),
        lambda one: one.utilisation,
    )
    arrays = [np.array([[of(history) for history in row] for row in histories]) for of in of_each]
    return Scaled(search, problem.name, trials, workers, *arrays)


def _time_to(history: History, target: float) -> float:
    reached = history.reached(target)
    return reached.ended_s if reached else np.inf


def _median(ratios: np.ndarray) -> tuple[float, float | None, float | None]:
    """Return the median and its exact interval. Where one worker never came there but many did, the ratio is infinite;
    where neither did, nothing is known of that seed."""
    known = ratios[~np.isnan(ratios)]
    if not len(known):
        return np.nan, None, None
    low, high = sign_test_interval(known, 1 - ALPHA) or (None, None)
    return float(np.median(known)), low, high


def chart(scaled: Scaled) -> Chart:
    """Return speed-up in trials beside speed-up in answers, over workers."""
    return Chart(
        title=f"More workers for {scaled.search} on {scaled.problem}: trials and answers, higher is better",
        x="workers",
        y="times as fast as one worker",
        series=[
            Series("ideal", scaled.workers, [float(n) for n in scaled.workers], style="ideal"),
            _series("trials", scaled, scaled.sped_up(scaled.a_trial_s)),
            _series("answer", scaled, scaled.sped_up(scaled.to_target_s)),
        ],
        log_x=True,
        log_y=True,
        note=f"Simulated clock with the real sampler: {scaled.problem}, {scaled.trials} trials, more for many workers; "
        f"{scaled.a_trial_s.shape[1]} seeds, median with its 95 % interval. The answer is the loss that random search "
        "by one worker has after half of the trials.",
    )


def _series(name: str, scaled: Scaled, found: list[tuple]) -> Series:
    middle, low, high = ([_finite(value) for value in column] for column in zip(*found, strict=True))
    return Series(name, scaled.workers, middle, low, high, style="modelled")


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def table(scaled: Sequence[Scaled]) -> Table:
    """Return trials a second, utilisation, time to the answer and the loss at the end, a row a search and number."""
    rows = []
    for one in scaled:
        in_trials, in_answers = one.sped_up(one.a_trial_s), one.sped_up(one.to_target_s)
        for row, number in enumerate(one.workers):
            rows.append(
                [
                    one.problem,
                    one.search,
                    number,
                    float(np.median(1 / one.a_trial_s[row])),
                    f"{np.median(one.utilisation[row]):.0%}",
                    _in_words(in_trials[row]),
                    _in_words(in_answers[row]),
                    f"{np.mean(np.isfinite(one.to_target_s[row])):.0%}",
                    float(np.median(one.losses[row])),
                ]
            )
    return Table(
        "More workers, on the simulated clock",
        [
            "problem",
            "search",
            "workers",
            "trials a second",
            "utilisation",
            "trials sooner",
            "answer sooner",
            "came there",
            "loss",
        ],
        rows,
        note="Ratios to one worker, paired by seed: median [95 % interval]. Loss: after as many trials as one worker "
        "has, lower is better.",
    )


def _in_words(found: tuple[float, float | None, float | None]) -> str:
    middle, low, high = found
    if not np.isfinite(middle):
        return "—"
    if low is None or high is None:
        return f"{middle:.2g}×"
    return f"{middle:.2g}× [{low:.2g}, {'∞' if np.isinf(high) else f'{high:.2g}'}]"


@dataclass(frozen=True)
class Held:
    """The clock beside real searches by as many workers, seed by seed: seconds, shape (seeds,)."""

    workers: int
    simulated_s: np.ndarray
    real_s: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """By how much the clock is off, as -0.05 for 5 % too short, shape (seeds,)."""
        return self.simulated_s / self.real_s - 1


def against_real(work: Work, seeds: int, workers: Sequence[int] = (1, 2)) -> list[Held]:
    """Return the clock beside real searches of processes on a journal file. Both run the same settings with a sampler
    that does not learn, as a grid; on the clock they are run one after the other, here, and put side by side."""
    problem, found = work.problem(), []
    for number in workers:
        real = OnStorage(JOURNAL, workers=number)(work)
        try:
            real.call(0)  # what comes first pays for imports
            pairs = [
                (_simulated_s(problem, work, number, seed + 1), real.call(seed + 1).seconds) for seed in range(seeds)
            ]
        finally:
            real.close()
        found.append(Held(number, *np.array(pairs).T))
    return found


def _simulated_s(problem: Problem, work: Work, workers: int, seed: int) -> float:
    return simulate(SEARCHES[work.sampler], problem, workers=workers, trials=work.trials, seed=seed).span_s


def held(found: Sequence[Held]) -> Table:
    """Return the clock's error, a row a number of workers."""
    return Table(
        "The simulated clock against real processes",
        ["workers", "searches", "simulated s", "real s", "error", "from", "to"],
        [
            [
                one.workers,
                len(one.errors),
                float(np.median(one.simulated_s)),
                float(np.median(one.real_s)),
                *(f"{error:+.0%}" for error in np.quantile(one.errors, [0.5, 0, 1])),
            ]
            for one in found
        ],
        note="Medians over the searches, and the range of the error. Real workers share caches, memory and a storage, "
        "which the clock knows nothing of: where they slow each other, it promises too much.",
    )
