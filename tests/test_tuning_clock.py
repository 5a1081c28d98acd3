"""A search on the simulated clock goes as it would with so many workers, and pays for all that it takes."""

import math
import time

import numpy as np
import pytest

from kit.errors import UserError
from kit.techniques.tuning import race as racing
from kit.techniques.tuning import scaling, show
from kit.techniques.tuning.clock import simulate
from kit.techniques.tuning.problem import Problem, Step, TrialFailed
from kit.techniques.tuning.race import Found, Racing, beats_the_defaults
from kit.techniques.tuning.searches.search import Asked
from kit.techniques.tuning.workers.variants import Work


class InTurn:
    """Asks for the settings 0, 1, 2 …, notes all it hears, and stops whom it is told to."""

    def __init__(self, stopped=(), most=math.inf):
        self.heard, self.asked, self.stopped, self.most = [], 0, stopped, most

    def __call__(self, problem, trials, seed):
        return self

    def ask(self):
        if self.asked >= self.most:
            return None
        self.asked += 1
        self.heard.append(("asked", self.asked - 1))
        return Asked(self.asked - 1, {"n": self.asked - 1})

    def tell(self, asked, loss, pruned=False):
        self.heard.append(("told", asked.number, loss, pruned))

    def stops(self, asked, step, loss):
        self.heard.append(("reported", asked.number, step))
        return asked.number in self.stopped


def trials_of(losses, seconds, steps=1):
    """A problem whose trial n has these losses, one a step, each after `seconds[n]`."""

    def trial(setting, seed):
        for loss in np.atleast_1d(losses[setting["n"] % len(losses)]):
            if isinstance(loss, np.str_):
                raise TrialFailed(str(loss))
            yield Step(float(loss), seconds[setting["n"] % len(seconds)])

    return Problem("in turn", {}, trial, steps=steps, simulated=True)


def test_one_worker_takes_one_trial_after_another():
    """The span is the sum of all trials and of what the search took; the worker is never idle but for that."""
    history = simulate(InTurn(), trials_of([3.0, 1.0, 2.0], [5.0, 7.0, 11.0]), trials=3, seed=0)
    assert history.span_s == pytest.approx(23.0, abs=0.1)
    assert [trial.number for trial in history.trials] == [0, 1, 2]
    assert history.truths == [3.0, 1.0, 1.0]
    assert history.utilisation == pytest.approx(1.0, abs=0.01)


def test_a_worker_that_asks_knows_of_ended_trials_alone():
    """With two workers the third trial is asked for when the shorter of the first two has ended, and not before."""
    search = InTurn()
    history = simulate(search, trials_of([1.0], [5.0, 2.0, 4.0]), workers=2, trials=3, seed=0)
    told = [each[:2] for each in search.heard]
    assert told == [("asked", 0), ("asked", 1), ("told", 1), ("asked", 2), ("told", 0), ("told", 2)]
    assert [trial.ended_s for trial in history.trials] == pytest.approx([2, 5, 6], abs=0.1)


def test_more_workers_than_trials_end():
    """Whoever finds nothing left to do goes home, and no trial is run twice."""
    history = simulate(InTurn(), trials_of([1.0], [1.0]), workers=50, trials=3, seed=0)
    assert sorted(trial.number for trial in history.trials) == [0, 1, 2]


def test_a_search_may_end_by_itself():
    """A grid at its end gives no more trials, whatever number was asked for."""
    assert len(simulate(InTurn(most=2), trials_of([1.0], [1.0]), workers=2, trials=9, seed=0).trials) == 2


def test_a_pruned_trial_costs_its_steps_and_is_not_chosen():
    """Stopped after its first step it costs that step, and its loss, though lowest, is not that of a whole trial."""
    search = InTurn(stopped={0})
    history = simulate(search, trials_of([[0.1, 0.1, 0.1], [3, 2, 1]], [10.0], steps=3), trials=2, seed=0)
    first, second = history.trials
    assert first.pruned and first.steps == 1 and first.work_s == 10.0
    assert not second.pruned and second.steps == 3 and second.work_s == 30.0
    assert history.chosen == {"n": 1} and history.truths == [math.inf, 1.0]
    assert ("told", 0, 0.1, True) in search.heard and ("told", 1, 1.0, False) in search.heard


def test_a_step_may_be_many_units():
    """A trial is over when its units are done, and the pruner hears of units, not of steps."""

    def trial(setting, seed):
        yield Step(2.0, 1.0, at=3)
        yield Step(1.0, 1.0, at=9)
        yield Step(0.0, 1.0, at=27)

    search = InTurn()
    history = simulate(search, Problem("rungs", {}, trial, steps=9, simulated=True), trials=1, seed=0)
    assert history.trials[0].loss == 1.0 and ("reported", 0, 3) in search.heard


@pytest.mark.parametrize("loss, why", [(math.nan, "nan"), (math.inf, "inf"), ("no memory", "no memory")])
def test_a_failed_trial_counts_for_nothing_and_the_search_goes_on(loss, why):
    """The search is told that it failed; its reason is kept; another one is chosen."""
    search = InTurn()
    losses = [np.array([loss]), np.array([2.0])]
    history = simulate(search, trials_of(losses, [1.0]), trials=2, seed=0)
    assert why in history.trials[0].failed and math.isnan(history.trials[0].loss)
    assert ("told", 0, None, False) in search.heard
    assert history.truths == [math.inf, 2.0] and history.chosen == {"n": 1}


def test_a_real_trial_that_fails_costs_its_time():
    """A search that runs into failures pays for them, unless nothing is really spent."""

    def trial(setting, seed):
        time.sleep(0.05)
        raise TrialFailed("diverged")
        yield

    real, looked_up = (
        simulate(InTurn(), Problem("fails", {}, trial, simulated=simulated), trials=2, seed=0)
        for simulated in (False, True)
    )
    assert real.span_s >= 0.1 and real.work_s >= 0.1
    assert looked_up.work_s == 0.0


def test_what_is_best_is_chosen_by_what_trials_show_and_judged_by_the_truth():
    """Noise may have a worse setting chosen; then the worse truth is what the search has."""

    def trial(setting, seed):
        yield Step([5.0, 1.0][setting["n"]], 1.0)

    problem = Problem("noisy", {}, trial, truth=lambda setting: [2.0, 4.0][setting["n"]], simulated=True)
    assert simulate(InTurn(), problem, trials=2, seed=0).truths == [2.0, 4.0]


def test_a_search_goes_on_until_its_target_or_its_patience_is_at_an_end():
    """More trials than asked for are run only while the target is not reached, and never more than the most."""
    problem = trials_of([9, 8, 7, 6, 5, 4, 3, 2, 1], [1.0])
    assert len(simulate(InTurn(), problem, trials=2, seed=0).trials) == 2
    late = simulate(InTurn(), problem, trials=2, seed=0, target=5.0, most=8)
    assert len(late.trials) == 5 and late.reached(5.0).number == 4
    assert len(simulate(InTurn(), problem, trials=2, seed=0, target=-1.0, most=8).trials) == 8
    assert len(simulate(InTurn(), problem, trials=4, seed=0, target=9.0, most=8).trials) == 4


def test_losses_are_told_by_trials_and_by_time():
    """After so many ends, or at a time, the loss is that of the best so far; before the first end there is none."""
    history = simulate(InTurn(), trials_of([3.0, 1.0], [10.0]), trials=2, seed=0)
    assert [history.after(n) for n in (0, 1, 2, 5)] == [math.inf, 3.0, 1.0, 1.0]
    assert [history.at(s) for s in (9.9, 10.1, 21.0)] == [math.inf, 3.0, 1.0]


# ---------------------------------------------------------------------------------------------- the race


def slope(noise=0.0, cost=lambda at: 1.0, final=lambda setting: setting["x"], default=0.5, steps=1):
    """A problem of one number whose loss it is."""
    from optuna.distributions import FloatDistribution

    def trial(setting, seed):
        chance = np.random.default_rng(seed)
        for at in range(1, steps + 1):
            yield Step(setting["x"] + noise * chance.normal(), cost(at))

    return lambda: Problem(
        "slope", {"x": FloatDistribution(0, 1)}, trial, steps, {"x": default}, final=final, simulated=True
    )


def test_the_target_is_what_random_search_has_after_so_many_trials():
    """In the median the lowest of 7 even draws lies near 1 − 0.5 ^ (1/7)."""
    assert racing.race(slope(), 7).target == pytest.approx(1 - 0.5 ** (1 / 7), abs=0.04)


def test_random_search_reaches_it_in_half_of_the_seeds():
    """The baseline is neither sure of its target nor without a chance: between three and nine of ten come there."""
    one = racing.race(slope(), 8)
    readings = [Racing("random")(one).call(seed) for seed in range(1000, 1040)]
    within = [reading.seconds <= 8.5 for reading in readings]
    assert 0.3 < np.mean(within) < 0.7
    assert 0.7 < np.mean([reading.metrics["reached"] for reading in readings]) <= 1.0


def test_the_same_seed_gives_the_same_search_and_another_one_another():
    """What a round measures can be measured again."""
    one = racing.race(slope(), 8)
    found = [Racing("random")(one).call(seed).metrics["loss after 8 trials"] for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_searches_of_a_round_share_noise_and_not_luck():
    """TPE's first trials are drawn like random search's; with the same luck they would be the same, and tie."""
    one = racing.race(slope(), 8)
    found = [Racing(name)(one).call(1).metrics["loss after 2 trials"] for name in ("random", "TPE")]
    assert found[0] != found[1]
    assert racing.luck("TPE", 1) == racing.luck("TPE", 1) != racing.luck("TPE", 2)


def test_losses_over_time_are_those_of_a_search_that_is_still_under_way():
    """All go on until the time of so many random trials; where one has ended before, nothing is drawn."""
    one = racing.race(slope(cost=lambda at: 0.1), 8)
    whole = Racing("random")(one).call(3)
    assert whole.metrics["trials"] >= 8 and "loss after 4 trials' time" in whole.metrics
    cheap = racing.Race(slope(cost=lambda at: 1e-6), trials=4, target=-1.0, mean_s=10.0)
    assert not [name for name in Racing("random")(cheap).call(1).metrics if "time" in name]


def test_a_search_that_never_comes_there_is_not_fast():
    """Trials that cost nothing don't make a search fast that misses its target: it pays the whole patience."""
    one = racing.Race(slope(cost=lambda at: 1e-6), trials=4, target=-1.0, mean_s=10.0)
    reading = Racing("random")(one).call(1)
    assert reading.metrics["reached"] == 0 and reading.seconds == pytest.approx(3 * 4 * 10.0)
    assert reading.metrics["trials"] == 12


def test_a_race_is_held_against_its_trials():
    """At best all of a search's time is its trials': until its target was reached, or all that it is counted with."""
    one = racing.race(slope(cost=lambda at: 1.0), 8)
    prepared = Racing("random")(one)
    reading = prepared.call(1)
    in_trials = reading.metrics[prepared.ceiling.amount]
    assert in_trials == int(in_trials) and 0 < reading.seconds - in_trials < 0.5  # each trial takes a second
    never = racing.Race(slope(cost=lambda at: 1e-6), trials=4, target=-1.0, mean_s=10.0)
    given_up = Racing("random")(never).call(1)
    assert given_up.seconds - 1 < given_up.metrics[prepared.ceiling.amount] < given_up.seconds


def test_a_search_is_judged_by_data_that_no_trial_saw():
    """The gate asks the problem's last word, not the losses of trials, and of the search's own setting."""
    sound, unsound = (racing.race(slope(final=final), 8) for final in (lambda s: s["x"], lambda s: 1 - s["x"]))
    good, bad = (Racing("random")(one).call(0).answer() for one in (sound, unsound))
    assert good.loss < 0.3 and good.default == 0.5 and good.searches == racing.JUDGED
    assert beats_the_defaults(good, good).state == "held"
    quality = beats_the_defaults(bad, bad)
    assert quality.state == "broken" and "0.5" in quality.note


def test_an_own_objective_is_judged_by_one_more_run():
    """Where no data is held back and no truth is known, the objective is asked again, with a seed that no trial had."""
    asked = []

    def trial(setting, seed):
        asked.append(seed)
        yield Step(setting["x"], 0.0)

    space = dict(slope()().space)
    one = racing.Race(lambda: Problem("own", space, trial, default={"x": 0.9}), trials=4, target=0.5, mean_s=0.1)
    found = Racing("random")(one).call(0).answer()
    assert (found.default, found.on) == (0.9, "a fresh run") and asked.count(racing.FRESH) == 2
    nothing = racing.Race(lambda: Problem("own", space, trial), trials=4, target=0.5, mean_s=0.1)
    unknown = Racing("random")(nothing).call(0).answer()
    assert "default" in beats_the_defaults(unknown, unknown).note


def test_without_defaults_nothing_is_called_good():
    """A check that can't run is no pass."""
    unknown = Found(math.nan, math.nan, "nothing", 0)
    assert beats_the_defaults(unknown, unknown).state == "unchecked"


def test_a_problem_whose_trials_all_fail_is_told():
    """The user hears the reason before anything is measured."""

    def trial(setting, seed):
        raise TrialFailed("no such file")
        yield

    with pytest.raises(UserError, match="no such file"):
        racing.race(lambda: Problem("broken", dict(slope()().space), trial, simulated=True), 3)


# ---------------------------------------------------------------------------------------------- workers


def test_independent_trials_of_one_length_scale_as_the_workers_do():
    """Random search on trials of a second: so many workers, so many times as fast through them."""
    scaled = scaling.scale(slope()(), ["random"], [2, 4], trials=16, seeds=8)["random"]
    assert scaled.workers == [1, 2, 4]
    assert [found[0] for found in scaled.sped_up(scaled.a_trial_s)] == pytest.approx([1, 2, 4], rel=0.02)
    assert scaled.utilisation[:, 0] == pytest.approx([1, 1, 1], abs=0.02)


def test_what_no_one_reached_is_not_told_as_a_speed_up():
    """A seed in which neither came there says nothing; a search that many workers lost has none of its speed."""
    seconds = np.array([[np.inf, 4.0, 4.0], [np.inf, 2.0, np.inf]])
    scaled = scaling.Scaled("s", "p", 3, [1, 2], seconds, seconds, seconds, seconds)
    middle, _, _ = scaled.sped_up(seconds)[1]
    assert middle == pytest.approx(1.0)  # of 4 / 2 and of 4 / infinity


def naps():
    """A problem whose trials really sleep 20 ms."""

    def trial(setting, seed):
        time.sleep(0.02)
        yield Step(setting["x"], 0.02)

    return Problem("naps", dict(slope()().space), trial)


def test_the_clock_is_held_against_real_searches():
    """By one and by two processes the same trials are run, and the clock's error is told of each search."""
    alone, double = scaling.against_real(Work(naps, 10, "grid"), seeds=2)
    assert alone.simulated_s == pytest.approx([0.2, 0.2], abs=0.05)
    assert double.simulated_s == pytest.approx([0.1, 0.1], abs=0.05)
    assert (alone.real_s > 0.2).all() and (double.real_s > 0.1).all()
    told = scaling.held([scaling.Held(2, np.array([1.0, 1.0]), np.array([2.0, 4.0]))])
    assert told.rows == [[2, 2, 1.0, 3.0, "-62%", "-75%", "-50%"]]


def test_half_of_a_gain_is_found_where_it_is():
    """The first time at which half of the way is gone; none where nothing was gained."""
    assert show.first_half([10, 9, 4, 2], [1, 2, 3, 4]) == 3
    assert show.first_half([1, 1], [1, 2]) is None
