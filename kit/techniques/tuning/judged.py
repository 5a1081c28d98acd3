"""Did tuning pay? The setting found and the defaults, each fitted again and judged by what no trial saw."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kit.errors import UserError
from kit.record import words
from kit.techniques.tuning.problem import Problem, Setting, TrialFailed
from kit.techniques.tuning.problems.models import OnTable, losses, mean, measure
from kit.techniques.tuning.problems.tables import Table

CONFIDENCE = 0.95
RESAMPLES = 2000
FEWEST = 8
"""Rows or groups under which no interval is told: the bootstrap's would be too narrow."""
RARE = 0.1
"""A class with a smaller share than this is judged by average precision too."""
RUNS = 8
FRESH = 1_000_003
"""Seeds of runs of an own objective that are judged begin here: no trial had them."""


@dataclass(frozen=True)
class Judged:
    """How a setting does beside the defaults.

    loss, defaults: of the two; difference: the first less the second; low, high: its 95 % interval, None where there
    are too few to tell. by: of what they are, as "1,250 held-out rows". measure: what the loss is. scores: measure for
    people → (of the setting, of the defaults), None where it is not defined. note: what limits this.
    """

    loss: float
    defaults: float
    low: float | None
    high: float | None
    by: str
    measure: str = "loss"
    scores: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    note: str = ""

    @property
    def difference(self) -> float:
        """The setting's loss less the defaults'."""
        return self.loss - self.defaults

    @property
    def pays(self) -> bool:
        """Whether the setting is shown to be better: all of the interval lies below 0."""
        return self.high is not None and self.high < 0

    def in_words(self) -> str:
        """Say it in a sentence or two."""
        ends = "" if self.low is None else f" [{words.number(self.low)}, {words.number(self.high)}]"
        told = (
            f"{self.measure} {words.number(self.loss)} against the defaults' {words.number(self.defaults)} on {self.by}"
            f" ({self.difference:+.3g}{ends})"
        )
        scores = [
            f"{name} {words.number(ours)} against {words.number(theirs)}"
            for name, (ours, theirs) in self.scores.items()
            if ours is not None and theirs is not None
        ]
        said = "; ".join([told, *scores])
        note = f" {self.note}" if self.note else ""
        return f"{'Tuning paid' if self.pays else f'Tuning did not pay: {self._why_not()}'}: {said}.{note}"

    def _why_not(self) -> str:
        if self.low is None:
            return "it can't be told here"
        if self.low > 0:
            return "the defaults are better"
        if self.low == self.high == 0:
            return "it is as the defaults"
        return "it is not shown to beat the defaults"


def judge(problem: Problem, setting: Setting, default: Setting | None = None, runs: int = RUNS) -> Judged:
    """Judge a setting beside the defaults, or `default`.

    On a table both are fitted again, and judged by the rows that no trial saw. An own objective, which has no such
    rows, is asked `runs` times for each, with seeds that no trial had, the same for both. Raise `UserError` if there
    are no defaults, or if either can't be judged at all.
    """
    default = problem.default if default is None else default
    if default is None:
        raise UserError(
            f"{problem.name} has no defaults to compare with; give each parameter of the space a default, or what you "
            "have now"
        )
    if isinstance(problem, OnTable):
        return of_predictions(problem.held, problem.predicted(setting), problem.predicted(default))
    return _of_runs(problem, setting, default, runs)


# On held-out rows -----------------------------------------------------------------------------------------------------


def of_predictions(held: Table, ours: np.ndarray, defaults: np.ndarray, seed: int = 0) -> Judged:
    """Judge what was foretold for held-out rows beside what the defaults foretold for them: probabilities [rows,
    classes] or numbers [rows]. The interval draws rows anew, or groups where there are some (paired bootstrap)."""
    for predicted, whose in ((ours, "the setting's"), (defaults, "the defaults'")):
        if not np.isfinite(predicted).all():
            raise UserError(f"{whose} model foretells NaN or infinities for held-out rows; narrow the space")
    each = [losses(held, predicted) for predicted in (ours, defaults)]
    low, high, units = _interval(held, *each, seed)
    by = f"{len(held):,} held-out rows" + (f" of {units:,} groups" if held.groups is not None else "")
    note = "" if low is not None else f"{units} groups are too few for an interval; {FEWEST} or more have one."
    mine, base = _scores(held, ours), _scores(held, defaults)
    scores = {name: (mine[name], base[name]) for name in mine}
    return Judged(mean(held, each[0]), mean(held, each[1]), low, high, by, measure(held), scores, note)


def _interval(held: Table, ours: np.ndarray, theirs: np.ndarray, seed: int) -> tuple[float | None, float | None, int]:
    """Return the interval of the difference in loss, and how many units were drawn."""
    unit = np.arange(len(held)) if held.groups is None else np.unique(held.groups, return_inverse=True)[1]
    units = int(unit.max()) + 1
    if units < FEWEST:
        return None, None, units
    sums = np.stack([np.bincount(unit, weights, units) for weights in (ours, theirs, np.ones(len(held)))])
    random = np.random.default_rng(seed)
    drawn = np.array([sums[:, random.integers(units, size=units)].sum(1) for _ in range(RESAMPLES)])
    means = drawn[:, :2] / drawn[:, 2:]
    means = np.sqrt(means) if held.kind == "numbers" else means
    low, high = np.quantile(means[:, 0] - means[:, 1], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high), units


def _scores(held: Table, predicted: np.ndarray) -> dict[str, float | None]:
    """Return what people read: accuracy, AUC, average precision where a class is rare; R² of numbers."""
    from sklearn import metrics

    if held.kind == "numbers":
        return {"R²": float(metrics.r2_score(held.labels, predicted))}
    found: dict[str, float | None] = {"accuracy": float((predicted.argmax(1) == held.labels).mean())}
    present = np.bincount(held.labels, minlength=len(held.classes))
    judged = [label for label in range(len(held.classes)) if 0 < present[label] < len(held)]
    judged = judged[-1:] if len(held.classes) == 2 else judged  # of two classes one says it all
    of_class = [(held.labels == label, predicted[:, label]) for label in judged]
    found["AUC"] = _mean([metrics.roc_auc_score(*one) for one in of_class])
    if len(held.classes) == 2 and present.min() < RARE * len(held):
        rare = int(present.argmin())
        found["average precision"] = float(metrics.average_precision_score(held.labels == rare, predicted[:, rare]))
    return found


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


# On runs of an own objective ------------------------------------------------------------------------------------------


def _of_runs(problem: Problem, setting: Setting, default: Setting, runs: int) -> Judged:
    """Judge by paired runs, or by the refit or the truth that the problem itself knows. Student's interval."""
    if runs < 2:
        raise UserError(f"runs={runs} have no spread to tell an interval by; give 2 or more")
    if known := problem.truth or problem.final:
        ours, theirs = known(setting), known(default)
        by = "its loss without noise" if problem.truth else "what it holds out itself"
        ends = (ours - theirs,) * 2 if problem.truth else (None, None)
        note = "" if problem.truth else "It tells no losses of single rows, so there is no interval."
        return Judged(ours, theirs, *ends, by, note=note)
    pairs: list[list[float]] = []
    while len(pairs) < runs:
        pairs.append([last_loss(problem, one, FRESH + len(pairs)) for one in (setting, default)])
        if len(pairs) == 2 and pairs[0] == pairs[1]:
            note = (
                "The objective gives the same again: this is the loss that was searched, and nothing that no trial saw."
            )
            return Judged(*pairs[0], None, None, "the objective itself", note=note)
    ours, theirs = np.mean(pairs, axis=0)
    note = "It is the objective itself that was asked again, not data that no trial saw."
    ends = _student(np.subtract(*np.transpose(pairs)))
    return Judged(float(ours), float(theirs), *ends, f"{runs} fresh runs", note=note)


def last_loss(problem: Problem, setting: Setting, seed: int) -> float:
    """Return the loss at the end of a trial. Raise `UserError` if it fails."""
    loss = None
    try:
        for taken, step in enumerate(problem.trial(setting, seed), 1):
            loss = step.loss
            if (step.at or taken) >= problem.steps:
                break
    except TrialFailed as failure:
        raise UserError(f"{problem.name} can't be judged with {dict(setting)}: {failure}") from None
    if loss is None:
        raise UserError(f"{problem.name} can't be judged with {dict(setting)}: its trial has no step")
    return loss


def _student(differences: np.ndarray) -> tuple[float, float]:
    from scipy import stats

    middle, number = differences.mean(), len(differences)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, number - 1) * differences.std(ddof=1) / np.sqrt(number)
    return float(middle - half), float(middle + half)
