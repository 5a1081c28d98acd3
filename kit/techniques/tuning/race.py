"""A search as a variant of a comparison: how long until it has what random search has after so many trials?

In a round all searches meet the same noise in their trials, and each draws with luck of its own: with the same seed
TPE begins with the very trials of random search, and ties would hide what it can do. A/A is random search with other
luck and noise. Seconds are those of the trials and of the search itself, on the clock of `clock.simulate` with one
worker.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from zlib import crc32

import numpy as np

from kit.errors import UserError
from kit.measure.work import TIME, Ceiling, Prepared, Reading, engaged
from kit.record.document import Quality
from kit.techniques.tuning.clock import Ended, History, simulate
from kit.techniques.tuning.judged import FRESH, last_loss
from kit.techniques.tuning.problem import Problem, Setting
from kit.techniques.tuning.searches import SEARCHES

PATIENCE = 3
"""A search that has not reached its target is given up after so many times the trials; random search has by then, in
seven cases of eight. It is counted with the time of as many random trials at least: cheap trials must not make a search
look fast that never came there."""
TARGETS = 101
"""Random searches whose median is the target, where trials cost nothing."""
EXPLORED = 300
"""Trials of a random search, where they cost nothing, that show which parameters matter."""
IN_TRIALS = "in trials s"
"""The metric of a search's seconds that went into trials: what an ideal search would take for the same trials."""
JUDGED = 5
"""Searches whose settings are judged on data that no trial saw, where that costs nothing; else one."""


@dataclass(frozen=True, eq=False)
class Race:
    """To be won by who first has a loss of `target` or less.

    problem: opened anew in each process; trials: those that random search is given; mean_s: of one trial; explored: the
    settings and losses of one random search.
    """

    problem: Callable[[], Problem]
    trials: int
    target: float
    mean_s: float
    explored: tuple[list[Setting], list[float]] = ((), ())

    @cached_property
    def checkpoints(self) -> list[int]:
        """Numbers of trials at which losses are noted: 1, 2, 4 … and the last."""
        return sorted({*(2**k for k in range(self.trials.bit_length())), self.trials})


def race(problem: Callable[[], Problem], trials: int, seed: int = 0) -> Race:
    """Return the race to the loss that random search has after `trials` trials: in the median of 101 searches where
    trials are looked up, in one search where they are real. Raise `UserError` if all of its trials fail."""
    opened = problem()
    histories = [
        simulate(SEARCHES["random"], opened, trials=trials, seed=seed + 1 + number)
        for number in range(TARGETS if opened.simulated else 1)
    ]
    target = float(np.median([history.after(trials) for history in histories]))
    if math.isinf(target):
        reason = next((one.failed for one in histories[0].trials if one.failed), "none counts")
        raise UserError(f"{opened.name}: all {trials} trials of a random search came to nothing ({reason}); mend that")
    mean_s = float(np.mean([history.work_s / trials for history in histories]))
    wide = simulate(SEARCHES["random"], opened, trials=EXPLORED, seed=seed) if opened.simulated else histories[0]
    counted = [trial for trial in wide.trials if trial.counts]
    explored = [trial.setting for trial in counted], [trial.loss for trial in counted]
    return Race(problem, trials, target, mean_s, explored)


def regrets(
    problems: Mapping[str, Callable[[], Problem]], searches: Sequence[str], trials: int, seeds: int
) -> dict[str, dict[str, np.ndarray]]:
    """Return for each problem and search the regret after `trials` trials (the loss, where the best is not known), one
    for each seed, shape (seeds,). Searches on one problem have the same seeds."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, opening in problems.items():
        problem = opening()
        found[name] = {search: _regrets(problem, search, trials, seeds) for search in searches}
    return found


def _regrets(problem: Problem, search: str, trials: int, seeds: int) -> np.ndarray:
    histories = (simulate(SEARCHES[search], problem, trials=trials, seed=seed + 1) for seed in range(seeds))
    return np.array([history.after(trials) for history in histories]) - (problem.best or 0.0)


@dataclass(frozen=True)
class Found:
    """What a search is judged by: the loss of its setting, and of the defaults, on data that no trial saw."""

    loss: float
    default: float
    on: str
    searches: int


@dataclass(frozen=True)
class Racing:
    """A search by its name, as a variant: called with a race it prepares, and returns what is called once a round."""

    search: str

    def __call__(self, race: Race) -> Prepared:
        problem, opening = race.problem(), SEARCHES[self.search]
        last: dict[str, History] = {}

        def call(seed: int) -> Reading:
            most = PATIENCE * race.trials
            history = simulate(
                opening,
                problem,
                trials=race.trials,
                seed=seed,
                target=race.target,
                most=most,
                least_s=race.trials * race.mean_s,
                luck=luck(self.search, seed),
            )
            last["one"] = history
            reached = history.reached(race.target)
            seconds = reached.ended_s if reached else max(history.span_s, most * race.mean_s)
            metrics = _metrics(history, race, reached is not None) | {IN_TRIALS: in_trials_s(history, reached, seconds)}
            return Reading(seconds, metrics, lambda: judged(history))

        def judged(first: History) -> Found:
            more = range(1, JUDGED) if problem.simulated else ()
            others = [simulate(opening, problem, trials=race.trials, seed=seed) for seed in more]
            return judge(problem, [first, *others])

        def proof():
            history = last["one"]
            pruned = sum(trial.pruned for trial in history.trials)
            return engaged(
                search=self.search,
                trials=len(history.trials),
                pruned=pruned,
                costs={"sampler ms a trial": 1e3 * history.sampler_s / max(1, len(history.trials))},
            )

        return Prepared(
            call, proof, seeded=True, ceiling=Ceiling(TIME, IN_TRIALS, "trials; the rest is the search's own")
        )


def in_trials_s(history: History, reached: Ended | None, seconds: float) -> float:
    """Return how many of a race's seconds went into trials and not into the search itself. Of one that never reached
    its target, what it is counted with beyond its own end is the time of random trials."""
    if reached is None:
        return history.work_s + max(0.0, seconds - history.span_s)
    return sum(trial.work_s for trial in history.trials if trial.ended_s <= reached.ended_s)


def luck(search: str, seed: int) -> int:
    """Return a search's own seed in the round of this seed."""
    return int(np.random.SeedSequence([seed, crc32(search.encode())]).generate_state(1)[0])


def judge(problem: Problem, histories: list[History]) -> Found:
    """Return how good the settings are that these searches chose, in the median, beside the defaults: on data that no
    trial saw, by the known function, or by one more run of an own objective with a seed that no trial had."""
    chosen = [history.chosen for history in histories if history.chosen is not None]
    if problem.default is None:
        return Found(math.nan, math.nan, "nothing; give each parameter of the space a default", len(chosen))
    if not chosen:
        return Found(math.nan, math.nan, "nothing: no trial came to its end", 0)
    score, on = partial(last_loss, problem, seed=FRESH), "a fresh run"
    if problem.final or problem.truth:
        score, on = (
            (problem.final, "data that no trial saw") if problem.final else (problem.truth, "the known function")
        )
    return Found(float(np.median([score(one) for one in chosen])), float(score(problem.default)), on, len(chosen))


def beats_the_defaults(answer: Found, reference: Found) -> Quality:
    """Return whether what was found is no worse than what was there before, on data that no trial saw."""
    what = "loss against the defaults'"
    if math.isnan(answer.loss):
        return Quality(state="unchecked", measure=what, note=f"it can be judged by {answer.on}")
    held = answer.loss <= answer.default
    note = "" if held else f"on {answer.on} the defaults have {answer.default:.4g}, this search {answer.loss:.4g}"
    return Quality(state="held" if held else "broken", measure=what, value=answer.loss, bound=answer.default, note=note)


def _metrics(history: History, race: Race, reached: bool) -> dict[str, float]:
    """Return the numbers of one search by name; losses before its first trial that counts are left out, and those at a
    time when it had ended."""
    counted = {
        "reached": float(reached),
        "trials": float(len(history.trials)),
        "work s": history.work_s,
        "sampler s": history.sampler_s,
    }
    by_trials = {f"loss after {n} trials": history.after(n) for n in race.checkpoints}
    times = {f"loss after {n} trials' time": n * race.mean_s for n in race.checkpoints}
    by_time = {name: history.at(s) for name, s in times.items() if s <= history.span_s}
    return counted | {name: loss for name, loss in (by_trials | by_time).items() if math.isfinite(loss)}
