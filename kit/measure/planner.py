"""Which difference can be seen in a given time on this machine as noisy as it is now, and what time one needs.

No formula: what a comparison would do is played through many times on noise drawn from what was measured, by the rules
of `rounds.py` (how many rounds, looks and fresh starts fit into the budget) and `statistics.py` (interval, verdict).
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from kit.measure import statistics
from kit.measure.noise import Noise
from kit.measure.rounds import MAX_STARTS, OVERTIME, RENEWAL_SHARE
from kit.record import intervals, words

CHANCE = 0.9
"""How often a difference is called that "can be seen"."""
DRAWS = 400
BLOCK = 5
"""Rounds that are drawn together: neighbours in time share what disturbs them."""
LONGEST_S = 24 * 3600.0
SMALLEST, LARGEST = 1e-3, 3.0
"""Log-ratios between which a difference is looked for."""


@dataclass(frozen=True)
class Plan:
    """What a comparison does in a budget of `seconds`. starts: after which rounds all processes are fresh."""

    seconds: float
    rounds: int
    looks: tuple[int, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True)
class Unreachable:
    """No time is enough. best: the smallest difference that is, as 0.02, or None; why: in a sentence's end."""

    best: float | None
    why: str


def plan(noise: Noise, seconds: float) -> Plan:
    """Return what fits into a budget, as `rounds.Table.play` will do it."""
    renewals = min(MAX_STARTS - 1, int(RENEWAL_SHARE * seconds / max(noise.renewal_s, 1e-6)))
    left_s = seconds - renewals * noise.renewal_s
    rounds = max(1, min(noise.max_rounds, int(left_s / max(noise.round_s, 1e-6))))
    fewest = min(statistics.MIN_ROUNDS, noise.max_rounds)
    if rounds < fewest and fewest * noise.round_s <= OVERTIME * seconds:
        rounds = fewest
    share = max(statistics.MIN_ROUNDS, math.ceil(rounds / (1 + renewals)))
    starts = tuple(range(0, rounds, share))[: 1 + renewals]
    return Plan(seconds, rounds, tuple(statistics.plan_looks(rounds)), starts)


@dataclass(frozen=True)
class Played:
    """What many comparisons of equals found at each look: interval of the log-ratio, and floor; (looks, draws)."""

    low: np.ndarray
    high: np.ndarray
    floor: np.ndarray


def play(noise: Noise, taken: Plan, seed: int = 0, draws: int = DRAWS) -> Played | None:
    """Play a plan through on noise drawn from what was measured; None where it has too few rounds to tell anything."""
    if taken.rounds < statistics.MIN_ROUNDS:
        return None
    control, variant = draw(noise, taken, seed, draws)
    rows = [_look(control, variant, n, taken.starts) for n in taken.looks]
    return Played(*(np.array(parts) for parts in zip(*rows, strict=True)))


def draw(noise: Noise, taken: Plan, seed: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Return log-ratios of A/A and of a variant as fast as the baseline, each of shape (draws, rounds): blocks of
    recorded rounds, in half of the draws with the signs turned, and a luck of each process for each of its lives."""
    random = np.random.default_rng(seed)
    recorded, block = len(noise.residuals), min(BLOCK, len(noise.residuals))
    first = random.integers(0, recorded, (draws, math.ceil(taken.rounds / block)))
    rows = ((first[:, :, None] + np.arange(block)) % recorded).reshape(draws, -1)[:, : taken.rounds]
    drawn = noise.residuals[rows] * random.choice([-1.0, 1.0], (draws, 1, 1))
    base, *own = random.normal(0, noise.luck / math.sqrt(2), (3, draws, len(taken.starts)))
    lives = np.searchsorted(taken.starts, np.arange(taken.rounds), side="right") - 1
    return tuple(drawn[:, :, which] + (base - own[which])[:, lives] for which in (0, 1))


def _look(control: np.ndarray, variant: np.ndarray, n: int, starts: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Return low, high and floor of all draws after n rounds: `statistics.effect` and `noise_floor`, all at once."""
    so_far = [start for start in starts if start < n]
    low, high, _ = _interval(variant[:, :n], so_far)
    own_low, own_high, own = _interval(control[:, :n], so_far)
    luck = statistics.LUCK_OF_A_START / intervals.effective_starts(so_far, n)
    biased = statistics.UNSTABLE_FACTOR * np.maximum(np.abs(own_low), np.abs(own_high))
    return low, high, np.where((own_low > luck) | (own_high < -luck), biased, np.maximum(luck, np.abs(own)))


def _interval(ratios: np.ndarray, starts: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return low, high and median of each draw, shape (draws,)."""
    n = ratios.shape[1]
    ends = intervals.sign_test_interval(np.arange(n), 1 - statistics.ALPHA / statistics.MAX_LOOKS)
    ordered = np.sort(ratios, axis=1)
    low, high = (ordered[:, int(end)] for end in ends)
    if len(starts) >= statistics.MIN_SETS:
        from scipy.stats import t

        medians = np.array([np.median(one, axis=1) for one in np.split(ratios, starts[1:], axis=1)])
        quantile = t.ppf((1 + statistics.SETS_CONFIDENCE) / 2, len(medians) - 1)
        reach = quantile * medians.std(axis=0, ddof=1) / math.sqrt(len(medians))
        low, high = np.minimum(low, medians.mean(axis=0) - reach), np.maximum(high, medians.mean(axis=0) + reach)
    return low, high, (ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2


def called(played: Played, difference: float, target: float) -> float:
    """Return the share of comparisons that call a variant faster which is so by this log-ratio, by `statistics.verdict`
    at the look at which the rounds end: the first that settles it, else the last."""
    low, high = played.low + difference, played.high + difference
    faster, slower = low > played.floor, high < -played.floor
    same = (played.floor <= target) & (low >= -target) & (high <= target)
    settled = (faster | slower | same) & (high - low <= 2 * statistics.PRECISION)
    settled[-1] = True
    ends = settled.argmax(axis=0)
    return float(faster[ends, np.arange(faster.shape[1])].mean())


def resolvable(noise: Noise, seconds: float, chance: float = CHANCE) -> float | None:
    """Return the smallest difference, as 0.04 for 4 %, that is called with this chance in a budget; None if none is."""
    played = play(noise, plan(noise, seconds))
    return _smallest(played, noise.target, chance) if played else None


def _smallest(played: Played, target: float, chance: float) -> float | None:
    low, high = math.log(SMALLEST), math.log(LARGEST)
    if called(played, LARGEST, target) < chance:
        return None
    while high - low > 0.005:
        middle = (low + high) / 2
        low, high = (low, middle) if called(played, math.exp(middle), target) >= chance else (middle, high)
    return math.expm1(math.exp(high))


def needed(noise: Noise, difference: float, chance: float = CHANCE) -> Plan | Unreachable:
    """Return the shortest plan that calls a difference, as 0.03 for 3 %, with this chance, or why there is none."""
    wanted = math.log1p(difference)

    def enough(seconds: float) -> bool:
        played = play(noise, plan(noise, seconds))
        return played is not None and called(played, wanted, noise.target) >= chance

    low, high = statistics.MIN_ROUNDS * noise.round_s / OVERTIME, _longest_s(noise)
    if not enough(high):
        return _unreachable(noise, difference, high, chance)
    while high / low > 1.03:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return plan(noise, rounded_up(high))


def _longest_s(noise: Noise) -> float:
    """Return the budget beyond which nothing is added: all rounds and all starts that are ever taken."""
    renewals_s = (MAX_STARTS - 1) * noise.renewal_s
    return min(LONGEST_S, max(renewals_s / RENEWAL_SHARE, 1.01 * noise.max_rounds * noise.round_s + renewals_s))


def _unreachable(noise: Noise, difference: float, seconds: float, chance: float) -> Unreachable:
    best, most = resolvable(noise, seconds, chance), plan(noise, seconds)
    least, sets = statistics.LUCK_OF_A_START / MAX_STARTS, f"at most {MAX_STARTS} sets of them are started"
    if math.log1p(difference) <= least:
        return Unreachable(
            best, f"{MAX_STARTS} starts, the most that are made, leave a floor of {words.percent(least)}"
        )
    still = resolvable(replace(noise, luck=0.0), seconds, chance)
    if still is not None and still <= difference:
        known = noise.starts >= statistics.MIN_SETS
        differ = f"{'differ' if known else 'are believed to differ'} by {words.percent(noise.luck)}"
        return Unreachable(best, f"fresh processes {differ}{'' if known else ', too few were seen to know'}; {sets}")
    limit = f"max_rounds={noise.max_rounds} allows" if most.rounds == noise.max_rounds else "fit into a day"
    return Unreachable(best, f"{words.count(most.rounds, 'rounds')}, all that {limit}, scatter too much")


def rounded_up(seconds: float) -> float:
    """Return a budget as a person would write it: two digits, rounded up.

    >>> rounded_up(93.2), rounded_up(121), rounded_up(3.14)
    (94.0, 130.0, 3.2)
    """
    step = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return round(math.ceil(round(seconds / step, 6)) * step, 6)
