"""What a notebook's parameters name: what is searched, on which data, and whether the numbers among them can be."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial

from kit.errors import UserError
from kit.techniques.tuning import equal_time
from kit.techniques.tuning.problem import Problem
from kit.techniques.tuning.problems import PROBLEMS, models, own, tables
from kit.techniques.tuning.problems.models import MODELS
from kit.techniques.tuning.searches import SEARCHES

MOST_WORKERS = 1024


def check(
    *,
    variants: Sequence[str] = (),
    trials: Sequence[int] = (2,),
    workers: Sequence[int] = (1,),
    seconds: float = 1.0,
    price_per_hour: float = 0.0,
) -> None:
    """Raise `UserError` for the first of a notebook's parameters that can't be."""
    known = list(dict.fromkeys([*SEARCHES, *equal_time.METHODS]))
    for unknown in (name for name in variants if name not in known):
        raise UserError(f"variants= names {unknown!r}, which is none; {_hint(str(unknown), known)}")
    if not trials:
        raise UserError("trials= is empty; give one number of trials or more, as [16, 64]")
    _whole("trials", trials, 2, 10_000)
    _whole("workers", workers, 1, MOST_WORKERS)
    if not _number(seconds) or not 0 < seconds < float("inf"):
        raise UserError(f"seconds={seconds!r} can't be; give a number above 0")
    if not _number(price_per_hour) or not 0 <= price_per_hour < float("inf"):
        raise UserError(f"price_per_hour={price_per_hour!r} can't be; give a price of 0 or more")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(name: str, values: Sequence[int], least: int, most: int) -> None:
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise UserError(f"{name}= has {value!r}; give whole numbers from {least} to {most:,}")


def _hint(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


def problem(objective: str, space: str, data: str, target: str) -> Callable[[], Problem]:
    """Return what opens the problem of that name, in any process.

    objective: a recorded grid or a known function, as "digits net"; a model on `data`, "boosted trees" or "network";
    or an own function, "package.module:function", over `space`. Raise `UserError`, with what there is, for another.
    """
    if ":" in objective:
        opening = partial(own.problem, objective, space or None)
    elif space:
        raise UserError(
            f"space={space!r} is for an objective of your own, as 'package.module:function'; leave it empty"
        )
    elif objective in MODELS:
        opening = partial(_on_table, objective, data, target)
    elif objective in PROBLEMS:
        opening = PROBLEMS[objective]
    else:
        known = [*PROBLEMS, *MODELS]
        raise UserError(
            f"no objective is called {objective!r}; {_hint(objective, known)}. Your own is 'package.module:function'"
        )
    opening()  # a mistake is told now, not from a worker
    return opening


def _on_table(model: str, data: str, target: str) -> Problem:
    return models.problem(model, tables.table(data, target))


def brief(objective: str, space: str) -> Callable[[], Problem]:
    """Return real trials for workers to share: the own objective where there is one, else boosted trees on a few rows
    of digits, of about a tenth of a second each."""
    return partial(own.problem, objective, space or None) if ":" in objective else _brief


def _brief() -> Problem:
    return models.problem("boosted trees", tables.table("digits", ""), folds=2, rows=300)
