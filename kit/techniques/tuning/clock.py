"""One search from its first trial to its last, with any number of workers, on a simulated clock.

The sampler is real and so are its seconds; a trial's seconds are its own: looked up, drawn or just measured. Trials
end in the order in which they would with so many workers, and a worker that asks for the next one knows of those alone
that have ended by then.
"""

import heapq
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from kit.techniques.tuning.problem import Problem, Setting, Step, TrialFailed
from kit.techniques.tuning.searches.search import Asked, Opening, Search


@dataclass(frozen=True)
class Ended:
    """One trial. loss: of its last step, NaN if it failed; steps: units done; work_s: of its steps; search_s: the
    search's own seconds."""

    number: int
    setting: Setting
    started_s: float
    ended_s: float
    loss: float
    steps: int
    work_s: float
    search_s: float
    pruned: bool = False
    failed: str = ""

    @property
    def counts(self) -> bool:
        """Whether its setting may be chosen: it was neither pruned nor did it fail."""
        return not self.pruned and not self.failed


@dataclass(eq=False)
class History:
    """A search as it went: its trials in the order of their ends.

    workers: how many there were; truths: after each end, the loss of the setting that is then best by what trials
    showed: without noise where the problem knows it; infinite before there is one.
    """

    workers: int
    trials: list[Ended] = field(default_factory=list)
    truths: list[float] = field(default_factory=list)
    chosen: Setting | None = None
    _lowest: float = math.inf

    def add(self, trial: Ended, problem: Problem) -> None:
        """Take in the next trial that ended."""
        truth = self.truths[-1] if self.truths else math.inf
        if trial.counts and trial.loss < self._lowest:
            self._lowest, self.chosen = trial.loss, trial.setting
            truth = problem.truth(trial.setting) if problem.truth else trial.loss
        self.trials.append(trial)
        self.truths.append(truth)

    @property
    def span_s(self) -> float:
        """Seconds from the beginning to the last end."""
        return self.trials[-1].ended_s if self.trials else 0.0

    @property
    def utilisation(self) -> float:
        """Share of the workers' time that went into trials."""
        return sum(trial.work_s for trial in self.trials) / (self.workers * self.span_s) if self.span_s else 0.0

    @property
    def sampler_s(self) -> float:
        """Seconds of the search itself."""
        return sum(trial.search_s for trial in self.trials)

    @property
    def work_s(self) -> float:
        """Seconds of all steps."""
        return sum(trial.work_s for trial in self.trials)

    def after(self, trials: int) -> float:
        """Return the loss after so many ends, or after the last; infinite after none."""
        return self.truths[min(trials, len(self.truths)) - 1] if trials and self.truths else math.inf

    def at(self, seconds: float) -> float:
        """Return the loss at that time; infinite before the first end."""
        return self.after(int(np.searchsorted([trial.ended_s for trial in self.trials], seconds, side="right")))

    def reached(self, target: float) -> Ended | None:
        """Return the trial at whose end the loss was first `target` or less; None if it never was."""
        found = (trial for trial, truth in zip(self.trials, self.truths, strict=True) if truth <= target)
        return next(found, None)


@dataclass
class _Running:
    """A trial under way on a worker."""

    asked: Asked
    steps: Iterator[Step]
    started_s: float
    search_s: float
    work_s: float = 0.0
    taken: int = 0
    loss: float = math.nan
    pruned: bool = False
    failed: str = ""
    over: bool = False

    def advance(self, problem: Problem) -> float:
        """Take the next step. Return its seconds; of one that fails those that really passed, if trials are real."""
        began = time.perf_counter()
        try:
            step = next(self.steps)
        except StopIteration:
            self.over = True
            self.failed = "" if self.taken else "it gave no loss"
            return 0.0
        except TrialFailed as failure:
            self.failed, self.over = str(failure) or "it gave no reason", True
            lost_s = 0.0 if problem.simulated else time.perf_counter() - began
            self.work_s += lost_s
            return lost_s
        self.taken, self.loss = step.at or self.taken + 1, step.loss
        self.over = self.taken >= problem.steps
        self.work_s += step.seconds
        return step.seconds


def simulate(
    opening: Opening,
    problem: Problem,
    *,
    workers: int = 1,
    trials: int,
    seed: int,
    target: float = -math.inf,
    most: int = 0,
    least_s: float = 0.0,
    luck: int | None = None,
) -> History:
    """Return a search of `trials` trials by so many workers; it goes on, up to `most`, until it has reached `target`
    and has taken `least_s`.

    seed: of the chance within trials, so that trial n of two searches meets the same noise. luck: the search's own
    seed; None: the same.
    """
    search, history = opening(problem, trials, seed if luck is None else luck), History(workers)
    events: list[tuple[float, int, _Running | None]] = [(0.0, worker, None) for worker in range(workers)]
    later = itertools.count(workers)
    begun = 0
    while events:
        now, _, running = heapq.heappop(events)
        if running is None:
            wanted = begun < trials or (begun < most and (now < least_s or history.reached(target) is None))
            running = _begin(search, problem, now, seed) if wanted else None
            if running is None:
                continue
            begun, now = begun + 1, now + running.search_s
        else:
            heard_s = _hear(search, running)
            if running.over:
                history.add(_ended(running, now), problem)
                heapq.heappush(events, (now + heard_s, next(later), None))
                continue
            now += heard_s
        heapq.heappush(events, (now + running.advance(problem), next(later), running))
    return history


def _begin(search: Search, problem: Problem, now: float, seed: int) -> _Running | None:
    began = time.perf_counter()
    asked = search.ask()
    asked_s = time.perf_counter() - began
    if asked is None:
        return None
    chance = int(np.random.default_rng([seed, asked.number]).integers(2**31))
    return _Running(asked, problem.trial(asked.setting, chance), now, asked_s)


def _hear(search: Search, running: _Running) -> float:
    """Let the search hear of a step, and end the trial if it says so or if it is over. Return the seconds it took."""
    began = time.perf_counter()
    if not (running.failed or math.isfinite(running.loss)):
        running.failed, running.over = f"its loss was {running.loss}", True
    if not running.over and search.stops(running.asked, running.taken, running.loss):
        running.pruned = running.over = True
    if running.over:
        search.tell(running.asked, None if running.failed else running.loss, running.pruned)
    heard_s = time.perf_counter() - began
    running.search_s += heard_s
    return heard_s


def _ended(running: _Running, now: float) -> Ended:
    return Ended(
        running.asked.number,
        running.asked.setting,
        running.started_s,
        now,
        math.nan if running.failed else running.loss,
        running.taken,
        running.work_s,
        running.search_s,
        running.pruned,
        running.failed,
    )
