"""How noisy a machine is: measured now by a small piece of work against itself, or read off what a comparison recorded.

Either way it is a `Noise`: how paired log-ratios scatter from round to round, how fresh processes differ, and what a
round and a set of fresh processes cost. The planner says from it which difference can be seen in a given time.
"""

import statistics as plain
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from kit.measure import statistics
from kit.measure.point import Measurement
from kit.measure.process import SpawnedWorker
from kit.measure.rounds import Rules
from kit.record import intervals
from kit.record.document import CONTROL, Point, Session

LUCK = 0.02
"""Standard deviation of the log-ratio of two processes of one program that is believed where too few sets of processes
were seen to know better: most pairs differ by under 3 %."""
LUCK_WEIGHT = 4
"""Sets of processes that this belief weighs as much as."""
START_S = 0.1
"""Of a worker's interpreter, which no record tells: what it imports for its variant is within the preparation."""
CALL_S = 5e-3
"""Of the piece of work that stands for all: short enough for many rounds, long enough to meet a neighbour."""


@dataclass(frozen=True)
class Noise:
    """What stands between a comparison and a small difference.

    residuals: shape (rounds, 2), the log-ratios to the baseline of A/A and of a variant in the same rounds, each less
    the median of its set of processes. luck: standard deviation of what fresh processes add to a log-ratio for all
    their life. round_s, renewal_s: wall-clock seconds of a round, and of starting all processes afresh.
    variant: whose residuals these are. starts: sets of processes in which they were seen. target, max_rounds: the
    comparison's rules.
    """

    residuals: np.ndarray
    luck: float
    round_s: float
    renewal_s: float
    variant: str = ""
    starts: int = 0
    target: float = 0.03
    max_rounds: int = 1000

    @property
    def scatter(self) -> float:
        """Half of all rounds lie within ± this log-ratio."""
        return float(np.median(np.abs(self.residuals[:, 1])))


def of_session(
    point: Point, session: Session, baseline: str, seconds: float, target: float, max_rounds: int
) -> Noise | None:
    """Return the noise that a comparison met, of the variant that scattered most; None under ten rounds.

    baseline: its name; seconds, target, max_rounds: the rules of the session.
    """
    known = {variant.name for variant in point.variants} | {CONTROL}
    if len(session.order) < statistics.MIN_ROUNDS or not {baseline, *session.variants} <= known & set(session.readings):
        return None
    base = session.readings[baseline].wall_s
    ratios = {
        name: found
        for name in session.variants
        if name != baseline and len(found := intervals.log_ratios(base, session.readings[name].wall_s)) == len(base)
    }
    if CONTROL not in ratios or len(base) < statistics.MIN_ROUNDS:
        return None
    scatters = {name: np.median(np.abs(_residuals(found, session.starts))) for name, found in ratios.items()}
    noisiest = max((name for name in ratios if name != CONTROL), key=scatters.get, default=CONTROL)
    round_s, renewal_s = costs(point, session, baseline, seconds)
    return Noise(
        residuals=np.column_stack([_residuals(ratios[name], session.starts) for name in (CONTROL, noisiest)]),
        luck=luck(list(ratios.values()), session.starts),
        round_s=round_s,
        renewal_s=renewal_s,
        variant=noisiest,
        starts=len(session.starts),
        target=target,
        max_rounds=max_rounds,
    )


def _sets(ratios: np.ndarray, starts: Sequence[int]) -> list[np.ndarray]:
    return np.split(ratios, sorted({start for start in starts if 0 < start < len(ratios)}))


def _residuals(ratios: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    """Return the ratios less the median of their set, widened by what taking it from few rounds hides."""
    sets = _sets(np.asarray(ratios), starts)
    return np.concatenate([(one - np.median(one)) * (len(one) / max(1, len(one) - 1)) ** 0.5 for one in sets])


def luck(ratios: Sequence[np.ndarray], starts: Sequence[int]) -> float:
    """Return the standard deviation of a start: how much more the medians of sets of processes differ than their rounds
    explain. Sets whose own median is uncertain weigh less, and `LUCK` as much as four sets.

    ratios: of each variant; starts: numbers of rounds after which all processes were fresh.
    """
    squares, weights = LUCK_WEIGHT * LUCK**2, float(LUCK_WEIGHT)
    for sets in (_sets(np.asarray(found), starts) for found in ratios):
        if len(sets) < 2:
            continue
        medians = np.array([np.median(one) for one in sets])
        within = np.array([_error_of_median(one) for one in sets]) ** 2
        weight = (LUCK**2 / (LUCK**2 + within)) ** 2
        correction = len(sets) / (len(sets) - 1)
        squares += float(weight @ ((medians - np.average(medians, weights=weight)) ** 2 * correction - within))
        weights += float(weight.sum() / correction)
    return max(squares, 0.0) ** 0.5 / weights**0.5


def _error_of_median(values: np.ndarray) -> float:
    """Return the standard error of the median, by the median absolute deviation and as if the noise were normal."""
    return 1.2533 * 1.4826 * float(np.median(np.abs(values - np.median(values)))) / len(values) ** 0.5 + 1e-9


def costs(point: Point, session: Session, baseline: str, seconds: float) -> tuple[float, float]:
    """Return the wall-clock seconds of a round and of starting all processes afresh, as far as a record tells.

    Both are worked out from the seconds of the whole point: work that times itself tells nothing of the clock.
    seconds: the budget of the session's rounds.
    """
    by_name = {variant.name: variant for variant in point.variants}
    seats = [by_name[baseline if name == CONTROL else name] for name in session.variants]
    rounds, renewals = len(session.order), max(1, len(session.starts)) - 1
    total_s = point.seconds / max(1, len(point.sessions))
    prepare_s = sum((seat.prepare_s or 0.0) + START_S for seat in seats)
    call_s = sum(seat.warm_s or 0.0 for seat in seats)
    reading_s = sum((seat.warm_s or 0.0) * seat.repeats for seat in seats)
    if reading_s * rounds > total_s:  # the work times itself, by a clock of its own: a call is a part of a round
        round_s = min(total_s, seconds) / (rounds + renewals)
        return round_s, min(prepare_s, 0.5 * seconds) + round_s
    renewal_s = prepare_s + call_s
    brought_up_s = prepare_s + sum(seat.cold_s or 0.0 for seat in seats) + 3 * call_s
    in_rounds_s = total_s - brought_up_s - renewals * renewal_s
    if session.stopped == "budget" and rounds > statistics.MIN_ROUNDS:
        in_rounds_s = min(in_rounds_s, seconds - renewals * renewal_s)
    return max(in_rounds_s / rounds, reading_s), renewal_s


# ------------------------------------------------------------------------------------------------ now


@dataclass(frozen=True)
class Now:
    """How noisy the machine is now. session: what the small piece of work showed against itself; call_s: of one call;
    seconds: that it took to find out."""

    noise: Noise
    session: Session
    call_s: float
    seconds: float


def now(threads: int, seconds: float = 6.0, seed: int = 1) -> Now | None:
    """Measure how noisy this machine is: the same small piece of work in three fresh processes, in paired rounds of
    random order, started anew as a comparison does. None where it got too few rounds.

    threads: allowed to each process; seconds: the budget of the rounds.
    """
    import cloudpickle

    packed = cloudpickle.dumps((piece_of_work, (_amount(),)))
    names = ["the work", "the same"]
    measurement = Measurement(
        None,
        dict.fromkeys(names, packed),
        names[0],
        rules=Rules(seconds, 1e-9, 1000),  # nothing is ever called the same: the budget is spent
        seed=seed,
        start=partial(SpawnedWorker, threads, 30.0),
        check=None,
        progress=_Quiet(),
    )
    measurement.run()
    point = measurement.point()
    if not point.sessions or not (found := of_session(point, point.sessions[0], names[0], seconds, 0.03, 1000)):
        return None
    return Now(found, point.sessions[0], point.variants[0].warm_s, point.seconds)


def piece_of_work(amount: int):
    """Prepare a call that uses the processor, its caches and the interpreter: numbers sorted and summed up."""
    numbers = np.random.default_rng(0).random(amount)
    return lambda: float(np.sort(numbers).sum()) + sum(range(amount // 4))


def _amount() -> int:
    """Return how many numbers make a call of about `CALL_S`: found once, for all processes must do the same."""
    amount, took = 10_000, []
    call = piece_of_work(amount)
    for _ in range(5):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return max(1000, int(amount * CALL_S / plain.median(took)))


class _Quiet:
    """A progress that says nothing."""

    def preparing(self, *_: object) -> None: ...

    def measuring(self, *_: object) -> None: ...
