"""The simulated clock: a real sampler is asked and told as by many workers, while trial seconds are looked up.

Trials end in the order in which they would with so many workers, and a suggestion knows only of trials that have ended
by then. The sampler's own seconds are real. An objective without simulated seconds is run, and counts its own time.
"""

import heapq
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.errors import UserError
from kit.techniques.tuning.samplers import create_study, quiet
from kit.techniques.tuning.seeds import Estimate, Seeds, speedup
from kit.techniques.tuning.workload import SECONDS, Problem, Setting, Space

if TYPE_CHECKING:
    from optuna.study import Study


@dataclass(frozen=True)
class Ended:
    """One trial. state: "complete", "pruned" or "failed"; loss: None unless complete; work_s: of the trial itself;
    sampler_s: of suggesting it and of storing its result; space: that its objective asked for."""

    number: int
    setting: Setting
    state: str
    loss: float | None
    ended_s: float
    work_s: float
    sampler_s: float
    space: Space
    reason: str = ""


@dataclass(eq=False)
class History:
    """A search, its trials in the order of their ends.

    best: after so many ends, the loss (without noise, where that is known) and the setting that is then best by what
    trials showed; infinite before the first complete trial.
    """

    trials: list[Ended] = field(default_factory=list)
    best: list[tuple[float, Setting | None]] = field(default_factory=lambda: [(math.inf, None)])
    _lowest: float = math.inf

    def add(self, trial: Ended, problem: Problem) -> None:
        """Append the next trial to end."""
        best = self.best[-1]
        if trial.loss is not None and trial.loss < self._lowest:
            self._lowest = trial.loss
            best = problem.truth(trial.setting) if problem.truth else trial.loss, trial.setting
        self.trials.append(trial)
        self.best.append(best)

    def after(self, trials: int) -> float:
        """Return the best loss after so many ended trials, or after the last."""
        return self.best[min(trials, len(self.trials))][0]

    def chosen(self, trials: int) -> Setting | None:
        """Return the best setting after so many ended trials, or after the last."""
        return self.best[min(trials, len(self.trials))][1]

    def reached(self, target: float) -> Ended | None:
        """Return the trial whose end first brought the loss to `target` or below; None if none did."""
        found = (trial for trial, (loss, _) in zip(self.trials, self.best[1:], strict=True) if loss <= target)
        return next(found, None)


def simulate(
    search: str,
    problem: Problem,
    *,
    trials: int,
    seed: int,
    workers: int = 1,
    draws: int | None = None,
    target: float = -math.inf,
    at_most: int = 0,
    enqueue: Sequence[Setting] = (),
) -> History:
    """Run one search on the simulated clock.

    trials: to run; further ones, up to `at_most`, until the loss is `target`. seed: of the noise in trials, so that
    trial n of two searches has the same. draws: the sampler's own seed; None: `seed`. enqueue: settings to begin with.
    """
    study = create_study(search, seed, seed if draws is None else draws)
    for setting in enqueue:
        study.enqueue_trial(dict(setting))
    history, begun = History(), 0
    events: list[tuple[float, int, Any]] = [(0.0, worker, None) for worker in range(workers)]
    with quiet():
        while events:
            now, worker, running = heapq.heappop(events)
            if running is not None:
                told_s = _tell(study, *running)
                now += told_s
                history.add(replace(running[1], sampler_s=running[1].sampler_s + told_s), problem)
            if begun < trials or (begun < at_most and history.reached(target) is None):
                trial, ended = _run(study, problem, now)
                heapq.heappush(events, (ended.ended_s, worker, (trial, ended)))
                begun += 1
    return history


def _run(study: "Study", problem: Problem, now: float) -> tuple[Any, Ended]:
    """Ask for a trial and run its objective; it ends on the clock when both are done."""
    from optuna import TrialPruned

    began = time.perf_counter()
    trial = study.ask(fixed_distributions=dict(problem.space))
    asked, state, loss, reason = time.perf_counter(), "complete", None, ""
    try:
        loss = float(problem.objective(trial))
        if not math.isfinite(loss):
            state, loss, reason = "failed", None, f"its loss was {loss}"
    except TrialPruned:
        state = "pruned"
    except Exception as error:  # whatever it raises costs this trial, not the search
        state, reason = "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    ran_s = time.perf_counter() - asked
    stored = study.get_trials(deepcopy=False)[trial.number]
    work_s, sampler_s = stored.user_attrs.get(SECONDS, ran_s), asked - began
    if SECONDS in stored.user_attrs:  # a look-up spends its time in the pruner
        sampler_s += ran_s
    ended_s = now + sampler_s + work_s
    found = loss, ended_s, work_s, sampler_s, stored.distributions, reason
    return trial, Ended(trial.number, dict(stored.params), state, *found)


def _tell(study: "Study", trial: Any, ended: Ended) -> float:
    """Tell the sampler how a trial ended; return the seconds that took.

    A failed trial is told as pruned, which TPE takes for bad: one told as failed it ignores, and returns there.
    """
    from optuna.trial import TrialState

    began = time.perf_counter()
    study.tell(trial, ended.loss, state=None if ended.state == "complete" else TrialState.PRUNED)
    return time.perf_counter() - began


def first_trial(problem: Problem) -> Space:
    """Run one trial of a real problem that does not count, and return its space: what an objective imports or loads in
    its first call is no trial time. It has the defaults, where there are any. Raise `UserError` if it fails."""
    if problem.simulated:
        return problem.space
    default = dict(problem.default or {})
    (trial,) = simulate("random", problem, trials=1, seed=0, enqueue=[default]).trials
    if trial.state == "failed":
        remedy = "fix the objective or these" if default else "fix it, or give it `default`, parameters that work"
        where = "its own defaults" if default else "a configuration drawn at random"
        raise UserError(f"{problem.name} fails at {where}, {trial.setting}: {trial.reason}; {remedy}")
    if default and (left := trial.setting.keys() - default.keys()):
        raise UserError(f"the defaults of {problem.name} have no {min(left)!r}, which it asks for; add it")
    return trial.space


# More workers ---------------------------------------------------------------------------------------------------------

WAVES = 3
"""Trials for each worker at least: the last to end must not decide the throughput."""


@dataclass(frozen=True)
class Scaled:
    """One search with 1 worker and with more, the same seeds for each, by number of workers.

    per_trial: time to the last end ÷ trials. to_target: time to the loss that random search with one worker has after
    half of the trials; censored at the last end.
    """

    search: str
    problem: str
    trials: int
    per_trial: dict[int, Seeds]
    to_target: dict[int, Seeds]


def speedups(found: Mapping[int, Seeds], error: float = 0.0) -> dict[int, Estimate]:
    """Return by number of workers the speed-up over one, with its interval over seeds, widened by the relative `error`
    of the simulated clock."""
    result = {}
    for number, one in found.items():
        value, low, high = speedup(one, found[1])
        wider = 1 + error * (number > 1)
        result[number] = value, low / wider, high * wider
    return result


def scale(problem: Problem, search: str, workers: Sequence[int], trials: int, seeds: int) -> Scaled:
    """Run a search with 1 worker and with each of `workers`, once per seed, on the simulated clock."""
    plain = [simulate("random", problem, trials=trials, seed=seed).after(trials // 2) for seed in range(seeds)]
    target, per_trial, to_target = float(np.median(plain)), {}, {}
    for number in sorted({1, *workers}):
        more = {"workers": number, "trials": max(trials, WAVES * number)}
        histories = [simulate(search, problem, seed=seed, draws=seed + 1, **more) for seed in range(seeds)]
        spans = np.array([history.trials[-1].ended_s for history in histories])
        firsts = [history.reached(target) for history in histories]
        per_trial[number] = Seeds(spans / more["trials"], np.ones(seeds, bool), {})
        seconds = [first.ended_s if first else span_s for first, span_s in zip(firsts, spans, strict=True)]
        to_target[number] = Seeds(np.array(seconds), np.array([first is not None for first in firsts]), {})
    return Scaled(search, problem.name, trials, per_trial, to_target)
