"""Which search is better, by ranks: paired by seed on one problem, over problems by a critical difference.

Regrets of different problems have no common scale, ranks have. What chance explains is a tie, and said so.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kit.errors import UserError
from kit.record import words
from kit.record.document import Chart, Series, Table

ALPHA = 0.05
TOLERANCE = 1e-9
RESAMPLES = 1999

Regrets = Mapping[str, np.ndarray]
"""By search, one regret a seed, shape (seeds,); the same seeds in the same order for each. Not finite: it failed."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """Searches by mean rank, best first.

    blocks: within what they were ranked, as `20 seeds of Branin`; number: of blocks.
    means, intervals: mean rank of each search, 1 is best, with its 95 % bootstrap interval.
    p: chance of such unlike mean ranks if the searches were all alike (Friedman's statistic, permuted within blocks).
    apart: pairs that chance does not explain.
    power: what such a test can see, in a sentence.
    ranks: of each search on each problem, where the blocks are problems.
    """

    blocks: str
    number: int
    means: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    p: float
    apart: frozenset[frozenset[str]]
    power: str
    ranks: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def groups(self) -> list[list[str]]:
        """Return the searches that are not told apart: runs of neighbours in rank, and what pairs there are beside."""
        names = list(self.means)
        ends = [max(end for end in range(i, len(names)) if self._alike(names[i : end + 1])) for i in range(len(names))]
        runs = [names[i : end + 1] for i, end in enumerate(ends) if end > i and (i == 0 or end > ends[i - 1])]
        pairs = [list(pair) for pair in itertools.combinations(names, 2) if self._alike(pair)]
        return runs + [pair for pair in pairs if not any(set(pair) <= set(run) for run in runs)]

    def tied(self, name: str) -> list[str]:
        """Return the searches that `name` is not told apart from."""
        return [other for other in self.means if other != name and frozenset((name, other)) not in self.apart]

    def _alike(self, names: Sequence[str]) -> bool:
        return not any(frozenset(pair) in self.apart for pair in itertools.combinations(names, 2))


# ------------------------------------------------------------------------------------------------ rankings


def on_problem(problem: str, regrets: Regrets, *, tolerance: float = TOLERANCE, seed: int = 0) -> Ranking:
    """Return the ranking on one problem, its seeds as blocks.

    Pairs are told apart by Wilcoxon's signed-rank test on the regrets of the same seed, with Holm's correction for all
    pairs (Holm 1979). Regrets that differ by `tolerance` or less are tied.
    """
    names, values = _paired(problem, regrets)
    ranks = ranked(values.T, tolerance)
    chance = np.random.default_rng(seed)
    drawn = ranks[chance.integers(len(ranks), size=(RESAMPLES, len(ranks)))].mean(axis=1)
    pairs = list(itertools.combinations(range(len(names)), 2))
    found = holm([signed_rank(values[a], values[b], tolerance) for a, b in pairs])
    apart = {frozenset((names[a], names[b])) for (a, b), p in zip(pairs, found, strict=True) if p <= ALPHA}
    blocks = words.count(len(ranks), "seeds")
    return _ranking(
        f"{blocks} of {problem}", names, ranks, drawn, apart, _power_of_seeds(len(ranks), len(pairs)), chance
    )


def over_problems(
    regrets: Mapping[str, Regrets], *, tolerance: float | Mapping[str, float] = TOLERANCE, seed: int = 0
) -> Ranking:
    """Return the ranking over problems, each problem one block with the ranks of the medians over its seeds.

    Seeds of one problem are no further problems: more of them make a rank surer, not the ranking. Pairs are told apart
    by Nemenyi's critical difference (Demšar 2006, JMLR 7) once Friedman's test says that not all are alike. Intervals
    are by bootstrap over problems, and over the seeds of each. tolerance: of all, or by problem.
    """
    paired = {problem: _paired(problem, found) for problem, found in regrets.items()}
    names = _same_searches({problem: names for problem, (names, _) in paired.items()})
    values = {problem: found for problem, (_, found) in paired.items()}
    near = {
        problem: tolerance.get(problem, TOLERANCE) if isinstance(tolerance, Mapping) else tolerance
        for problem in values
    }
    ranks = np.array([ranked(np.median(found, axis=1), near[problem]) for problem, found in values.items()])
    chance, least = np.random.default_rng(seed), critical_difference(len(names), len(ranks))
    blocks, power = words.count(len(ranks), "problems"), _power_of_problems(len(names), least)
    drawn = _drawn([(found, near[problem]) for problem, found in values.items()], chance)
    found = _ranking(blocks, names, ranks, drawn, set(), power, chance)
    pairs = itertools.combinations(names, 2) if found.p <= ALPHA else ()
    apart = frozenset(frozenset((a, b)) for a, b in pairs if abs(found.means[a] - found.means[b]) > least)
    by_problem = {
        problem: dict(zip(names, row.tolist(), strict=True)) for problem, row in zip(values, ranks, strict=True)
    }
    return replace(found, apart=apart, ranks=by_problem)


def _same_searches(names: Mapping[str, list[str]]) -> list[str]:
    first = next(iter(names), None)
    if first is None:
        raise UserError("there are regrets of no problem; ranks need one or more")
    if odd := [problem for problem in names if names[problem] != names[first]]:
        raise UserError(f"{odd[0]} has other searches than {first}; run the same searches on each problem")
    return names[first]


def _paired(problem: str, regrets: Regrets) -> tuple[list[str], np.ndarray]:
    """Return names, and regrets of shape (searches, seeds), infinite where a search failed."""
    if len(regrets) < 2:
        raise UserError(f"{problem} has regrets of {len(regrets)} searches; ranks need two or more")
    numbers = {name: np.size(found) for name, found in regrets.items()}
    if len(set(numbers.values())) > 1 or 0 in numbers.values():
        told = ", ".join(f"{name} {number}" for name, number in numbers.items())
        raise UserError(f"{problem} has unequal numbers of seeds ({told}); run every search with the same seeds")
    values = np.array([np.asarray(found, float) for found in regrets.values()])
    return list(regrets), np.where(np.isfinite(values), values, np.inf)


def _ranking(
    blocks: str,
    names: list[str],
    ranks: np.ndarray,
    drawn: np.ndarray,
    apart: set,
    power: str,
    chance: np.random.Generator,
) -> Ranking:
    means, (low, high) = ranks.mean(axis=0), np.quantile(drawn, [ALPHA / 2, 1 - ALPHA / 2], axis=0)
    order = np.argsort(means, kind="stable")
    return Ranking(
        blocks,
        len(ranks),
        {names[i]: float(means[i]) for i in order},
        {names[i]: (float(low[i]), float(high[i])) for i in order},
        friedman(ranks, chance),
        frozenset(apart),
        power,
    )


def _drawn(values: list[tuple[np.ndarray, float]], chance: np.random.Generator) -> np.ndarray:
    """Return mean ranks, shape (resamples, searches): problems drawn with replacement, and in each seeds drawn anew."""
    of_problem = []
    for found, tolerance in values:
        seeds = chance.integers(found.shape[1], size=(RESAMPLES, found.shape[1]))
        of_problem.append(ranked(np.median(found[:, seeds], axis=2).T, tolerance))
    size = (RESAMPLES, len(values))
    problems, resamples = chance.integers(len(values), size=size), chance.integers(RESAMPLES, size=size)
    return np.array(of_problem)[problems, resamples].mean(axis=1)


# ------------------------------------------------------------------------------------------------ tests


def ranked(values: np.ndarray, tolerance: float = 0.0) -> np.ndarray:
    """Return ranks along the last axis, 1 for the lowest; neighbours within `tolerance` share the mean of theirs."""
    order = np.argsort(values, axis=-1, kind="stable")
    with np.errstate(invalid="ignore"):
        apart = np.diff(np.take_along_axis(values, order, -1), axis=-1) > tolerance
    place = np.concatenate([np.zeros_like(apart[..., :1], int), np.cumsum(apart, axis=-1)], axis=-1)
    group = np.empty_like(place)
    np.put_along_axis(group, order, place, -1)
    mine, others = group[..., :, None], group[..., None, :]
    return (others < mine).sum(-1) + ((others == mine).sum(-1) + 1) / 2


def friedman(ranks: np.ndarray, chance: np.random.Generator) -> float:
    """Return the chance of mean ranks so unlike if all were alike, from ranks of shape (blocks, searches).

    By permutation within blocks: the usual chi-squared needs more blocks than there are problems here.
    """

    def unlike(each: np.ndarray) -> np.ndarray:
        return np.square(each.mean(axis=-2) - (ranks.shape[1] + 1) / 2).sum(axis=-1)

    shuffled = chance.permuted(np.broadcast_to(ranks, (RESAMPLES, *ranks.shape)), axis=-1)
    return float((1 + np.sum(unlike(shuffled) >= unlike(ranks) - 1e-9)) / (1 + RESAMPLES))


def signed_rank(one: np.ndarray, other: np.ndarray, tolerance: float = 0.0) -> float:
    """Return the p of Wilcoxon's signed-rank test of pairs, two-sided; pairs within `tolerance` are left out."""
    from scipy.stats import wilcoxon

    with np.errstate(invalid="ignore"):  # of a pair that failed twice nothing is known
        differences = np.subtract(one, other)
    known = differences[np.abs(differences) > tolerance]
    return float(wilcoxon(known).pvalue) if len(known) else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in the order given (Holm 1979)."""
    corrected, least = [0.0] * len(ps), 0.0
    for place, i in enumerate(np.argsort(ps, kind="stable")):
        least = max(least, min(1.0, (len(ps) - place) * ps[i]))
        corrected[i] = least
    return corrected


def critical_difference(searches: int, problems: int) -> float:
    """Return by how much two mean ranks must differ to be told apart (Nemenyi; Demšar 2006)."""
    from scipy.stats import studentized_range

    spread = studentized_range.ppf(1 - ALPHA, searches, math.inf) / math.sqrt(2)
    return float(spread * math.sqrt(searches * (searches + 1) / (6 * problems)))


def _power_of_seeds(seeds: int, pairs: int) -> str:
    if pairs * 2.0 ** (1 - seeds) > ALPHA:
        return f"So few seeds can't tell any of {words.count(pairs, 'pairs')} apart."
    return "Seeds say how sure this is on this problem, and nothing of others."


def _power_of_problems(searches: int, least: float) -> str:
    if least >= searches - 1:
        return f"So few problems can't tell any of {searches} searches apart, whatever the ranks."
    return f"Mean ranks count as unlike from {least:.2g} on, of {searches - 1} at most."


# ------------------------------------------------------------------------------------------------ shown


def table(found: Ranking) -> Table:
    """Return the ranking as a table: mean ranks with intervals, the rank on each problem, and who is tied with whom."""
    rows = [
        [
            name,
            round(mean, 2),
            words.interval(*found.intervals[name]),
            *(ranks[name] for ranks in found.ranks.values()),
            ", ".join(found.tied(name)) or "none",
        ]
        for name, mean in found.means.items()
    ]
    columns = ["search", "mean rank", "95 % interval", *found.ranks, "not told apart from"]
    return Table(f"Ranks over {found.blocks}, 1 is the best", columns, rows, _note(found))


def chart(found: Ranking) -> Chart:
    """Return the mean ranks as bars with their intervals."""
    low, high = zip(*found.intervals.values(), strict=True)
    series = Series("mean rank", list(found.means), list(found.means.values()), list(low), list(high))
    return Chart(_title(found), "search", "mean rank (1: always the best)", [series], "bars", note=_note(found))


def in_words(found: Ranking) -> str:
    """Return the ranking in sentences: the order, who is not told apart, and what so many blocks can show."""
    order = ", ".join(f"{name} {mean:.1f}" for name, mean in found.means.items())
    return f"Mean ranks over {found.blocks}: {order}. {_ties(found)} {found.power}"


def _title(found: Ranking) -> str:
    return f"Mean rank over {found.blocks}, lower is better"


def _note(found: Ranking) -> str:
    what = "Ranks of the median regret over the seeds of each problem. " if found.ranks else ""
    return f"{what}{_ties(found)} {found.power}"


def _ties(found: Ranking) -> str:
    every = math.comb(len(found.means), 2)
    if not found.apart:
        return f"No two searches are told apart (Friedman's p = {found.p:.2g})."
    if len(found.apart) == every:
        return "Each is told apart from every other."
    return "; ".join(f"{words.listing(group, len(group))}: not told apart" for group in found.groups) + "."
