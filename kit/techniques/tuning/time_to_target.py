"""A search as a variant of a comparison: time to the loss that random search has after so many trials.

A round is one seed: all searches of a round share the noise in their trials, and each has draws of its own (with the
same draws TPE would begin with the very trials of random search). Seconds are those of trials, looked up or spent, and
of the sampler. A search that did not reach the target is censored at the end of its trials.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np

from kit.errors import UserError
from kit.measure.work import Measurement, Setup, verified
from kit.record.document import CheckResult
from kit.techniques.tuning.simulation import History, first_trial, simulate
from kit.techniques.tuning.workload import Problem

PATIENCE = 2
"""A search is censored after so many times the trials; random search reaches its target by then in three of four."""
TARGETS, CHECKED = 201, 9
"""Random searches whose median loss is the target, and searches whose median held-out loss is checked, where trials are
looked up; one each where they are real."""


@dataclass(frozen=True, eq=False)
class Target:
    """A loss to reach. problem: opened in each process; trials: those of random search; mean_s: of one trial."""

    problem: Callable[[], Problem]
    trials: int
    loss: float
    mean_s: float


def target(problem: Callable[[], Problem], trials: int) -> Target:
    """Return the median loss of random search after `trials` trials. Raise `UserError` if its trials fail."""
    opened = problem()
    first_trial(opened)
    seeds = range(1, 1 + (TARGETS if opened.simulated else 1))
    histories = [simulate("random", opened, trials=trials, seed=seed) for seed in seeds]
    loss = float(np.median([history.after(trials) for history in histories]))
    if math.isinf(loss):
        reason = next((trial.reason for trial in histories[0].trials if trial.reason), "none was complete")
        raise UserError(f"{opened.name}: all {trials} trials of random search failed ({reason}); fix the objective")
    mean_s = np.mean([trial.work_s for history in histories for trial in history.trials])
    return Target(problem, trials, loss, float(mean_s))


@dataclass(frozen=True)
class TimeToTarget:
    """A search by its name: called with a `Target`, it returns what runs once in each round."""

    search: str

    def __call__(self, target: Target) -> Setup:
        """Open the problem in this process, and run its first trial."""
        problem = target.problem()
        first_trial(problem)
        run = partial(simulate, self.search, problem, trials=target.trials)
        last: dict[str, History] = {}

        def call(seed: int) -> Measurement:
            most = PATIENCE * target.trials
            history = run(seed=seed, draws=draws(self.search, seed), target=target.loss, at_most=most)
            last["history"] = history
            return measurement(history, target, problem, lambda: chosen_loss(history))

        def chosen_loss(first: History) -> float:
            loss, more = problem.held_out or problem.truth, range(1, CHECKED) if problem.simulated else ()
            chosen = [history.chosen(target.trials) for history in (first, *(run(seed=seed) for seed in more))]
            return float(np.median([math.inf if setting is None else loss(setting) for setting in chosen]))

        def proof() -> Any:
            trials = last["history"].trials
            pruned = sum(trial.state == "pruned" for trial in trials)
            return verified(search=self.search, trials=len(trials), pruned=pruned)

        return Setup(call, proof, seeded=True)


def draws(search: str, seed: int) -> int:
    """Return the sampler's own seed in the round of this seed."""
    return int(np.random.SeedSequence([seed, crc32(search.encode())]).generate_state(1)[0])


def measurement(history: History, target: Target, problem: Problem, answer: Callable[[], float]) -> Measurement:
    """Return a round's seconds and metrics; a censored search has at least the time of as many random trials, since
    cheap trials must not make a search look fast that never reached the target."""
    reached, n = history.reached(target.loss), target.trials
    seconds = reached.ended_s if reached else max(history.trials[-1].ended_s, PATIENCE * n * target.mean_s)
    first, chosen = history.trials[:n], history.chosen(n)
    metrics = {
        "reached": float(reached is not None),
        "work s": sum(trial.work_s for trial in first),
        "sampler s": sum(trial.sampler_s for trial in first),
    }
    if problem.held_out and chosen is not None:
        metrics["held-out loss"] = problem.held_out(chosen)
    return Measurement(seconds, metrics, answer)


# Quality check --------------------------------------------------------------------------------------------------------


def check(problem: Problem) -> Callable[[float, float], CheckResult] | None:
    """Return a check that a search passes where its median chosen setting is no worse than the defaults, on held-out
    data or by the known function; None without defaults, or where neither decides."""
    loss, by = problem.held_out or problem.truth, "held-out loss" if problem.held_out else "loss without noise"
    if not problem.default or not loss:
        return None
    default = float(loss(problem.default))

    def beats_defaults(answer: float, reference: float) -> CheckResult:
        state = "passed" if answer <= default else "failed"
        note = "" if state == "passed" else f"{by} {answer:.4g}; the defaults have {default:.4g}"
        return CheckResult(state=state, metric=by, value=answer, threshold=default, note=note)

    return beats_defaults
