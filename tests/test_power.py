"""What power analysis promises holds when comparisons are run by the kit's own rules, on noise it has not seen."""

import math
from dataclasses import replace

import numpy as np
import pytest
from record_factory import make_record

from kit import cli, planning
from kit.measure import power, session, statistics
from kit.measure.power import Noise
from kit.measure.session import Rules, Session
from kit.measure.variant import VariantProcess
from kit.record import store
from kit.record.document import CONTROL


class World:
    """A machine whose time is simulated: processes that differ for life, measurements with noise and preemptions."""

    def __init__(self, seed: int, process_sd: float = 0.005, scatter: float = 0.03, start_s: float = 0.3):
        self.random = np.random.default_rng(seed)
        self.process_sd, self.scatter, self.call_s, self.start_s = process_sd, scatter, 0.03, start_s
        self.now = 0.0
        self.lives: dict[str, float] = {}

    def run(self, time_budget_s: float, faster: float = 0.0) -> Session:
        """Run one session by the kit's own rounds, with a variant that is faster by this log-ratio."""
        speeds = {"base": 0.0, CONTROL: 0.0, "variant": faster}
        variants = [
            VariantProcess(name, b"", worker=Process(self, name, speed), call_s=self.call_s, start_s=self.start_s)
            for name, speed in speeds.items()
        ]
        self.restart(variants)
        self.now = 0.0
        ran = Session(variants, Rules(time_budget_s, 0.03, 1000), 1, self.restart)
        ran.run(lambda *_: None)
        return ran

    def restart(self, variants: list[VariantProcess]) -> None:
        for variant in variants:
            self.lives[variant.name] = self.random.normal(0, self.process_sd / math.sqrt(2))
            self.now += self.start_s

    def wall_s(self, name: str, speed: float) -> float:
        preempted = self.random.exponential(0.3) if self.random.random() < 0.05 else 0.0
        off = self.random.normal(0, self.scatter / math.sqrt(2)) + preempted + self.lives[name] - speed
        return self.call_s * math.exp(off)

    def noise(self, time_budget_s: float) -> Noise:
        """Return the noise that a session here recorded."""
        return power.noise_of(self.run(time_budget_s).found(), "base", 1000)


class Process:
    """A worker in a simulated world."""

    def __init__(self, world: World, name: str, speed: float):
        self.world, self.name, self.speed = world, name, speed

    def order(self, *_):
        self.world.now += self.world.call_s
        wall_s = self.world.wall_s(self.name, self.speed)
        return {"wall_s": wall_s, "metrics": {}}


@pytest.fixture
def world(monkeypatch):
    """Make worlds whose clock the rounds go by."""
    made = []
    monkeypatch.setattr(session.time, "monotonic", lambda: made[-1].now)

    def make(*arguments, **options) -> World:
        made.append(World(*arguments, **options))
        return made[-1]

    return make


def verdict(ran: Session) -> str:
    return statistics.verdict(ran.effect(ran.variants[2]), ran.floor(), ran.rules.equivalence_margin)


def some_noise(**changes) -> Noise:
    random = np.random.default_rng(3)
    given = dict(variant="b", residuals=random.normal(0, 0.03, 60), process_sd=0.01, round_s=0.04, restart_s=0.9)
    return Noise(**given | dict(max_rounds=1000) | changes)


@pytest.mark.parametrize("time_budget_s", [0.5, 3, 20, 60])
@pytest.mark.parametrize("start_s", [0.1, 4.0])
def test_a_plan_is_what_a_comparison_does(world, time_budget_s, start_s):
    """Rounds and restarts that are planned are those that a session takes in the same budget."""
    here = world(1, start_s=start_s)
    planned = power.plan(some_noise(round_s=3 * here.call_s, restart_s=3 * start_s), time_budget_s)
    ran = here.run(time_budget_s)
    if ran.stopped != "settled":
        assert len(ran.order) == pytest.approx(planned.rounds, abs=1)
    assert ran.starts == pytest.approx(planned.starts[: len(ran.starts)], abs=2)


def test_a_planned_difference_is_detected_as_often_as_promised(world):
    """In the time that is planned by the noise of one session, a true difference is detected in about nine of ten later
    ones, half of it is not, and none of it hardly ever."""
    whole, half, none = [], [], []
    for seed in range(4):
        here = world(seed, process_sd=0.01, scatter=0.03)
        planned = power.needed(here.noise(60), 0.06)
        wanted = math.log1p(0.06)
        for verdicts, true, times in ((whole, wanted, 15), (half, wanted / 2, 8), (none, 0.0, 8)):
            verdicts += [verdict(here.run(planned.time_budget_s, true)) for _ in range(times)]
    assert whole.count("faster") >= 0.8 * len(whole)
    assert half.count("faster") <= 0.4 * len(half)
    assert none.count("faster") + none.count("slower") <= 0.05 * len(none)


def test_more_time_and_less_noise_detect_more():
    """A longer budget, a quieter machine and quicker starts never hide what was detected before."""
    noise = some_noise()
    seen = [power.minimum_detectable_effect(noise, seconds) for seconds in (2, 10, 40, 160)]
    assert seen == sorted(seen, reverse=True) and seen[-1] < seen[0]
    assert power.minimum_detectable_effect(replace(noise, residuals=noise.residuals / 10), 10) < seen[1]
    assert power.minimum_detectable_effect(replace(noise, restart_s=0.1), 10) < seen[1]
    assert power.minimum_detectable_effect(some_noise(round_s=10.0), 5) is None


def test_the_needed_time_is_the_least_that_is_enough():
    """What is needed for a difference detects it, and four fifths of it do not; below the floor no time is enough."""
    noise = some_noise(process_sd=0.005)
    planned = power.needed(noise, 0.06)
    assert power.minimum_detectable_effect(noise, planned.time_budget_s) <= 0.06
    assert power.minimum_detectable_effect(noise, 0.8 * planned.time_budget_s) > 0.06
    assert power.needed(noise, 0.005) is None


def test_a_plan_by_a_notebooks_runs(tmp_path, monkeypatch, capsys):
    """`kit plan` prints for each comparison what its budget detects, and the command that a difference needs."""
    record = make_record(rounds=60)
    folder = tmp_path / "runs" / "01_dataframes" / "k" / "records"
    store.write(record, folder)
    assert planning.main("01_dataframes", str(tmp_path / "runs"), 0.1) == 0
    printed = capsys.readouterr().out
    assert "minimum detectable effect" in printed and "10 %: " in printed


def test_a_plan_without_runs_names_the_remedy(tmp_path, capsys):
    """Without a kept run, `kit plan` says how to make one, and exits with 2."""
    assert cli.main(["plan", "01_dataframes", "--runs", str(tmp_path)]) == 2
    assert "kit run 01_dataframes" in capsys.readouterr().err


def test_this_machine_now():
    """Without a notebook, a function is compared with itself in real processes."""
    lines = planning.this_machine()
    assert "process restarts" in lines[0] or "too busy" in lines[0]
