"""The arithmetic of a verdict keeps its promises on noise as it is: skewed, spiky, with machine-wide swings."""

import math
from itertools import pairwise

import numpy as np
import pytest

from kit.measure import statistics
from kit.measure.session import Rules, Session
from kit.measure.variant import VariantProcess
from kit.record.document import CONTROL, Effect, Scaling


def effect(low: float | None, high: float | None, rounds: int = 20, speedup: float | None = None) -> Effect:
    """An effect whose interval ends at these log-ratios."""
    ends = [None if end is None else math.exp(end) for end in (low, high)]
    middle = math.exp(speedup if speedup is not None else ((low or 0) + (high or 0)) / 2)
    return Effect(speedup=middle, low=ends[0], high=ends[1], rounds=rounds, confidence=0.99)


@pytest.mark.parametrize("rounds", [1, 5, 9, 10, 11, 12, 15, 20, 37, 100, 1000, 100_000])
def test_at_most_six_looks_that_end_at_the_last_round(rounds):
    """Whatever the number of rounds, the data is looked at six times at most, in order, and at the end."""
    looks = statistics.plan_interim_analyses(rounds)
    assert 1 <= len(looks) <= 6
    assert looks == sorted(set(looks))
    assert looks[-1] == rounds
    assert looks[0] >= min(rounds, statistics.MIN_ROUNDS)


def test_looks_are_geometrically_spaced():
    """Each look waits for about the same factor more rounds than the one before."""
    steps = [b / a for a, b in pairwise(statistics.plan_interim_analyses(1000))]
    assert max(steps) / min(steps) < 1.1


def skewed(random: np.random.Generator, shape) -> np.ndarray:
    """Noise with median 0, a long right tail, and nothing normal about it."""
    return random.lognormal(0, 1, shape) - 1


@pytest.mark.parametrize("n", [8, 10, 16, 25, 63, 100])
@pytest.mark.parametrize("confidence", [0.95, 1 - 0.05 / 6])
def test_the_interval_covers_the_median_of_skewed_noise(n, confidence):
    """The interval misses the true median no more often than it says, on noise that is far from symmetric."""
    random, trials = np.random.default_rng(7), 2000
    intervals = [statistics.sign_test_interval(row, confidence) for row in skewed(random, (trials, n))]
    missed = sum(not low <= 0 <= high for low, high in intervals) / trials
    nominal = 1 - confidence
    assert missed <= nominal + 3 * math.sqrt(nominal * (1 - nominal) / trials)


def test_the_interval_is_an_exact_pair_of_readings():
    """The ends are order statistics: of 1 … 10 at 95 % the second and the ninth, as printed tables have it."""
    assert statistics.sign_test_interval(range(1, 11), 0.95) == (2.0, 9.0)


@pytest.mark.parametrize("n", [0, 1, 2, 5, 7])
def test_too_few_readings_have_no_interval(n):
    """With too few measurements for the confidence there is no interval, rather than a made-up one."""
    assert statistics.sign_test_interval([0.1] * n, 1 - 0.05 / 6) is None


def test_the_interval_narrows_with_more_rounds():
    """More rounds of the same noise never leave a wider interval, on the average of many draws."""
    random = np.random.default_rng(3)

    def width(n):
        return np.mean([np.ptp(statistics.sign_test_interval(skewed(random, n), 0.95)) for _ in range(300)])

    widths = [width(n) for n in (10, 40, 160)]
    assert widths == sorted(widths, reverse=True)


def test_the_ratio_is_paired_within_rounds():
    """A swing of the whole machine that hits every variant of a round alike does not touch the ratio."""
    swing = np.exp(np.random.default_rng(1).normal(0, 1, 30))
    found = statistics.effect(statistics.log_ratios(0.2 * swing, 0.1 * swing))
    assert (found.speedup, found.low, found.high) == pytest.approx((2, 2, 2))


def test_only_rounds_that_both_took_part_in_are_paired():
    """A variant that ended in round 5 is compared over its own rounds, each with the baseline's of the same round."""
    found = statistics.log_ratios([1, 2, 4, 8, 16, 32, 64], [1, 1, 1, 1, 1])
    assert found == pytest.approx(np.log([1, 2, 4, 8, 16]))


def test_no_round_gives_no_effect():
    """Nothing measured is nothing, not a speed-up of 1."""
    assert statistics.effect([]) is None


def test_a_reading_of_zero_seconds_stays_finite():
    """A self-timed reading of 0 s gives a large but finite ratio."""
    assert np.isfinite(statistics.log_ratios([0.0, 1.0], [1.0, 0.0])).all()


def test_no_reading_is_dropped_as_an_outlier():
    """A single absurd reading stays in: the interval of ten rounds reaches out to it."""
    found = statistics.effect([0.0] * 9 + [5.0])
    assert found.rounds == 10
    assert found.high == pytest.approx(math.exp(5))


def test_drift_is_told():
    """A ratio that creeps in one direction is seen as drift; one that stands still is not."""
    still = np.random.default_rng(2).normal(0, 0.01, 50)
    assert statistics.effect(still + np.linspace(0, 0.2, 50)).drift_p < 1e-6
    assert statistics.effect(still).drift_p > 0.01
    assert statistics.effect([0.1] * 50).drift is None


def test_the_floor_falls_with_the_sets_of_processes():
    """A quiet A/A leaves the luck of a start as the floor: smaller with more sets of fresh processes, never zero."""
    floors = [statistics.noise_floor(effect(-0.0001, 0.0001), starts) for starts in range(1, 7)]
    assert floors == sorted(floors, reverse=True)
    assert floors[0] == pytest.approx(statistics.FEW_SETS_DIFFERENCE)
    assert floors[3] == pytest.approx(statistics.PROCESS_DIFFERENCE / 4) and floors[-1] > 0.01


@pytest.mark.parametrize("starts", [4, 6])
def test_the_floor_is_at_least_what_the_baseline_shows_against_itself(starts):
    """A/A that is off by 15 % puts the floor there, however wide or narrow its interval is."""
    assert statistics.noise_floor(effect(-0.5, 0.8, speedup=0.15), starts) == pytest.approx(0.15)
    assert statistics.noise_floor(effect(-0.8, 0.5, speedup=-0.15), starts) == pytest.approx(0.15)


@pytest.mark.parametrize("starts", [4, 6, 10])
def test_the_floor_rises_when_the_baseline_differs_from_itself(starts):
    """An A/A that would itself be called different puts the floor beyond all that it showed."""
    biased = effect(0.15, 0.19)
    assert statistics.noise_floor(biased, starts) >= 0.19
    assert statistics.noise_floor(effect(-0.19, -0.15), starts) == pytest.approx(statistics.noise_floor(biased, starts))
    assert statistics.verdict(biased, statistics.noise_floor(biased, starts), 0.03) == "inconclusive"


@pytest.mark.parametrize("noise", [None, effect(None, None)])
def test_without_a_control_interval_there_is_no_floor_and_no_verdict(noise):
    """Where A/A has no interval, nothing is called, however clear it looks."""
    assert statistics.noise_floor(noise, 6) is None
    assert statistics.verdict(effect(2, 3), None, 0.03) == "inconclusive"


@pytest.mark.parametrize(
    ("low", "high", "floor", "said"),
    [
        (0.021, 0.30, 0.02, "faster"),
        (0.019, 0.30, 0.02, "inconclusive"),  # beyond zero, but within the noise floor
        (-0.30, -0.021, 0.02, "slower"),
        (-0.30, -0.019, 0.02, "inconclusive"),
        (-0.0299, 0.0299, 0.02, "equivalent"),
        (-0.031, 0.03, 0.02, "inconclusive"),
        (-0.03, 0.031, 0.02, "inconclusive"),
        (0.005, 0.02, 0.01, "equivalent"),
        (-0.2, 0.2, 0.02, "inconclusive"),
    ],
)
def test_the_verdict_at_its_edges(low, high, floor, said):
    """Faster and slower need the whole interval beyond the floor; equivalent needs it within; else inconclusive."""
    assert statistics.verdict(effect(low, high), floor, 0.03) == said


@pytest.mark.parametrize("rounds", [1, 7, 9])
def test_under_ten_rounds_nothing_is_resolved(rounds):
    """However large the difference, nine rounds call nothing."""
    assert statistics.verdict(effect(2.0, 2.1, rounds), 0.01, 0.03) == "inconclusive"
    assert statistics.verdict(effect(0.0, 0.0, rounds), 0.01, 0.03) == "inconclusive"


def test_no_interval_and_no_effect_resolve_nothing():
    """A median alone is never a verdict."""
    assert statistics.verdict(None, 0.01, 0.03) == "inconclusive"
    assert statistics.verdict(effect(None, None, 50, speedup=2.0), 0.01, 0.03) == "inconclusive"


class Simulated:
    """Answers the order `read` as a worker would, with times drawn from `noise`, slower by the factor `slower`."""

    def __init__(self, noise, slower: float):
        self.noise, self.slower = noise, slower

    def order(self, name: str, *_) -> dict:
        return {"wall_s": self.slower * next(self.noise), "metrics": {}}


def busy_machine(random: np.random.Generator):
    """Yield times around 10 ms with 4 % of right-skewed noise and a spike of some 30 % in every twentieth."""
    while True:
        spikes = (random.random(500) < 0.05) * random.exponential(0.3, 500)
        yield from 0.01 * np.exp(0.04 * skewed(random, 500).clip(max=5) + spikes)


def play(slower: float, seed: int, rounds: int, process_sd: float) -> Session:
    """Run a whole session, analyses, restarts and stopping included, with a variant `slower` times as slow.

    process_sd: standard deviation of what each process adds to all its measurements, as 0.02 for 2 %.
    """
    random = np.random.default_rng(seed)
    noise = busy_machine(random)

    def start(variants):
        for variant in variants:
            factor = slower if variant.name == "variant" else 1.0
            variant.worker = Simulated(noise, factor * math.exp(random.normal(0, process_sd)))

    variants = [VariantProcess(name, b"", call_s=0.01) for name in ("baseline", CONTROL, "variant")]
    start(variants)
    session = Session(variants, Rules(time_budget_s=1e6, equivalence_margin=0.03, max_rounds=rounds), seed, start)
    session.run(lambda *_: None)
    return session


def verdict_of(*arguments) -> str:
    session = play(*arguments)
    return statistics.verdict(session.effect(session.variants[2]), session.floor(), 0.03)


@pytest.mark.parametrize("process_sd", [0.0, 0.02])
def test_the_whole_rule_seldom_calls_a_winner_among_equals(process_sd):
    """Of many sessions of a function against itself, with all looks, at most 5 % end in a winner or a loser, also
    where each process is faster or slower for all its life by where its memory happens to lie."""
    verdicts = [verdict_of(1.0, seed, 60, process_sd) for seed in range(300)]
    false = sum(verdict in ("faster", "slower") for verdict in verdicts)
    assert false / len(verdicts) <= 0.05


def test_more_rounds_never_make_luck_a_winner():
    """Where processes differ by their luck, six hundred rounds in the same ten sets call no more winners than sixty."""
    verdicts = [verdict_of(1.0, seed, 600, 0.026) for seed in range(60)]
    assert sum(verdict in ("faster", "slower") for verdict in verdicts) / len(verdicts) <= 0.05


def test_sets_that_disagree_widen_the_interval():
    """Many rounds that agree within each of four sets of processes, but not between them, leave a wide interval."""
    differences = [level + 0.001 * (i % 3) for level in (0.0, 0.05, 0.0, 0.05) for i in range(100)]
    together = statistics.effect(differences)
    apart = statistics.effect(differences, [0, 100, 200, 300])
    assert math.log(together.high / together.low) < 0.06
    assert math.log(apart.low) < 0 < 0.05 < math.log(apart.high)
    assert statistics.sets_interval(differences, [0, 100, 200]) is None


def test_the_whole_rule_calls_a_real_difference_and_never_the_wrong_way():
    """A variant truly 15 % slower is called slower in most sessions of 60 rounds, and faster in none."""
    verdicts = [verdict_of(1.15, seed, 60, 0.01) for seed in range(60)]
    assert verdicts.count("faster") == 0
    assert verdicts.count("slower") / len(verdicts) > 0.9


@pytest.mark.parametrize("rounds", [3, 10, 11, 60, 300])
def test_a_session_looks_six_times_at_most_and_ten_sets_of_processes(rounds):
    """However long it lasts, a session has at most six looks, ten sets of processes, and no round too many."""
    session = play(1.05, 1, rounds, 0.02)
    assert len(session.interim_analyses) <= 6
    assert len(session.order) <= rounds
    assert session.interim_analyses[-1] == len(session.order)
    assert session.starts[0] == 0
    assert len(session.starts) <= 10
    shares = np.diff([*session.starts, len(session.order)])
    assert all(share >= 10 for share in shares[:-1])
    assert len(shares) < 3 or max(shares[1:-1]) - min(shares[1:-1]) <= 1  # of equal size, but for the first and last
    assert len(session.variants[2].measurements) == len(session.order)


def curve(*gains: float, half: float = 0.05) -> list[Effect]:
    return [effect(gain - half, gain + half, speedup=gain) for gain in gains]


def test_the_overtaking_size_is_found_with_its_interval():
    """A variant that gains evenly on a log scale overtakes halfway between the sizes, within the interval's ends."""
    effects = curve(-0.6, -0.2, 0.2, 0.6)
    found = statistics.scaling([100, 1000, 10_000, 100_000], effects, ["slower", "slower", "faster", "faster"])
    assert found.overtakes == "between"
    assert found.from_size == pytest.approx(10**3.5, rel=0.01)
    assert 1000 < found.from_low < found.from_size < found.from_high < 10_000


@pytest.mark.parametrize("sizes", [[100, 1000, 100_000], [100, 200, 400, 800]])
def test_a_crossover_takes_four_sizes_over_two_decades(sizes):
    """From fewer sizes, or from a narrower range, a crossover is inconclusive."""
    effects = curve(*np.linspace(-0.6, 0.6, len(sizes)))
    verdicts = ["slower"] + ["faster"] * (len(sizes) - 1)
    assert statistics.scaling(sizes, effects, verdicts) == Scaling(overtakes="inconclusive")


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["faster", "faster"], "always"),
        (["slower", "slower"], "never"),
        (["slower", "equivalent"], "never"),
        (["slower", "inconclusive"], "inconclusive"),
        (["faster", "slower"], "inconclusive"),
        (["slower", "rejected"], "inconclusive"),
    ],
)
def test_what_is_said_of_overtaking(verdicts, said):
    """Always, never or not to be told: only a variant that is faster at the largest size has overtaken."""
    gains = {"faster": 0.3, "slower": -0.3}
    effects = curve(*(gains.get(verdict, 0.0) for verdict in verdicts))
    assert statistics.scaling([10, 100], effects, verdicts).overtakes == said


@pytest.mark.parametrize(
    ("extra", "saving", "calls"), [(10, 0.5, 20), (0, 0.5, 0), (-3, -1, 0), (10, 0, None), (10, -1, None)]
)
def test_break_even(extra, saving, calls):
    """Extra preparation is paid back by the saving a call, at once if there is none, never without a saving."""
    assert statistics.breakeven_calls(extra, saving) == calls
