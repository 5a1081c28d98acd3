"""Which trials of a shared search count: rules over what the storage shows, the same for everyone who looks.

A search of N trials has N places. **The first N trials by number that are not a repetition have them**; whoever asks
for a trial beyond withdraws it at once. Numbers are given by the storage, in order, so no race can change who has a
place: among those with a lower number the first N never withdraw. A place is kept when its worker dies: the trial
failed as `lost`, a repetition of it with the same setting waits, and that one counts instead. Of two repetitions of
one trial, put there by two who noticed at once, the lower number has the place. So each place counts once, however it
went.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

WORKER, FATE, REASON, REPEATS = "kit:worker", "kit:fate", "kit:reason", "kit:repeats"
"""Attributes of a trial: who has it ([crew, number]); why it does not count; why it failed; what it repeats ([first
number, last number, attempt])."""
LOST, WITHDRAWN = "lost", "withdrawn"

GIVE_UP = 10
"""A search of which the first trials all fail, so many, is over: its objective is broken."""
ATTEMPTS = 3
"""A trial that has killed so many workers has failed."""


def first_number(trial: "FrozenTrial") -> int:
    """Return the number under which this trial was first tried: its chance is drawn from it."""
    return trial.user_attrs.get(REPEATS, [trial.number])[0]


def attempt(trial: "FrozenTrial") -> int:
    """Return how often this trial has been begun, this time included."""
    return trial.user_attrs.get(REPEATS, [0, 0, 1])[2]


def counts(trial: "FrozenTrial") -> bool:
    """Tell whether a trial came to a loss: complete, or pruned."""
    return trial.state.name == "COMPLETE" or (trial.state.name == "PRUNED" and REASON not in trial.user_attrs)


def failed(trial: "FrozenTrial") -> bool:
    """Tell whether a trial failed by itself, and so has used its place up."""
    return trial.state.name in ("FAIL", "PRUNED") and not counts(trial) and FATE not in trial.user_attrs


def lost(trial: "FrozenTrial") -> bool:
    """Tell whether a trial died with its worker and is to be repeated."""
    return trial.state.name == "FAIL" and trial.user_attrs.get(FATE) == LOST


def withdrawn(trial: "FrozenTrial") -> bool:
    """Tell whether a trial had no place."""
    return trial.user_attrs.get(FATE) == WITHDRAWN and not counts(trial)


def has_no_place(trial: "FrozenTrial", trials: Sequence["FrozenTrial"], wanted: int) -> bool:
    """Tell whether a trial that was just asked for is to be withdrawn."""
    lower = [other for other in trials if other.number < trial.number]
    if repeats := trial.user_attrs.get(REPEATS):
        return any(other.user_attrs.get(REPEATS, [0, None])[1] == repeats[1] for other in lower)
    return _places(lower) >= wanted


def has_room(trials: Sequence["FrozenTrial"], wanted: int) -> bool:
    """Tell whether there is something to ask for: a place that nobody has, or a trial that waits."""
    waits = any(trial.state.name == "WAITING" for trial in trials)
    return not hopeless(trials, wanted) and (waits or _places(trials) < wanted)


def is_over(trials: Sequence["FrozenTrial"], wanted: int) -> bool:
    """Tell whether all places are used up, or the search is given up."""
    return sum(counts(trial) or failed(trial) for trial in trials) >= wanted or hopeless(trials, wanted)


def hopeless(trials: Sequence["FrozenTrial"], wanted: int) -> bool:
    """Tell whether none counts, and as many failed as show that the objective is broken."""
    return not any(map(counts, trials)) and sum(map(failed, trials)) >= min(GIVE_UP, wanted)


def unrepeated(trials: Sequence["FrozenTrial"]) -> list["FrozenTrial"]:
    """Return the lost trials that nobody has put back: whoever meant to was lost itself."""
    repeated = {trial.user_attrs[REPEATS][1] for trial in trials if REPEATS in trial.user_attrs}
    return [trial for trial in trials if lost(trial) and trial.number not in repeated]


def _places(trials: Sequence["FrozenTrial"]) -> int:
    return sum(REPEATS not in trial.user_attrs and not withdrawn(trial) for trial in trials)
