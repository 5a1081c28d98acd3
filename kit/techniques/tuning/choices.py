"""What a notebook's parameters name: what is searched, on which data, and whether the numbers among them can be."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from hashlib import file_digest, sha256
from pathlib import Path

from kit.errors import UserError
from kit.record import words
from kit.techniques.address import resolve
from kit.techniques.tuning import equal_time
from kit.techniques.tuning.clock import simulate
from kit.techniques.tuning.judged import judge
from kit.techniques.tuning.problem import Problem
from kit.techniques.tuning.problems import PROBLEMS, models, own, tables
from kit.techniques.tuning.problems.models import MODELS
from kit.techniques.tuning.problems.tables import Table
from kit.techniques.tuning.searches import SEARCHES
from kit.techniques.tuning.workers import storages
from kit.techniques.tuning.workers.search import Found

MOST_WORKERS = 1024
DEAR = "GP"
"""Takes seconds a search: ranked over problems only where it is asked for by name."""
SHARED = (
    "1 process", "1 process, journal file", "2 processes, journal file", "2 processes, SQLite",
    "2 processes, gRPC proxy", "2 processes, Dask",
)  # fmt: skip
"""How real workers share a search."""
ROWS = 4_000
"""Of a built-in table, that trials see: many trials fit into seconds."""
LEAST_RUNS, OVERTIME = 13, 4
"""Runs of each search that a verdict takes at least; times that a race may take of its seconds."""
WHOLE_S = 10.0
"""Seconds from which on a size is no mere trial of the notebook."""
BRIEF = 1_300
"""Rows of digits that brief trials see."""
RANKED = PROBLEMS
"""What searches are ranked over."""


def check(
    *,
    variants: Sequence[str] = (),
    trials: Sequence[int] = (2,),
    workers: Sequence[int] = (1,),
    seconds: float = 1.0,
    price_per_hour: float = 0.0,
    storage: str = "",
) -> None:
    """Raise `UserError` for the first of a notebook's parameters that can't be."""
    known = list(dict.fromkeys([*SEARCHES, *equal_time.METHODS, *SHARED]))
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
    if storage.startswith(storages.TCP):
        storages.cluster(storage).close()
    elif storage and not storages.on_dask(storage):
        storages.opened(storage)


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
        opening = _own(objective, space)
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
            f"no objective is called {objective!r}; {_hint(objective, known)} (your own is 'package.module:function')"
        )
    opening()  # a mistake is told now, not from a worker
    return opening


def _own(objective: str, space: str) -> Callable[[], Problem]:
    return partial(own.problem, objective, space or None)


def trial_s(problem: Problem) -> float:
    """Return the seconds of a trial, the mean of two settings by chance."""
    return simulate(SEARCHES["random"], problem, trials=2, seed=0).work_s / 2


def check_time(problem: Problem, trials: Sequence[int], variants: Sequence[str], seconds: float) -> None:
    """Raise `UserError` where trials are real and so slow that a race could not be told in its time, before it begins.
    Each search is run three times before the rounds, and ten rounds resolve something at the earliest."""
    if problem.simulated:
        return
    each_s, most = trial_s(problem), max(trials)
    racing = 2 + len([name for name in SEARCHES if name != "random" and (name in variants or not variants)])
    needed_s = LEAST_RUNS * racing * most * each_s
    if needed_s > OVERTIME * seconds:
        fewer = max(2, int(most * OVERTIME * seconds / needed_s))
        raise UserError(
            f"a trial of {problem.name} takes {words.duration(each_s)}, so a race of {racing - 1} searches at {most} "
            f"trials takes {words.duration(needed_s)} at least; give seconds={math.ceil(needed_s / OVERTIME)}, about "
            f"trials=[{fewer}], or some of the variants="
        )


def to_share(problem: Problem, trials: Sequence[int], seconds: float) -> int:
    """Return how many real trials workers share, so that a search takes a tenth of the time at most: 4 to 12."""
    return max(4, min(12, 2 * min(trials), int(seconds / 10 / max(trial_s(problem), 1e-3))))


def _on_table(model: str, data: str, target: str, rows: int | None = None) -> Problem:
    return models.problem(model, tables.table(data, target), rows=rows)


def ranked(variants: Sequence[str]) -> list[str]:
    """Return the searches to rank over problems: those asked for that are cheap and don't prune, which problems of one
    step don't allow; random search is always among them."""
    asked = [name for name in SEARCHES if name in variants or not variants]
    whole = [name for name in asked if "+" not in name and (name != DEAR or variants)]
    return list(dict.fromkeys(["random", *whole, *(["TPE"] if len(whole) < 2 else [])]))


def of_ranks(seconds: float) -> tuple[int, int]:
    """Return how many trials a search has and how many seeds, when searches are ranked; fewer where time is short."""
    return (30, 20) if seconds >= WHOLE_S else (10, 5)


def scaled(variants: Sequence[str]) -> list[str]:
    """Return the searches that get more workers: random search, and one that learns."""
    learning = [name for name in ("TPE", "CMA-ES", "Hyperopt TPE") if name in variants or not variants]
    return ["random", *(learning[:1] or ["TPE"])]


def shared(variants: Sequence[str]) -> list[str]:
    """Return the ways of sharing a search to compare: those asked for, or, where others are, one and two processes on a
    journal file."""
    asked = [name for name in SHARED if name in variants or not variants]
    return list(dict.fromkeys([*(asked or SHARED[:3]), SHARED[0], SHARED[2]]))


def methods(variants: Sequence[str]) -> list[str] | None:
    """Return the methods that get the same time on the table, the defaults and one search among them; None: all."""
    asked = [name for name in equal_time.METHODS if name in variants and name != "defaults"]
    return ["defaults", *(asked or ["TPE"])] if variants else None


def table(objective: str, data: str, target: str) -> Table | None:
    """Return the table of that name, or an own one; None beside an own objective, which has none."""
    return None if ":" in objective else tables.table(data, target)


def model(objective: str) -> str:
    """Return the model that is tuned on the table."""
    return objective if objective in MODELS else "boosted trees"


def rows(data: str) -> int | None:
    """Return how many rows of a table of this kit trials see, so that many fit into seconds; all of an own one."""
    return ROWS if data in tables.BUILT_IN else None


def brief(objective: str, space: str) -> Callable[[], Problem]:
    """Return real trials for workers to share: the own objective where there is one, else boosted trees that tell even
    digits from odd ones, of some hundredths of a second each."""
    return _own(objective, space) if ":" in objective else _even


def _even() -> Problem:
    digits = tables.table("digits", "")
    even = replace(digits, name="even digits", labels=digits.labels % 2, classes=("even", "odd"))
    return models.problem("boosted trees", even, folds=2, rows=BRIEF)


def wide(objective: str, space: str, data: str, target: str) -> Callable[[], Problem]:
    """Return what is really searched, on all cores: the own objective, else the model on the table."""
    if ":" in objective:
        return _own(objective, space)
    return partial(_on_table, model(objective), data, target, rows(data))


def name(problem: Problem, objective: str, *files: str) -> str:
    """Return the name of a search of this problem: asked for again it is gone on with where its storage outlives it,
    but not if the space, an own objective's code or one of the files has changed meanwhile."""
    module = inspect.getsourcefile(resolve(objective)) if ":" in objective else None
    seen = [problem.name, objective, *(f"{key} {kind}" for key, kind in problem.space.items())]
    for path in (Path(file) for file in (*files, module or "") if file):
        seen += [path.name, _digest(path)] if path.is_file() else [str(path)]
    return f"tuning {sha256(repr(seen).encode()).hexdigest()[:10]}"


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


def found_in_words(opening: Callable[[], Problem], found: Found) -> tuple[str, str]:
    """Return in words what a search has found, and what that is worth beside the defaults."""
    problem, trial = opening(), found.best
    if trial is None:
        return f"on {problem.name} no trial came to its end.", "there is nothing to judge."
    setting = ", ".join(f"{name} {words.cell(value)}" for name, value in trial.setting.items())
    what = f"{words.count(len(found.counted), 'trials')} by {words.count(found.workers, 'workers')}"
    try:
        worth = judge(problem, trial.setting).in_words()
    except UserError as error:  # no defaults, or they can't be run: the rest of what was found stands
        worth = f"not judged: {error}."
    return f"on {problem.name}, {what}: {setting}.", worth
