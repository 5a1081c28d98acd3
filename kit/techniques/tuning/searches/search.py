"""What every search is: whoever has a worker free asks it for a setting, and tells it what came of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from kit.techniques.tuning.problem import Problem, Setting


@dataclass(frozen=True, eq=False)
class Asked:
    """A trial that a search asks for. number: from 0; handle: the search's own."""

    number: int
    setting: Setting
    handle: Any = None


class Search(Protocol):
    """One search under way. Several trials may be asked for before the first is told of."""

    def ask(self) -> Asked | None:
        """Return the next trial, or None when there is nothing left to try (a grid at its end)."""

    def tell(self, asked: Asked, loss: float | None, pruned: bool = False) -> None:
        """Say how a trial ended. loss: of its last step; None if it failed. pruned: it was stopped before its end."""

    def stops(self, asked: Asked, step: int, loss: float) -> bool:
        """Return whether the trial is to end here, with so many units done and this loss. Without pruning: never."""


Opening = Callable[[Problem, int, int], Search]
"""opening(problem, trials, seed) begins a search. trials: how many it will be given, which some plan by."""
