"""What the planner promises holds when comparisons are played by the kit's own rules, on noise it has not seen."""

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from record_factory import make_record

from kit import cli, doctor, planning
from kit.errors import UserError
from kit.machine import ceilings, fingerprint
from kit.measure import noise as noises
from kit.measure import planner, rounds, statistics
from kit.measure.noise import Noise
from kit.measure.rounds import Rules, Seat, Table
from kit.record import store
from kit.record.document import CONTROL, Point, Variant


class World:
    """A machine whose time is simulated: processes with a luck of their own, readings with noise and preemptions."""

    def __init__(
        self, seed: int, luck: float = 0.005, scatter: float = 0.03, call_s: float = 0.01, start_s: float = 0.3
    ):
        self.random = np.random.default_rng(seed)
        self.luck, self.scatter, self.call_s, self.start_s = luck, scatter, call_s, start_s
        self.now = 0.0
        self.lucks: dict[str, float] = {}

    def play(self, seconds: float, faster: float = 0.0, max_rounds: int = 1000) -> Table:
        """Play one session of the kit's own rounds, with a variant that is faster by this log-ratio."""
        seats = [Seat(name, b"", worker=Process(self, name, speed)) for name, speed in self.speeds(faster)]
        for seat in seats:
            seat.reading_s, seat.start_s = self.call_s, self.start_s + self.call_s
        self.renew(seats)
        self.now = 0.0
        table = Table(seats, Rules(seconds, 0.03, max_rounds), 1, self.renew)
        table.play(lambda *_: None)
        return table

    def speeds(self, faster: float) -> list[tuple[str, float]]:
        return [("base", 0.0), (CONTROL, 0.0), ("variant", faster)]

    def renew(self, seats: list[Seat]) -> None:
        for seat in seats:
            self.lucks[seat.name] = self.random.normal(0, self.luck / math.sqrt(2))
            self.now += self.start_s + self.call_s

    def reading_s(self, name: str, speed: float) -> float:
        preempted = self.random.exponential(0.3) if self.random.random() < 0.05 else 0.0
        off = self.random.normal(0, self.scatter / math.sqrt(2)) + preempted + self.lucks[name] - speed
        return self.call_s * math.exp(off)

    def point(self, table: Table) -> Point:
        """Return what a record would hold of a session."""
        told = dict(state="measured", prepare_s=self.start_s - noises.START_S, cold_s=self.call_s, warm_s=self.call_s)
        names = [(name, "baseline" if name == "base" else "same") for name in ("base", "variant")]
        variants = [Variant(name=name, verdict=verdict, **told) for name, verdict in names]
        up_s = 3 * (self.start_s + 4 * self.call_s)
        return Point(
            size=None, seed=1, together=True, seconds=self.now + up_s, sessions=[table.session()], variants=variants
        )

    def noise(self, seconds: float) -> Noise:
        """Return the noise that a session here recorded."""
        point = self.point(self.play(seconds))
        return noises.of_session(point, point.sessions[0], "base", seconds, 0.03, 1000)


class Process:
    """A worker in a simulated world."""

    def __init__(self, world: World, name: str, speed: float):
        self.world, self.name, self.speed = world, name, speed

    def order(self, order: str, *_):
        wall_s = self.world.reading_s(self.name, self.speed)
        self.world.now += self.world.call_s
        return {"wall_s": wall_s, "cpu_s": 0.0, "switches": 0, "metrics": {}}


@pytest.fixture
def world(monkeypatch):
    """Make worlds by whose clock rounds go."""
    made = []
    monkeypatch.setattr(rounds.time, "monotonic", lambda: made[-1].now)
    monkeypatch.setattr(rounds, "_cpu_times", lambda: None)

    def make(*arguments, **options) -> World:
        made.append(World(*arguments, **options))
        return made[-1]

    return make


def verdict(table: Table) -> str:
    return statistics.verdict(table.effect(table.seats[2]), table.floor(), table.rules.target)


def some_noise(**changes) -> Noise:
    random = np.random.default_rng(3)
    given = dict(residuals=random.normal(0, 0.03, (60, 2)), luck=0.01, round_s=0.04, renewal_s=0.9, starts=5)
    return Noise(**given | changes)


# --- the planner plays by the kit's rules -----------------------------------------------------------------------------


@pytest.mark.parametrize("luck", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("difference", [0.0, 0.02, -0.04, 0.15, 0.6])
def test_what_is_played_is_what_the_statistics_say(luck, difference):
    """At every look, intervals, floors and verdicts are those of the kit's own statistics on the same rounds."""
    noise = some_noise(luck=luck)
    taken = planner.plan(noise, 20)
    played = planner.play(noise, taken, seed=5, draws=12)
    control, variant = planner.draw(noise, taken, seed=5, draws=12)
    shares = []
    for own, found in zip(control, variant, strict=True):
        for position, n in enumerate(taken.looks):
            starts = [start for start in taken.starts if start < n]
            seen = statistics.effect(found[:n] + difference, starts)
            floor = statistics.noise_floor(statistics.effect(own[:n], starts), statistics.effective_starts(starts, n))
            row = len(shares)
            assert played.low[position, row] + difference == pytest.approx(math.log(seen.low))
            assert played.high[position, row] + difference == pytest.approx(math.log(seen.high))
            assert played.floor[position, row] == pytest.approx(floor)
            said = statistics.verdict(seen, floor, noise.target)
            if said != "unresolved" and statistics.half_width(seen) <= statistics.PRECISION:
                break
        shares.append(said == "faster")
    assert planner.called(played, difference, noise.target) == pytest.approx(np.mean(shares))


@pytest.mark.parametrize("seconds", [0.2, 0.5, 3, 20, 60, 300])
@pytest.mark.parametrize("start_s", [0.05, 0.3, 4.0])
def test_a_plan_is_what_a_comparison_does(world, seconds, start_s):
    """Rounds, looks and fresh starts that are planned are those that the kit takes in the same budget."""
    here = world(1, start_s=start_s)
    here.speeds = lambda faster: [("base", 0.0), (CONTROL, 0.0), ("variant", 0.0)]
    noise = some_noise(round_s=3 * here.call_s, renewal_s=3 * (start_s + here.call_s))
    taken = planner.plan(noise, seconds)
    table = here.play(seconds)
    if table.stopped == "settled":
        assert tuple(table.looks) == taken.looks[: len(table.looks)]
    else:
        assert len(table.order) == pytest.approx(taken.rounds, abs=1)
        assert len(table.looks) == len(taken.looks)
    assert table.starts == pytest.approx(taken.starts[: len(table.starts)], abs=2)
    assert len(table.starts) == len([start for start in taken.starts if start < len(table.order)])


# --- what is promised holds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("difference", "luck", "scatter"), [(0.05, 0.005, 0.03), (0.08, 0.02, 0.03), (0.1, 0.02, 0.1)])
def test_a_planned_difference_is_called_as_often_as_promised(world, difference, luck, scatter):
    """In the time that is planned by the noise of one session, a true difference is called in about nine of ten later
    ones, half of it is not, and none of it hardly ever."""
    called, half, none = [], [], []
    for seed in range(4):
        here = world(seed, luck=luck, scatter=scatter)
        found = planner.needed(here.noise(60), difference)
        assert isinstance(found, planner.Plan)
        wanted = math.log1p(difference)
        for verdicts, true, replays in ((called, wanted, 20), (half, wanted / 2, 8), (none, 0.0, 8)):
            verdicts += [verdict(here.play(found.seconds, true)) for _ in range(replays)]
    assert called.count("faster") >= 0.8 * len(called)
    assert half.count("faster") <= 0.4 * len(half)
    assert none.count("faster") + none.count("slower") <= 0.05 * len(none)


def test_what_can_be_seen_in_a_budget_is_seen(world):
    """The smallest difference that a budget is said to show is called in about nine of ten sessions of that budget."""
    here = world(6, luck=0.01)
    difference = planner.resolvable(here.noise(60), 15)
    called = [verdict(here.play(15, math.log1p(difference))) for _ in range(60)].count("faster")
    assert called >= 47


def test_more_time_and_less_noise_show_more():
    """A longer budget, a quieter machine and quicker starts never hide what was seen before."""
    noise = some_noise()
    seen = [planner.resolvable(noise, seconds) for seconds in (2, 10, 40, 160)]
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < seen[0]
    assert planner.resolvable(replace(noise, residuals=noise.residuals / 10), 10) < seen[1]
    assert planner.resolvable(replace(noise, renewal_s=0.1), 10) < seen[1]
    assert planner.resolvable(some_noise(round_s=10.0), 5) is None


def test_the_time_that_is_needed_is_the_least_that_is_enough():
    """What is needed for a difference shows it, and four fifths of it do not."""
    noise = some_noise(luck=0.005)
    found = planner.needed(noise, 0.06)
    assert planner.resolvable(noise, found.seconds) <= 0.061
    assert planner.resolvable(noise, 0.8 * found.seconds) > 0.0595


@pytest.mark.parametrize(
    ("difference", "changes", "why"),
    [
        (0.005, {}, "10 starts, the most that are made, leave a floor of 1 %"),
        (0.03, {"luck": 0.05}, "fresh processes differ by 5 %; at most 10 sets of them are started"),
        (0.03, {"luck": 0.05, "starts": 2}, "fresh processes are believed to differ by 5 %, too few were seen to know"),
        (0.02, {"max_rounds": 15}, "15 rounds, all that max_rounds=15 allows, scatter too much"),
        (0.02, {"round_s": 3600.0}, "23 rounds, all that fit into a day, scatter too much"),
    ],
)
def test_what_no_time_is_enough_for_says_why(difference, changes, why):
    """A difference that can't be seen is told with its cause and with the smallest one that can."""
    found = planner.needed(some_noise(**changes), difference)
    assert isinstance(found, planner.Unreachable)
    assert why in found.why
    assert found.best is None or found.best > difference


def test_a_budget_is_rounded_up_to_two_digits():
    """What is told is never less than what is needed."""
    numbers = [random.Random(1).uniform(0.1, 1e5) for _ in range(200)]
    assert all(value <= planner.rounded_up(value) <= 1.1 * value for value in numbers)
    assert planner.rounded_up(0.3) == 0.3
    assert planner.rounded_up(120) == 120


# --- noise, as recorded and as it is now ------------------------------------------------------------------------------


@pytest.mark.parametrize("start_s", [0.15, 1.0])
def test_costs_are_read_off_a_record(world, start_s):
    """Seconds of a round and of fresh starts are those that the session had."""
    here = world(2, start_s=start_s, scatter=0.4)
    noise = here.noise(30)
    assert noise.round_s == pytest.approx(3 * here.call_s, rel=0.3)
    assert noise.renewal_s == pytest.approx(3 * (start_s + here.call_s), rel=0.1)


def test_work_with_a_clock_of_its_own_costs_what_the_session_took(world):
    """Where readings are not of the clock, the cost of a round is what the budget gave it."""
    here = world(2)
    table = here.play(5)
    for seat in table.seats:
        for reading in seat.readings:
            reading["wall_s"] *= 1000
    point = here.point(table)
    slow = [
        Variant(name=v.name, state="measured", verdict=v.verdict, prepare_s=0.1, warm_s=10.0) for v in point.variants
    ]
    point = Point(size=None, seed=1, together=True, seconds=6, sessions=point.sessions, variants=slow)
    round_s, renewal_s = noises.costs(point, point.sessions[0], "base", 5)
    assert round_s * len(table.order) < 5
    assert renewal_s < 2.5


@pytest.mark.parametrize("true", [0.0, 0.03, 0.1])
def test_luck_is_told_from_noise(true):
    """With many sets of processes their luck is found; with one set it is what is believed."""
    random, starts = np.random.default_rng(1), list(range(0, 400, 40))
    per_set = np.repeat(random.normal(0, true, (6, 10)), 40, axis=1)
    ratios = list(random.normal(0, 0.02, (6, 400)) + per_set)
    assert noises.luck(ratios, starts) == pytest.approx(true, abs=0.007 + 0.25 * true)
    assert noises.luck(ratios, [0]) == noises.LUCK


def test_a_session_too_short_tells_nothing(world):
    """Under ten rounds there is no noise to plan by, and none is made up."""
    here = world(1)
    point = here.point(here.play(1, max_rounds=9))
    assert noises.of_session(point, point.sessions[0], "base", 1, 0.03, 9) is None


def test_a_session_that_no_kit_wrote_tells_nothing(world):
    """Whatever a record lacks or makes up, there is no noise to plan by, and no traceback."""
    here = world(1)
    point = here.point(here.play(2))
    session = point.sessions[0]
    odd = [
        change(session, readings={}),
        change(session, variants=["base", CONTROL, "nobody"]),
        change(session, readings=session.readings | {"base": change(session.readings["base"], wall_s=[])}),
        change(session, variants=["base"]),
    ]
    assert [noises.of_session(point, one, "base", 2, 0.03, 1000) for one in odd] == [None] * 4
    assert noises.of_session(point, session, "nobody", 2, 0.03, 1000) is None
    torn = noises.of_session(point, change(session, starts=[5, 5, -3, 10**9]), "base", 2, 0.03, 1000)
    assert planner.resolvable(torn, 2) is not None


@pytest.fixture(scope="module")
def measured():
    """How noisy this machine is, really measured once, in few seconds."""
    found = noises.now(1, seconds=1.0)
    assert found is not None
    return found


def test_the_noise_of_now_is_measured_by_the_kits_own_rounds(measured):
    """The same work in three processes has rounds, an A/A interval, load and steal of each round."""
    session = measured.session
    assert len(session.order) >= statistics.MIN_ROUNDS
    assert session.noise.low <= session.noise.speedup <= session.noise.high
    assert len(session.load) == len(session.steal) == len(session.order)
    assert measured.noise.residuals.shape == (len(session.order), 2)
    assert 0 < measured.noise.scatter < 5
    assert 0 < measured.call_s < measured.noise.round_s
    assert measured.noise.renewal_s > 0


# --- what a person sees -----------------------------------------------------------------------------------------------


def test_doctor_measures_as_json(measured, monkeypatch, capsys):
    """`kit doctor --measure --json` holds the ceilings, the noise of now and what can be seen in each budget."""
    monkeypatch.setattr(doctor.capabilities, "CAPABILITIES", {})
    monkeypatch.setenv(ceilings.BUDGET, "0")
    monkeypatch.setattr(planning, "now", lambda threads: measured)
    assert doctor.main({}, as_json=True, measure=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["ceilings"]) == set(ceilings.every())
    assert told["ceilings"]["disk_read_mib_per_s"] == {"rate": None, "reason": "KIT_PROBE_S=0"}
    assert told["noise"]["rounds"] == len(measured.session.order)
    assert [seen["seconds"] for seen in told["seen"]] == list(planning.BUDGETS_S)


def test_doctor_measures_for_people(measured, monkeypatch, capsys):
    """`kit doctor --measure` names each ceiling with its unit or its reason, and says what a comparison can see."""
    monkeypatch.setattr(doctor.capabilities, "CAPABILITIES", {})
    monkeypatch.setenv(ceilings.BUDGET, "0")
    monkeypatch.setattr(planning, "now", lambda threads: measured)
    monkeypatch.setattr(ceilings, "examined", lambda names, threads: {n: ceilings.Found(8.4) for n in names})
    doctor.main({}, measure=True)
    told = capsys.readouterr().out
    assert "memory copy" in told and "8.40 GiB/s" in told
    assert "of work against itself" in told
    assert "With 5 s a comparison you can see " in told


def test_a_machine_too_busy_to_measure_is_told(monkeypatch, capsys):
    """Where not even ten rounds fitted, doctor says so after its ceilings, and a plan is refused with what to do."""
    monkeypatch.setattr(doctor.capabilities, "CAPABILITIES", {})
    monkeypatch.setenv(ceilings.BUDGET, "0")
    monkeypatch.setattr(planning, "now", lambda threads: None)
    assert doctor.main({}, measure=True) == 0
    assert "This machine is too busy to tell how noisy it is" in capsys.readouterr().out
    assert doctor.main({}, as_json=True, measure=True) == 0
    assert json.loads(capsys.readouterr().out)["noise"] is None
    assert cli.main(["plan"]) == 2
    assert "end what else it does, or name a notebook" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [[], ["--resolve", "20%"], ["--seconds", "7"], ["--resolve", "20%", "--seconds", "7"]]
)
def test_a_plan_for_this_machine(measured, monkeypatch, capsys, options):
    """`kit plan` says for calls of several lengths what can be seen in a budget, or what a difference needs."""
    monkeypatch.setattr(planning, "now", lambda threads: measured)
    assert cli.main(["plan", *options]) == 0
    told = capsys.readouterr().out
    assert "10.0 ms" in told and "1.00 s" in told
    assert ("for 20 %" in told) == ("--resolve" in options)
    assert ("seen in 7 s" in told) == ("--seconds" in options)
    assert ("seen in 20 s" in told) == (not options)


@pytest.fixture
def kept(tmp_path, world, monkeypatch):
    """Keep a record of a simulated session as a notebook's run would; its parameter `seconds` is twice the budget."""
    (tmp_path / "notebooks").mkdir()
    cell = {"cell_type": "code", "metadata": {}, "source": "", "outputs": [], "execution_count": None}
    document = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [cell]}
    (tmp_path / "notebooks" / "01_dataframes.ipynb").write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path)

    def keep(comparison: str, written: str, complete: bool = True, machine=None, **options) -> None:
        here = world(2, **options)
        record = make_record(rounds=1)
        asked = dict(comparison=comparison, baseline="base", parameters={"seconds": 60.0}, unit="rows", sizes=[1000])
        point = here.point(here.play(30))
        changed = dict(
            id=f"{written}-{random.randrange(2**32):08x}", written=f"{written[:4]}-01-01T00:00:00Z", complete=complete,
            asked=change(record.asked, notebook="01_dataframes", sources={}, **asked),
            how=change(record.how, seconds=30.0, target=0.03, max_rounds=1000),
            machine=machine or fingerprint.machine(),
            points=[change(point, size=1000)], scaling={}, exhibits=[],
        )  # fmt: skip
        store.write(change(record, **changed), tmp_path / "runs" / "01_dataframes" / "abc" / "records")

    return keep


def change(what, **changes):
    import msgspec

    return msgspec.structs.replace(what, **changes)


def test_a_plan_for_a_notebook(kept, capsys):
    """`kit plan NOTEBOOK --resolve` says of each comparison at each size what its budget shows, what the difference
    needs, and the notebook's own parameter for it."""
    kept("groupby", "20260101T000000Z", scatter=0.2, call_s=0.03)
    kept("join", "20260101T000000Z", scatter=0.02)
    assert cli.main(["plan", "01", "--resolve", "5%"]) == 0
    told = capsys.readouterr().out
    groupby, join, all_ = told.split("\n\n")[1:]
    assert groupby.startswith("groupby at 1,000 rows: variant scatters most, half of its rounds within ±")
    assert "30 s, as now: " in groupby
    seconds = [float(block.partition("5 % needs ")[2].split()[0]) for block in (groupby, join)]
    given = [float(block.strip().rpartition("-p seconds=")[2]) for block in (groupby, join, all_)]
    assert seconds[0] > seconds[1]
    assert given[:2] == pytest.approx([2 * s for s in seconds], rel=0.1)
    assert given[2] == max(given[:2])


def test_the_newest_whole_record_of_this_machine_is_planned_by(kept, capsys):
    """What was interrupted, is older, or comes from another machine gives way; what is only elsewhere is told so."""
    other = change(fingerprint.machine(), key="another")
    kept("groupby", "20260101T000000Z", scatter=0.3)
    kept("groupby", "20270101T000000Z", scatter=0.02)
    kept("groupby", "20280101T000000Z", scatter=0.3, complete=False)
    kept("groupby", "20290101T000000Z", scatter=0.3, machine=other)
    (here,) = planning.newest("01_dataframes", "runs")
    assert here.written.startswith("2027")
    kept("join", "20290101T000000Z", machine=other)
    cli.main(["plan", "01", "--seconds", "20"])
    told = capsys.readouterr().out
    assert "some of it on another machine" in told
    assert "10 s: " in told


def test_a_plan_by_runs_that_are_not_there(kept, capsys):
    """Without a run of the notebook the plan says how to make one; a comparison of one variant is none."""
    assert cli.main(["plan", "01_dataframes", "--runs", "nowhere"]) == 2
    assert "no run of 01_dataframes is kept in nowhere; make one: kit run 01_dataframes" in capsys.readouterr().err
    with pytest.raises(UserError, match="a comparison has a baseline and at least one more"):
        planning.main(None, "runs", None, None, 1)
