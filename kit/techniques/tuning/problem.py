"""What is searched: a space of settings, and what a trial of one setting costs and yields. Read this first.

A trial is an iterator of steps (rungs: epochs, folds, trees so far). Whoever runs it takes the steps one by one and may
stop early: that is what pruning saves. A step tells its own seconds, so that one search runs on work that is done as on
work that is looked up.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Setting = Mapping[str, Any]
"""A value for each parameter of a space."""
Space = Mapping[str, "BaseDistribution"]
"""Optuna's distributions by name: floats, integers (both also on a log scale) and choices."""


class TrialFailed(Exception):
    """Raised by a step: this setting came to nothing, and the search goes on. Its text is the reason."""


@dataclass(frozen=True)
class Step:
    """What a trial has after one step.

    loss: lower is better, of this step, on the data that trials may see; seconds: what this step took, or would have;
    at: how much of the whole trial is done, in the problem's units (epochs, folds); 0: one unit more than before.
    """

    loss: float
    seconds: float
    at: int = 0


@dataclass(frozen=True, eq=False)
class Problem:
    """Something to tune.

    name: as a figure names it.
    space: what may be set.
    trial: trial(setting, seed) returns the steps of one trial, each worked out when it is asked for. seed: of all
        chance in it (folds, noise, durations); the same seed and setting give the same losses.
    steps: units of a whole trial (epochs, folds), 1 or more: it is over when a step has that many done.
    default: what somebody has who does not search.
    truth: truth(setting) returns the loss without noise, where that is known; None: what a trial shows is all there is.
    best: the smallest truth in the space, where it is known.
    final: final(setting) refits with all the data that trials may see and returns the loss on data that none saw; None
        where there is none (known functions).
    simulated: the seconds of the steps are looked up or drawn, not spent.
    note: what it is made of, in a sentence.
    """

    name: str
    space: Space
    trial: Callable[[Setting, int], Iterator[Step]]
    steps: int = 1
    default: Setting | None = None
    truth: Callable[[Setting], float] | None = None
    best: float | None = None
    final: Callable[[Setting], float] | None = None
    simulated: bool = False
    note: str = ""
