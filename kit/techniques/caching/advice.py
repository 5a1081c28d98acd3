"""Which policy and which size pay off, and what they save a day: from curves and measured costs, with intervals."""

from dataclasses import dataclass, replace

import numpy as np

from kit.errors import UserError
from kit.record import words
from kit.techniques.caching.curves import Curve, Curves

RESAMPLES = 2_000
NORMAL = 1.96
"""Standard errors on either side of an interval of 95 %."""
SIMPLEST_FIRST = ("LRU", "FIFO", "SIEVE", "LFU", "S3-FIFO", "W-TinyLFU")
"""The first in this order that is as good as the best is advised."""
AS_GOOD = 0.005
"""Difference in hit ratio for which nobody should change a policy."""
MIB = 2**20


@dataclass(frozen=True)
class Costs:
    """What a lookup, a miss and memory cost, as measured, and how often they come.

    lookup_s: seconds of every lookup, hit or miss; miss_s: seconds of the work that a hit saves. requests_a_day: of
    the user's traffic, which may be more than the trace's. value_bytes: memory of one cached item, key and bookkeeping
    included; not asked where the trace knows sizes. mib_day_s: what a MiB of memory must save a day to be worth it, in
    seconds of work: the price of the one over that of the other; 0 where memory is there anyway.
    Raise `UserError` for a number that can't be.
    """

    lookup_s: float
    miss_s: float
    requests_a_day: float
    value_bytes: float | None = None
    mib_day_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("miss_s", "requests_a_day", "value_bytes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise UserError(f"{name}={value}: give a number above 0")
        for name in ("lookup_s", "mib_day_s"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UserError(f"{name}={getattr(self, name)}: give a number of at least 0")

    @property
    def break_even(self) -> float:
        """Hit ratio from which on a cache saves time: under it lookups cost more than hits save. It may be above 1."""
        return self.lookup_s / self.miss_s


@dataclass(frozen=True)
class Advice:
    """What to do. Intervals are of 95 %: what another such stretch of the same traffic would show.

    pays: "yes", "no", or "unresolved" where 0 is within the interval of what it saves. policy, capacity (items or
    bytes), memory_mib: of the cache advised; where none pays, of the one that comes nearest. saved_s: seconds of work a
    day, less lookups and the price of memory; share_saved: of the work without a cache. text: all of it in sentences.
    """

    pays: str
    policy: str
    capacity: int
    memory_mib: float
    hit_ratio: float
    hit_ratio_interval: tuple[float, float]
    break_even: float
    saved_s: float
    saved_s_interval: tuple[float, float]
    share_saved: float
    text: str


def advise(found: Curves, costs: Costs, seed: int = 0) -> Advice:
    """Return which policy and which of the capacities of `found` to take, and what that saves.

    A cache saves requests × (hit ratio × miss − lookup) − memory. The size is where the best policy saves most, if
    memory has a price; where it has none, where the curve bends (`knee`), if half of the most is saved there. The
    policy is the simplest that serves as much there as the best, as far as this trace can tell. Lookups are taken to
    cost the same with every policy.
    """
    memory = _memory_mib(found, costs)
    size, reason = _size(found, costs, memory)
    draws = _draws(found, seed)
    policy = _policy(found, size, draws)
    curve = found.policies[policy]
    hit_ratio = float(curve.hit_ratio[size])
    low, high = _interval(curve.by_block[size], hit_ratio, curve.error[size], draws)
    hits = max(low, 0.0), min(high, 1.0)
    saved_s, *ends = (float(_saved(ratio, memory[size], costs)) for ratio in (hit_ratio, *hits))
    advice = Advice(
        pays="yes" if ends[0] > 0 else "no" if ends[1] <= 0 else "unresolved",
        policy=policy,
        capacity=int(found.capacities[size]),
        memory_mib=float(memory[size]),
        hit_ratio=hit_ratio,
        hit_ratio_interval=hits,
        break_even=costs.break_even,
        saved_s=saved_s,
        saved_s_interval=(ends[0], ends[1]),
        share_saved=saved_s / (costs.requests_a_day * costs.miss_s),
        text="",
    )
    return replace(advice, text=_text(advice, found, size, reason))


def savings(found: Curves, costs: Costs) -> dict[str, np.ndarray]:
    """Return by policy what each capacity saves, in seconds a day, shape (capacities,): what `advise` chooses from."""
    memory = _memory_mib(found, costs)
    return {name: _saved(curve.hit_ratio, memory, costs) for name, curve in found.policies.items()}


def knee(capacities: np.ndarray, ratios: np.ndarray) -> int:
    """Return the index where the curve bends: where it is farthest above the line from its first point to its last.

    It is drawn over the capacity as one pays for it, not over its logarithm. It is the last where there are under three
    points, or none above that line. Source: Satopää, Albrecht, Irwin, Raghavan, Finding a "Kneedle" in a Haystack,
    ICDCS Workshops 2011, of a whole curve, without smoothing.
    """
    capacities, ratios = np.asarray(capacities, float), np.asarray(ratios, float)
    if len(ratios) < 3 or ratios[-1] <= ratios[0]:
        return len(ratios) - 1
    along = (capacities - capacities[0]) / (capacities[-1] - capacities[0])
    above = (ratios - ratios[0]) / (ratios[-1] - ratios[0]) - along
    return int(np.argmax(above)) if above.max() > 0 else len(ratios) - 1


def _memory_mib(found: Curves, costs: Costs) -> np.ndarray:
    if found.unit == "bytes":
        return found.capacities / MIB
    if costs.value_bytes is None:
        raise UserError("this trace knows no sizes; give value_bytes, the memory of one cached item")
    return found.capacities * costs.value_bytes / MIB


def _saved(hit_ratio: np.ndarray | float, memory_mib: np.ndarray | float, costs: Costs) -> np.ndarray | float:
    """Return the seconds of work saved a day."""
    return costs.requests_a_day * (hit_ratio * costs.miss_s - costs.lookup_s) - memory_mib * costs.mib_day_s


def _size(found: Curves, costs: Costs, memory: np.ndarray) -> tuple[int, str]:
    """Return the index of the capacity to take, and why."""
    best = np.max([curve.hit_ratio for curve in found.policies.values()], axis=0)
    saved = _saved(best, memory, costs)
    bend, most = knee(found.capacities, best), int(np.argmax(saved))
    last = len(memory) - 1
    if not costs.mib_day_s and saved[bend] > max(0, saved[most] / 2) and bend != last:
        return bend, "At this size the curve bends: more memory brings less and less."
    if most == last and found.capacities[last] < found.trace.everything:
        return most, "It is the largest size that was tried; a larger one may save more."
    if most == last:
        return most, "It holds all that was asked for."
    price = f"a MiB more saves less than the {words.duration(costs.mib_day_s)} a day that it costs"
    return most, f"Beyond this size {price if costs.mib_day_s else 'nothing more is saved'}."


def _policy(found: Curves, size: int, draws: np.ndarray) -> str:
    best = max(found.policies, key=lambda name: found.policies[name].hit_ratio[size])
    simpler = [name for name in SIMPLEST_FIRST if name in found.policies]
    return next(name for name in simpler if _as_good(found.policies[name], found.policies[best], size, draws))


def _as_good(one: Curve, best: Curve, size: int, draws: np.ndarray) -> bool:
    """Return whether a policy serves as much as the best: next to no difference, or none that could be told."""
    behind = float(best.hit_ratio[size] - one.hit_ratio[size])
    error = 0.0 if one is best else float(np.hypot(one.error[size], best.error[size]))
    low, _ = _interval(best.by_block[size] - one.by_block[size], behind, error, draws)
    return behind < AS_GOOD or low <= 0


# Intervals: whole stretches of the trace are drawn, as requests that are near in time are alike


def _draws(found: Curves, seed: int) -> np.ndarray:
    """Return which parts of the trace each resample has, shape (resamples, parts); one set for all policies.

    Blocks of neighbouring parts are drawn, round the end, n ** (1/3) parts long. Sources: Politis, Romano, A circular
    block-resampling procedure for stationary data, 1992; Künsch, Annals of Statistics 1989.
    """
    parts = next(iter(found.policies.values())).by_block.shape[1]
    length = max(1, round(parts ** (1 / 3)))
    starts = np.random.default_rng(seed).integers(0, parts, (RESAMPLES, -(-parts // length)))
    blocks = (starts[:, :, None] + np.arange(length)) % parts
    return blocks.reshape(RESAMPLES, -1)[:, :parts]


def _interval(by_block: np.ndarray, middle: float, error: float, draws: np.ndarray) -> tuple[float, float]:
    """Return the ends of the mean's interval, made wider by the standard error of sampling objects."""
    low, high = np.percentile(by_block[draws].mean(axis=1), [2.5, 97.5])
    return middle - float(np.hypot(middle - low, NORMAL * error)), middle + float(
        np.hypot(high - middle, NORMAL * error)
    )


def _text(advice: Advice, found: Curves, size: int, reason: str) -> str:
    items = f"{words.count(advice.capacity, found.unit)}, " if found.unit == "items" else ""
    cache = f"{advice.policy} with {items}{words.mib(advice.memory_mib)}"
    serves = f"{words.percent(advice.hit_ratio)} of requests [{_percents(advice.hit_ratio_interval)}]"
    low, high = (words.duration(end) for end in advice.saved_s_interval)
    saved = f"{words.duration(advice.saved_s)} of work a day [{low}, {high}]"
    possible = f"The best possible at this size is {words.percent(float(found.bound.hit_ratio[size]))}."
    even = f"A cache pays from a hit ratio of {words.percent(advice.break_even)} on."
    if advice.pays == "yes":
        share = f"{words.percent(advice.share_saved)} of it"
        return f"Take {cache}: it serves {serves} and saves {saved}, {share}. {reason} {possible} {even}"
    if advice.pays == "unresolved":
        return f"Whether a cache pays is open: {cache} serves {serves}, for {saved}. {even} A longer trace may tell."
    loses = f"{words.duration(-advice.saved_s)} a day"
    most = float(found.bound.hit_ratio.max())
    none = f" No policy can: the best possible serves {words.percent(most)}." if most < advice.break_even else ""
    return f"A cache doesn't pay here: {cache} comes nearest, serves {serves} and loses {loses}. {even}{none}"


def _percents(ends: tuple[float, float]) -> str:
    return ", ".join(words.percent(end) for end in ends)
