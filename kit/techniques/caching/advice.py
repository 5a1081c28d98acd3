"""Which policy and which size pay off, and what they save a day: from curves and measured costs, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kit.errors import UserError
from kit.record import words
from kit.techniques.caching.curves import Curve, Curves
from kit.techniques.caching.layers.serving import Served, Worth

RESAMPLES = 2_000
NORMAL = 1.96
"""Standard errors on either side of an interval of 95 %."""
SIMPLEST_FIRST = ("LRU", "FIFO", "SIEVE", "LFU", "S3-FIFO", "W-TinyLFU")
"""The first in this order that is as good as the best is advised; policies of one's own come last."""
AS_GOOD = 0.005
"""Difference in hit ratio for which nobody should change a policy."""
AS_MUCH = 0.03
"""Share of what stores save for which nobody should change one."""
MIB = 2**20


@dataclass(frozen=True)
class Costs:
    """What a cache and the work cost, as measured, what memory costs, and how often requests come.

    each: of one request. requests_a_day: of the user's traffic, which may be more than the trace's. value_bytes: memory
    of one cached item, key and bookkeeping included; not asked where the trace knows sizes. mib_day_s: what a MiB of
    memory must save a day to be worth it, in seconds of work: the price of the one over that of the other; 0 where
    memory is there anyway. spread: what else might have been measured (`resampled`); None: `each` is exact.
    Raise `UserError` for a number that can't be.
    """

    each: Worth
    requests_a_day: float
    value_bytes: float | None = None
    mib_day_s: float = 0.0
    spread: Worth | None = None

    def __post_init__(self) -> None:
        above = {"compute_s": self.each.compute_s, "requests_a_day": self.requests_a_day}
        above |= {} if self.value_bytes is None else {"value_bytes": self.value_bytes}
        for name, value in above.items():
            if not 0 < value < np.inf:
                raise UserError(f"{name}={value}: give a number above 0")
        least = {name: getattr(self.each, name) for name in ("hit_s", "miss_s", "put_s")}
        for name, value in (least | {"mib_day_s": self.mib_day_s}).items():
            if not 0 <= value < np.inf:
                raise UserError(f"{name}={value}: give a number of at least 0")

    @property
    def break_even(self) -> float:
        """Hit ratio from which on a cache saves time: under it lookups cost more than hits save. It may be above 1."""
        return self.each.break_even


def resampled(served: Served, seed: int = 0) -> Worth:
    """Return costs as other such requests might have had them: each a mean of resampled times, shape (resamples,).

    served: of a cache that hit and missed. Raise `UserError` of another.
    """
    chance, miss = np.random.default_rng(seed), ~served.hit

    def means(times: np.ndarray) -> np.ndarray:
        return np.array([times[chance.integers(0, len(times), len(times))].mean() for _ in range(RESAMPLES)])

    return replace(
        served.worth,
        hit_s=means(served.lookup_s[served.hit]),
        miss_s=means(served.lookup_s[miss]),
        put_s=means(served.put_s[miss]),
        compute_s=means(served.compute_s[miss]),
    )


@dataclass(frozen=True)
class Advice:
    """What to do. Intervals are of 95 %: what another such stretch of the same traffic would show, and, in what is
    saved, what measuring the costs again would.

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

    A cache saves requests × what `Worth` saves a request − memory. The size is where the best policy saves most, if
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
    saved_s = float(_saved(hit_ratio, memory[size], costs))
    ratios = _resampled(curve.by_block[size], curve.error[size], draws, seed).clip(0, 1)
    ends = np.percentile(_saved(ratios, memory[size], costs, costs.spread), [2.5, 97.5]).tolist()
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
        share_saved=saved_s / (costs.requests_a_day * costs.each.compute_s),
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


def _saved(
    hit_ratio: np.ndarray | float, memory_mib: np.ndarray | float, costs: Costs, each: Worth | None = None
) -> np.ndarray | float:
    """Return the seconds of work saved a day; each: in place of the costs' own."""
    saved_s = replace(each or costs.each, hit_ratio=hit_ratio).saved_s
    return costs.requests_a_day * saved_s - memory_mib * costs.mib_day_s


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
    known = [name for name in SIMPLEST_FIRST if name in found.policies]
    simpler = [*known, *(name for name in found.policies if name not in known)]
    return next(name for name in simpler if _as_good(found.policies[name], found.policies[best], size, draws))


def _as_good(one: Curve, best: Curve, size: int, draws: np.ndarray) -> bool:
    """Return whether a policy serves as much as the best: next to no difference, or none that could be told."""
    behind = float(best.hit_ratio[size] - one.hit_ratio[size])
    error = 0.0 if one is best else float(np.hypot(one.error[size], best.error[size]))
    low, _ = _interval(best.by_block[size] - one.by_block[size], behind, error, draws)
    return behind < AS_GOOD or low <= 0


# Which store


@dataclass(frozen=True)
class Standing:
    """How one store stands to the one that saves most. Intervals of 95 %: what measuring the costs again would show.

    saved_s: seconds of work a day at the hit ratio advised, less lookups and puts. less: what it saves less than the
    best, as a share of what that saves. verdict: "most", "same" where that share is within 3 %, "less", or
    "unresolved" where its interval allows both. lasting: whether it outlives the process.
    """

    store: str
    lasting: bool
    saved_s: float
    saved_s_interval: tuple[float, float]
    less: float
    less_interval: tuple[float, float]
    verdict: str


def standings(
    found: Mapping[str, Worth],
    spread: Mapping[str, Worth],
    hit_ratio: float,
    requests_a_day: float,
    lasting: Sequence[str] = (),
) -> dict[str, Standing]:
    """Return how the stores stand at one hit ratio, by name. spread: what else might have been measured of each, drawn
    together (`resampled`): a draw compares what the stores cost in it, and the work that all save is the same."""

    def a_day(each: Worth) -> np.ndarray | float:
        return requests_a_day * replace(each, hit_ratio=hit_ratio).saved_s

    saved, draws = (
        {name: float(a_day(one)) for name, one in found.items()},
        {n: a_day(one) for n, one in spread.items()},
    )
    best = max(saved, key=saved.get)
    unit = abs(saved[best]) or 1.0
    standings = {}
    for name in found:
        ends = _percentiles(draws[name])
        less = _percentiles((draws[best] - draws[name]) / unit)
        share = (saved[best] - saved[name]) / unit
        verdict = "most" if name == best else _stands(*less)
        standings[name] = Standing(name, name in lasting, saved[name], ends, share, less, verdict)
    return standings


def _percentiles(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5]).tolist()
    return low, high


def _stands(low: float, high: float) -> str:
    within = max(abs(low), abs(high)) < AS_MUCH
    return "same" if within else "less" if low > 0 else "unresolved"


def store_in_words(found: Mapping[str, Standing]) -> str:
    """Return which store in this process to take, which of those that outlive it, and what can't be told apart."""
    chosen = _first_of_the_best([one for one in found.values() if not one.lasting] or list(found.values()))
    low, high = chosen.saved_s_interval
    if low <= 0:
        return (
            f"{chosen.store} comes nearest; {'none saves anything' if high <= 0 else 'whether it pays is unresolved'}"
        )
    told = [f"{chosen.store} saves {amount_a_day(chosen.saved_s, chosen.saved_s_interval)}"]
    lasting = [one for one in found.values() if one.lasting and one is not chosen]
    if lasting:
        other = _first_of_the_best(lasting)
        told.append(f"{other.store}, which outlives the process, {_less(other)}")
    unresolved = [one.store for one in found.values() if one.verdict == "unresolved" and one not in (chosen, *lasting)]
    if unresolved:
        told.append(f"whether less is saved by {words.listing(unresolved)} is unresolved")
    return "; ".join(told)


def _first_of_the_best(among: Sequence[Standing]) -> Standing:
    as_good = [one for one in among if one.verdict in ("most", "same")]
    return as_good[0] if as_good else max(among, key=lambda one: one.saved_s)


def _less(one: Standing) -> str:
    ends = f"[{_percents(one.less_interval)}]"
    return {
        "most": "saves most",
        "same": f"as much: {words.percent(one.less)} less {ends}",
        "less": f"{words.percent(one.less)} less {ends}",
        "unresolved": f"{words.percent(one.less)} less {ends}, which is unresolved",
    }[one.verdict]


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


def _resampled(by_block: np.ndarray, error: float, draws: np.ndarray, seed: int) -> np.ndarray:
    """Return the hit ratio of each resample, with the error of sampling objects, shape (resamples,)."""
    return by_block[draws].mean(axis=1) + error * np.random.default_rng(seed).standard_normal(len(draws))


def saving(advice: Advice) -> str:
    """Return what is saved a day and its interval, all in one unit: "2.1 h of work a day [1.9, 2.4 h]"."""
    return amount_a_day(advice.saved_s, advice.saved_s_interval)


def amount_a_day(saved_s: float, ends: tuple[float, float]) -> str:
    """Return seconds of work a day and their interval in one unit, as `saving` does."""
    largest = max(map(abs, (saved_s, *ends)))
    unit, unit_s = next(((u, s) for u, s in (("h", 3600), ("min", 60), ("s", 1)) if largest >= 2 * s), ("ms", 1e-3))
    middle, low, high = (words.number(seconds / unit_s) for seconds in (saved_s, *ends))
    return f"{middle} {unit} of work a day [{low}, {high} {unit}]"


def _text(advice: Advice, found: Curves, size: int, reason: str) -> str:
    items = f"{words.count(advice.capacity, found.unit)}, " if found.unit == "items" else ""
    cache = f"{advice.policy} with {items}{words.mib(advice.memory_mib)}"
    serves = f"{words.percent(advice.hit_ratio)} of requests [{_percents(advice.hit_ratio_interval)}]"
    saved = saving(advice)
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
