"""Which parameters matter: their shares in what the loss does, beside the share of a parameter that does nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kit.errors import UserError
from kit.record import words
from kit.record.document import Chart, Series, Table
from kit.techniques.tuning.problem import Problem, Setting, Space
from kit.techniques.tuning.searches.by_optuna import quietly

EVALUATORS = ("fANOVA", "PED-ANOVA")
RESAMPLES = 20
TREES = 16
NOTHING = "(nothing: chance alone)"
"""A parameter that is drawn at random and never used: what importance luck gives."""


@dataclass(frozen=True, eq=False)
class Importances:
    """Shares of the parameters, highest first, which sum to 1 with that of `NOTHING`.

    problem: its name; by: of EVALUATORS; trials: finished ones; least: that it takes.
    shares: mean over the resamples, with the lowest and the highest; empty where there are too few trials.
    evenly: the trials were set without regard to losses; else nothing is said to matter.
    matters: whose mean share is above that of nothing in every resample.
    """

    problem: str
    by: str
    trials: int
    least: int
    shares: dict[str, tuple[float, float, float]]
    evenly: bool
    matters: frozenset[str]

    @property
    def parameters(self) -> list[str]:
        """Return the parameters' names, the most important first."""
        return [name for name in self.shares if name != NOTHING]


def least(space: Space) -> int:
    """Return how many finished trials importances take: fewer show luck."""
    return max(20, 5 * len(space))


def importances(
    problem: Problem,
    settings: Sequence[Setting],
    losses: Sequence[float | None],
    seed: int = 0,
    *,
    evenly: bool = False,
    by: str = "fANOVA",
    resamples: int = RESAMPLES,
) -> Importances:
    """Return how much each parameter matters to the loss, from finished trials: pruned ones have another loss.

    By fANOVA (Hutter et al. 2014): the share of a parameter alone in the variance of a random forest over the space, of
    the loss's rank, so that a few awful trials don't decide it. By PED-ANOVA (Watanabe et al. 2023): how unlike the
    best tenth of the trials is to all. Each is repeated on trials drawn with replacement, beside a parameter that is
    drawn anew. Numbers on a log scale count on that scale. Trials whose loss is no finite number are left out.

    evenly: the settings are those of a random, quasi-random or grid search. One that learns crowds them, all at once in
    every parameter: of 36 parameters that do nothing 7 looked as if they mattered in searches by TPE, none in random
    ones (fANOVA, 60 trials). Raise UserError for another evaluator.
    """
    if by not in EVALUATORS:
        raise UserError(f"there is no evaluator {by!r}; it is one of {', '.join(EVALUATORS)}")
    kept = [(s, loss) for s, loss in zip(settings, losses, strict=True) if loss is not None and math.isfinite(loss)]
    if len(kept) < least(problem.space):
        return Importances(problem.name, by, len(kept), least(problem.space), {}, evenly, frozenset())
    with quietly():
        drawn = _drawn(problem.space, kept, by, resamples, np.random.default_rng(seed))
    order = sorted(drawn, key=lambda name: (name == NOTHING, -drawn[name].mean()))
    shares = {
        name: tuple(float(each) for each in (drawn[name].mean(), drawn[name].min(), drawn[name].max()))
        for name in order
    }
    matters = frozenset(name for name in order if evenly and drawn[name].mean() > drawn[NOTHING].max())
    return Importances(problem.name, by, len(kept), least(problem.space), shares, evenly, matters)


def _drawn(
    space: Space, kept: list[tuple[Setting, float]], by: str, resamples: int, chance: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return the shares of each parameter and of nothing, shape (resamples,)."""
    from optuna.distributions import FloatDistribution
    from scipy.stats import rankdata

    straight = {name: _straight(kind) for name, kind in space.items()} | {NOTHING: FloatDistribution(0.0, 1.0)}
    settings = [_on_its_scale(space, setting) for setting, _ in kept]
    ranks = rankdata([loss for _, loss in kept])
    found = []
    for _ in range(resamples):
        rows = chance.integers(len(kept), size=len(kept))
        nothing = chance.uniform(size=len(kept))
        drawn = [settings[row] | {NOTHING: float(nothing[row])} for row in rows]
        found.append(_shares(straight, drawn, ranks[rows], by, int(chance.integers(2**31))))
    return {name: np.array([shares[name] for shares in found]) for name in straight}


def _shares(space: Space, settings: list[Setting], values: np.ndarray, by: str, seed: int) -> dict[str, float]:
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances

    study = optuna.create_study()
    kinds = dict(space)
    study.add_trials(
        [
            optuna.trial.create_trial(params=dict(setting), distributions=kinds, value=float(value))
            for setting, value in zip(settings, values, strict=True)
        ]
    )
    forest = by == "fANOVA"
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=seed) if forest else PedAnovaImportanceEvaluator()
    return get_param_importances(study, evaluator=evaluator)


def _straight(kind):
    """Return a distribution on the scale that is searched: a log scale becomes a plain one of the logarithm."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(kind, CategoricalDistribution) or not kind.log:
        return kind
    return FloatDistribution(math.log(kind.low), math.log(kind.high))


def _on_its_scale(space: Space, setting: Setting) -> dict:
    return {
        name: math.log(setting[name]) if getattr(kind, "log", False) else setting[name] for name, kind in space.items()
    }


# ------------------------------------------------------------------------------------------------ shown


def table(found: Importances) -> Table:
    """Return the importances as a table; it has no rows, and says so, where there are too few trials."""
    rows = [
        [name, f"{100 * share:.0f} %", f"{100 * low:.0f} to {100 * high:.0f} %", _verdict(found, name)]
        for name, (share, low, high) in found.shares.items()
    ]
    columns = ["parameter", f"importance ({found.by})", "over resamples", "matters"]
    return Table(f"What the loss depends on: {found.problem}", columns, rows, in_words(found))


def chart(found: Importances) -> Chart:
    """Return the importances as bars. Raise UserError where there are too few trials."""
    if not found.shares:
        raise UserError(in_words(found))
    means, low, high = ([100 * each for each in values] for values in zip(*found.shares.values(), strict=True))
    title = f"What the loss depends on: {found.problem}"
    series = Series("importance", list(found.shares), means, low, high)
    return Chart(title, "parameter", f"importance by {found.by}, %", [series], "bars", note=in_words(found))


def in_words(found: Importances) -> str:
    """Return in a sentence or two which parameters matter, or that there are too few trials to say."""
    if not found.shares:
        return f"Too few trials to say which parameters matter: {found.trials} finished, and it takes {found.least}."
    trials = words.count(found.trials, "trials")
    if not found.evenly:
        first, (share, low, high) = next(iter(found.shares.items()))
        return (
            f"{first} has the largest share, {words.percent(share)} ({100 * low:.0f} to {100 * high:.0f} %, {trials}). "
            "A hint only: a search that learns crowds its trials, which makes parameters look important that are not; "
            "trials of random search would tell."
        )
    sure = [name for name in found.parameters if name in found.matters]
    rest = [name for name in found.parameters if name not in found.matters]
    said = (
        f"{words.listing(sure)} matter{'s' if len(sure) == 1 else ''}" if sure else "No parameter shows that it matters"
    )
    said += f"; {words.listing(rest)} can't be told from a parameter that does nothing" if sure and rest else ""
    return f"{said} ({trials}). This is of each parameter by itself."


def _verdict(found: Importances, name: str) -> str | None:
    if name == NOTHING or not found.evenly:
        return None
    return "yes" if name in found.matters else "not told"


def slices(
    problem: Problem,
    settings: Sequence[Setting],
    losses: Sequence[float | None],
    parameters: Sequence[str] = (),
    most: int = 3,
) -> list[Chart]:
    """Return a chart for each of the first `most` parameters: the loss of every finished trial over its values.

    parameters: in the order wanted, as `Importances.parameters`; all of the space if empty. Numbers are points, choices
    bars of the median with quartiles. Empty where no trial finished.
    """
    kept = [(s, loss) for s, loss in zip(settings, losses, strict=True) if loss is not None and math.isfinite(loss)]
    names = [*parameters, *(name for name in problem.space if name not in parameters)][:most] if kept else []
    return [_slice(problem, name, [(setting[name], loss) for setting, loss in kept]) for name in names]


def _slice(problem: Problem, name: str, spots: list[tuple]) -> Chart:
    title, y = f"{problem.name}: loss over {name}, lower is better", "loss of a trial"
    values = [loss for _, loss in spots]
    log_y = min(values) > 0 and max(values) > 30 * min(values)
    if hasattr(problem.space[name], "choices"):
        return Chart(title, name, f"{y}, median", [_by_choice(spots)], "bars", log_y=log_y, note="Lines are quartiles.")
    best = min(spots, key=lambda spot: spot[1])
    series = [Series("trials", *map(list, zip(*spots, strict=True))), Series("the best", [best[0]], [best[1]])]
    return Chart(title, name, y, series, "points", log_x=problem.space[name].log, log_y=log_y)


def _by_choice(spots: list[tuple]) -> Series:
    groups: Mapping[str, list[float]] = {}
    for choice, loss in spots:
        groups.setdefault(str(choice), []).append(loss)
    low, middle, high = (
        [float(np.quantile(losses, share)) for losses in groups.values()] for share in (0.25, 0.5, 0.75)
    )
    return Series("trials", list(groups), middle, low, high)
