"""Searches: samplers and pruners by name, the simulated clock, time to target, statistics over seeds."""

import math
import re
from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler

import kit
from kit.errors import UserError
from kit.measure.work import Measurement
from kit.techniques.tuning import figures, samplers, seeds, simulation, time_to_target
from kit.techniques.tuning.fixed_budget import Evaluated
from kit.techniques.tuning.samplers import SEARCHES, create_study
from kit.techniques.tuning.simulation import simulate
from kit.techniques.tuning.time_to_target import TimeToTarget
from kit.techniques.tuning.workload import SECONDS, SIMULATED, Problem

SPACE = {
    "x": FloatDistribution(-1.0, 1.0),
    "rate": FloatDistribution(1e-4, 1.0, log=True),
    "leaves": IntDistribution(2, 64, log=True),
    "layers": IntDistribution(1, 3),
    "kind": CategoricalDistribution(["a", "b"]),
}


def bowl(trial) -> float:
    """Return a loss that is lowest at x = 0.3, after one simulated second per trial."""
    trial.set_user_attr(SECONDS, 1.0)
    return (trial.suggest_float("x", -1.0, 1.0) - 0.3) ** 2


BOWL = Problem("bowl", bowl, {"x": SPACE["x"]}, {"x": -1.0}, truth=lambda one: (one["x"] - 0.3) ** 2,
               simulated=True)  # fmt: skip

# Samplers and pruners -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", SEARCHES)
def test_every_search_suggests_settings_of_the_space_that_depend_on_its_draws(search):
    """Settings lie within the space, the same draws give the same ones, other draws others."""
    if search == "GP":
        pytest.importorskip("torch")

    def objective(trial):
        trial.set_user_attr(SECONDS, 1.0)
        return trial.params["x"] ** 2

    problem = Problem("mixed", objective, SPACE, simulated=True)
    run = partial(simulate, search, problem, trials=11 if search == "GP" else 24, seed=1)
    found = [[trial.setting for trial in run(draws=draws).trials] for draws in (5, 5, 6)]
    assert found[0] == found[1] != found[2]
    for setting in found[0]:
        assert all(kind._contains(kind.to_internal_repr(setting[name])) for name, kind in SPACE.items())
        assert isinstance(setting["leaves"], int) and setting["kind"] in ("a", "b")


@pytest.mark.parametrize("search", ["TPE", "CMA-ES"])
def test_a_search_that_learns_beats_random_search(search):
    """After 40 trials on Hartmann's function its median loss is lower than that of random search."""
    problem = SIMULATED["Hartmann-6"]()
    medians = [
        np.median([simulate(one, problem, trials=40, seed=s).after(40) for s in range(7)]) for one in (search, "random")
    ]
    assert medians[0] < medians[1]


def test_an_unknown_search_is_refused():
    """The error names the searches there are."""
    with pytest.raises(UserError, match="search='TPP' is unknown; did you mean 'TPE'"):
        create_study("TPP", 0, 0)
    with pytest.raises(UserError, match="pruner='asha' is unknown"):
        create_study("TPE + asha", 0, 0)


def test_optunas_log_and_warnings_are_hidden_and_as_before_afterwards(capsys):
    """Nothing is printed by a search, and the user's own verbosity is kept."""
    optuna.logging.set_verbosity(optuna.logging.INFO)
    simulate("CMA-ES", BOWL, trials=3, seed=0)
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    assert capsys.readouterr().err == ""


# The simulated clock --------------------------------------------------------------------------------------------------


def stepped(losses, seconds=1.0):
    """Return a problem whose trial n has the losses of step 1, 2, …, one simulated second each."""

    def objective(trial):
        trial.suggest_float("x", 0.0, 1.0)
        for step, loss in enumerate(losses[trial.number], 1):
            trial.set_user_attr(SECONDS, seconds * step)
            if loss is None:
                raise ValueError("it broke")
            trial.report(loss, step)
            if step < len(losses[trial.number]) and trial.should_prune():
                raise optuna.TrialPruned
        return loss

    space = {"x": FloatDistribution(0.0, 1.0)}
    return Problem("stepped", objective, space, simulated=True)


def test_trials_take_their_simulated_seconds_and_workers_share_them():
    """Six trials of one second take six seconds by one worker and two by three, but for the sampler's own time."""
    for workers, span_s in ((1, 6.0), (3, 2.0), (9, 1.0)):
        history = simulate("random", stepped([[1.0]] * 6), trials=6, seed=0, workers=workers)
        sampler_s = sum(trial.sampler_s for trial in history.trials)
        assert len(history.trials) == 6
        assert span_s <= history.trials[-1].ended_s <= span_s + sampler_s


class Knows(BaseSampler):
    """A sampler that notes how many trials had ended when it was asked."""

    def __init__(self):
        self.known = []

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, space):
        return {}

    def sample_independent(self, study, trial, name, kind):
        self.known.append(sum(one.state.is_finished() for one in study.get_trials(deepcopy=False)))
        return 0.5


def test_a_suggestion_knows_only_of_trials_that_have_ended_by_then(monkeypatch):
    """Of three workers each first asks with nothing known; a worker that is free again knows what ended until then."""
    sampler = Knows()
    monkeypatch.setattr(samplers, "sampler", lambda *_: sampler)
    simulate("random", stepped([[1.0]] * 9), trials=9, seed=0, workers=3)
    assert sampler.known == [0, 0, 0, 1, 2, 3, 4, 5, 6]


def test_a_pruned_trial_costs_only_its_steps_and_is_not_chosen():
    """ASHA stops a bad trial after its first step; the better one goes on and is chosen."""
    problem = stepped([[0.5, 0.5, 0.5], [0.4, 0.3, 0.2], [0.9, 0.0, 0.0], [0.45, 0.4, 0.4]])
    history = simulate("random + ASHA", problem, trials=4, seed=0)
    pruned = [trial for trial in history.trials if trial.state == "pruned"]
    assert pruned and all(trial.work_s < 3 and trial.loss is None for trial in pruned)
    assert history.after(4) == 0.2
    assert history.chosen(4) == history.trials[1].setting
    assert not [t for t in simulate("random", problem, trials=4, seed=0).trials if t.state == "pruned"]


@pytest.mark.parametrize("loss, reason", [(None, "ValueError: it broke"), (math.nan, "its loss was nan")])
def test_a_failed_trial_costs_itself_and_the_search_continues(loss, reason):
    """It has its reason, is never chosen, and the others are run."""
    history = simulate("TPE", stepped([[loss], [0.7], [0.6]]), trials=3, seed=0)
    assert [trial.state for trial in history.trials] == ["failed", "complete", "complete"]
    assert history.trials[0].reason == reason
    assert history.after(1) == math.inf and history.after(3) == 0.6


def test_a_search_continues_until_its_target_or_its_limit():
    """It stops at the trial that reached the target, but not before its planned trials."""
    problem = stepped([[1.0], [0.5], [0.4], [0.1], [0.0]])
    run = partial(simulate, "random", problem, trials=2, seed=0, at_most=4)
    assert len(run(target=0.9).trials) == 2
    assert len(run(target=0.4).trials) == 3
    assert run(target=0.4).reached(0.4).number == 2
    assert len(run(target=-1.0).trials) == 4 and run(target=-1.0).reached(-1.0) is None


def test_a_setting_is_chosen_by_what_trials_showed_and_judged_without_noise():
    """The lowest shown loss decides; the loss that counts is the true one."""
    problem = stepped([[0.5], [0.1], [0.3]])
    shown = Problem("noisy", problem.objective, problem.space, truth=lambda one: 7.0 + one["x"], simulated=True)
    history = simulate("random", shown, trials=3, seed=0)
    assert history.chosen(3) == history.trials[1].setting
    assert history.after(3) == 7.0 + history.trials[1].setting["x"]


def test_more_workers_speed_up_trials_as_many_times_and_the_answer_less():
    """Equal trials scale with workers; the clock's error widens intervals; a target that nobody reached is no gain."""
    scaled = simulation.scale(SIMULATED["Hartmann-6"](), "random", [4], trials=24, seeds=8)
    ratio, low, high = simulation.speedups(scaled.per_trial)[4]
    assert 2.5 < ratio <= 4.2 and low <= ratio <= high
    wider = simulation.speedups(scaled.per_trial, error=0.5)
    assert wider[4][1:] == pytest.approx((low / 1.5, high * 1.5)) and wider[1] == (1, 1, 1)
    never = {number: some(one.seconds, 0 * one.reached) for number, one in scaled.to_target.items()}
    assert math.isnan(simulation.speedups(never)[4][0])


# Time to target -------------------------------------------------------------------------------------------------------


def bowl_problem() -> Problem:
    """Open the bowl."""
    return BOWL


def test_random_search_reaches_its_target_in_half_of_the_seeds():
    """The target is the median of random search after so many trials."""
    target = time_to_target.target(bowl_problem, 8)
    reached = [simulate("random", BOWL, trials=8, seed=1000 + s).after(8) <= target.loss for s in range(200)]
    assert 0.38 < np.mean(reached) < 0.62


def test_a_censored_search_is_not_fast_however_cheap_its_trials():
    """One that never reached the target has at least the time of as many random trials."""
    target = time_to_target.Target(bowl_problem, 4, -1.0, mean_s=10.0)
    found = TimeToTarget("random")(target).call(3)
    assert isinstance(found, Measurement)
    assert found.metrics["reached"] == 0.0
    assert found.seconds >= time_to_target.PATIENCE * 4 * 10.0


def test_an_objective_that_always_fails_is_reported_with_its_reason():
    """The reason of the objective is in the error."""
    with pytest.raises(UserError, match=r"all 2 trials of random search failed .*it broke"):
        time_to_target.target(lambda: stepped([[None]] * 2), 2)


def test_a_search_that_is_worse_than_the_defaults_is_rejected():
    """The check passes what beats the defaults on held-out data and fails what does not; it takes defaults."""
    held = Problem("held", bowl, BOWL.space, {"x": -1.0}, held_out=lambda one: abs(one["x"] - 0.3), simulated=True)
    check = time_to_target.check(held)
    assert check(0.1, 0.0).state == "passed"
    assert check(math.inf, 0.0).state == "failed" and check(1.4, 0.0).metric == "held-out loss"
    assert time_to_target.check(BOWL)(1.7, 0.0).metric == "loss without noise"
    assert time_to_target.check(Problem("own", bowl, default={"x": 0.0})) is None
    target = time_to_target.Target(lambda: held, 8, 0.05, mean_s=1.0)
    assert 0 < TimeToTarget("random")(target).call(3).answer() < 1.3


def test_a_comparison_of_searches_is_measured_by_its_simulated_seconds(monkeypatch):
    """Rounds have seeds, losses over trials and held-out losses; the baseline's speed-up is judged as any other."""
    check = time_to_target.check(SIMULATED["MNIST kernel"]())
    comparison = kit.Comparison(
        "race", baseline="random", size=4, time_budget_s=60, max_rounds=6, check=check, isolate=False
    )
    for search in ("random", "random + ASHA"):
        comparison.variant(search, TimeToTarget(search))
    monkeypatch.setattr(time_to_target, "TARGETS", 9)
    target = time_to_target.target(SIMULATED["MNIST kernel"], 4)
    found = seeds.of(comparison.run(target))
    assert set(found) == {"random", "random + ASHA"}
    assert {"held-out loss", "work s", "sampler s"} <= set(found["random"].metrics)
    assert len(set(found["random"].seconds.tolist())) > 1


# Statistics over seeds ------------------------------------------------------------------------------------------------


def some(seconds, reached) -> seeds.Seeds:
    """Return seeds by hand."""
    return seeds.Seeds(np.array(seconds, float), np.array(reached, bool), {})


def test_a_share_that_reached_the_target_counts_censored_seeds():
    """By hand: of four seeds one is at the target after 1 s, one is censored at 2 s, one arrives at 3 s."""
    times, share, low, high = seeds.share_reached(some([1, 2, 3, 4], [1, 0, 1, 0]))
    at = dict(zip(times.tolist(), share.tolist(), strict=True))
    assert at[1.0] == pytest.approx(1 / 4)
    assert at[3.0] == pytest.approx(1 - 3 / 4 * 1 / 2)
    assert all(a <= b <= c for a, b, c in zip(low[:3], share[:3], high[:3], strict=True) if not np.isnan([a, c]).any())


@pytest.mark.parametrize("arrived", [0, 1])
def test_a_share_has_a_curve_where_no_seed_or_every_seed_arrives(arrived):
    """No seed at the target is a share of 0 below an upper end, by hand 1 − 0.025^(1/4); no warning is printed."""
    times, share, _, high = seeds.share_reached(some([1, 2, 3, 4], [arrived] * 4))
    assert (times[0], times[-1]) == (1, 4) and share[-1] == arrived
    assert arrived or high[-1] == pytest.approx(1 - 0.025 ** (1 / 4))


def test_expected_seconds_count_the_time_of_those_that_never_arrived():
    """All seconds ÷ arrivals; nobody arrived: infinite."""
    assert seeds.expected_s(some([1, 2, 9, 8], [1, 1, 0, 0]))[0] == 10.0
    assert seeds.expected_s(some([1, 2], [0, 0]))[0] == math.inf


def test_a_speed_up_has_an_interval_over_seeds():
    """Twice as fast in each seed is 2 with both ends; the interval of equal searches contains 1 as often as it says."""
    random = np.random.default_rng(0)
    slow = some(random.exponential(2.0, 400), np.ones(400))
    fast = some(slow.seconds / 2, np.ones(400))
    assert seeds.speedup(fast, slow) == pytest.approx((2.0, 2.0, 2.0))
    found = [seeds.speedup(*(some(random.exponential(2.0, 200), np.ones(200)) for _ in "ab")) for _ in range(40)]
    assert all(low < value < high for value, low, high in found)
    assert sum(low < 1 < high for _, low, high in found) >= 34  # 95 % intervals: 38 are expected


def test_the_share_of_seeds_that_beat_the_defaults_is_exact():
    """Ten of ten seeds are 100 %, with the exact lower end."""
    value, low, high = seeds.beats(np.full(10, 0.1), 0.2)
    assert (value, high) == (1.0, 1.0)
    assert low == pytest.approx(0.6915, abs=1e-3)


# Conclusions ----------------------------------------------------------------------------------------------------------


def searches(losses):
    """Return searches over 60 seeds by hand, with their held-out losses."""
    held_out = {name: {"held-out loss": np.resize(loss, 60)} for name, loss in (losses or {}).items()}
    return {name: seeds.Seeds(np.ones(60), np.ones(60, bool), held_out.get(name, {})) for name in ("random", "TPE")}


DECIDED, SPLIT, BAD = 0.1, [0.1, 0.3], 0.3  # held-out losses next to the defaults' 0.2: all better, half, none


@pytest.mark.parametrize(
    "losses, faster, time, table, headline, evidence",
    [
        # all are better than the defaults and one is faster
        ({"random": DECIDED, "TPE": DECIDED}, "TPE", "1.9×", {}, "Tune with TPE",
         [r"^Tune with TPE: better .* digits net in 100 % .* \(TPE\); to the target loss: TPE 1\.9×$"]),
        # better, no search significantly faster than the other
        ({"random": DECIDED, "TPE": DECIDED}, "", "1.2×", {},
         "Tune with random search or TPE (no significant difference between them)",
         [r"in 100 % .* of seeds \(random search and TPE\)", "to the target loss: TPE 1.2×$"]),
        # none reached the target: they are not compared by time
        ({"random": DECIDED, "TPE": DECIDED}, "", "not reached", {},
         "Tune with random search or TPE (not compared by time to target)", ["TPE not reached"]),
        # one is better, the other not decided, and the table decides nothing
        ({"random": SPLIT, "TPE": DECIDED}, "random", "takes 4×", {"TPE": (-0.1, 0.1)}, "Tune with TPE",
         ["in 100 %", r"inconclusive: .* 50 % .* \(random search\); loss .*' \+0 \(95 % CI -0.1 to \+0.1\) \(TPE\)$"]),
        # better on one data set, worse on the other
        ({"random": SPLIT, "TPE": DECIDED}, "", "1.2×", {"TPE": (0.1, 0.2)}, "No winner shown",
         [r"50 % \(95 % CI 37–63 %\) of seeds", r"less the defaults' \+0.15"]),
        ({"random": BAD, "TPE": BAD}, "", "1.2×", {"FLAML": (0.1, 0.2)}, "Keep the defaults", ["in 0 % .*TPE"]),
        ({"random": BAD, "TPE": SPLIT}, "", "1.2×", {}, "No winner shown", ["50 % .*TPE"]),
        # no defaults: the table alone, or nothing
        (None, "", "1.2×", {"TPE": (-0.2, -0.1), "FLAML": (-0.3, -0.1)}, "Tune with TPE", ["on the table.*TPE"]),
        (None, "", "1.2×", {"FLAML": (-0.3, -0.1), "AutoML": (-0.3, -0.1)},
         "Tune with FLAML or AutoML (not compared by time to target)", ["FLAML and AutoML"]),
        (None, "", "1.2×", {}, "No winner shown", ["no defaults with `held_out` and no table"]),
    ],
)  # fmt: skip
def test_held_out_data_decides_whether_tuning_is_worth_it(losses, faster, time, table, headline, evidence):
    """The headline names every search that is not significantly slower, the evidence what is not decided."""
    evaluated = {name: (None, Evaluated(0.5, sum(ends) / 2, *ends)) for name, ends in table.items()}
    results = figures.held_out(searches(losses), 0.2 if losses else None, "digits net", evaluated)
    found, worth_it = figures.advice(results, {"random": "", "TPE": time}, lambda one, other: one == faster != other)
    assert found.partition(": ")[0] == headline
    assert all(re.search(part, found) for part in evidence), found
    assert worth_it is {"T": True, "K": False, "N": None}[headline[0]]


def test_a_search_that_misses_the_target_more_often_is_no_tie(monkeypatch):
    """It is behind with its share of seeds, whatever the median ratio of seed by seed is."""
    found = {n: np.arange(100) < reached for n, reached in (("random", 76), ("TPE", 82), ("random + ASHA", 45))}
    made = {n: seeds.Seeds(np.ones(100), r, {"work s": np.ones(100), "held-out loss": 0 * r}) for n, r in found.items()}
    result = mock.MagicMock()
    result.__getitem__.return_value.variant.effect = mock.MagicMock(speedup=1.0, low=0.8, high=1.1)
    monkeypatch.setattr(figures.over, "of", lambda result: made)
    ((_, text),) = figures.conclusion(result, replace(BOWL, held_out=lambda one: 1.0), {})[0].rows
    assert text.startswith("Tune with random search or TPE (") and "ASHA reaches it in 45 % (" in text
