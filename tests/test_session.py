"""What differs between variants and is not the work is equal or does not count: calls, first calls, starts, names."""

import sys
import venv

import numpy as np
import pytest

from kit import Comparison
from kit.measure import statistics
from kit.measure.comparison import _own_copy
from kit.measure.session import Rules, Session, fitting, most_restarts, rounds_of_a_set
from kit.measure.variant import LIKE_SPEED, UNTIMED_BELOW_S, VariantProcess, choose_calls
from kit.measure.worker import SHORTEST_BLOCK_S, Work
from kit.record.document import CONTROL

FIRST_CALL = 0.3
"""What the first call of a measurement costs more, as caches emptied by others do: a share of one call."""


class ColdFirst:
    """A worker whose first call of each measurement costs more, timed or not."""

    def __init__(self, call_s: float, random: np.random.Generator):
        self.call_s, self.random = call_s, random

    def order(self, name: str, seed: int, calls: int, blocks: int, untimed_call: bool) -> dict:
        first_s = 0.0 if untimed_call else FIRST_CALL * self.call_s
        wall_s = self.call_s * np.exp(self.random.normal(0, 0.002)) + first_s / calls
        return {"wall_s": wall_s, "metrics": {}}


def session_of(call_s: dict[str, float], calibrated_s: dict[str, float], untimed: bool = True) -> Session:
    """Run 40 rounds of work of these seconds, whose calibration took other seconds for it."""
    random = np.random.default_rng(1)
    variants = [
        VariantProcess(name, b"", worker=ColdFirst(call_s[name], random), call_s=calibrated_s[name]) for name in call_s
    ]
    session = Session(variants, Rules(1e6, 1e-9, 40), 1, lambda _: None)
    session.run(lambda *_: None)
    return session


@pytest.mark.parametrize("calls", [1, 2, 4, 16])
def test_a_first_call_that_costs_more_is_no_bias(calls):
    """Equal work whose first call costs 30 % more is equal, however many calls its own calibration asked for."""
    work_s = SHORTEST_BLOCK_S / 4
    calibrated_s = {"baseline": work_s, CONTROL: work_s, "variant": SHORTEST_BLOCK_S / calls}
    session = session_of(dict.fromkeys(calibrated_s, work_s), calibrated_s)
    found = session.effect(session.variants[2])
    assert found.speedup == pytest.approx(1, abs=0.002)
    assert session.noise().speedup == pytest.approx(1, abs=0.002)


def test_the_stand_in_shows_a_bias_where_the_rule_is_broken():
    """Without the untimed call, and with other numbers of calls, the same work differs by 11 %: the test can fail."""
    random = np.random.default_rng(1)
    seconds = {calls: ColdFirst(1e-3, random).order("measure", 0, calls, 1, False)["wall_s"] for calls in (2, 4)}
    assert seconds[2] / seconds[4] > 1.05


def variants_of(*call_s: float, times_itself: bool = False) -> list[VariantProcess]:
    return [VariantProcess(str(i), b"", call_s=s, times_itself=times_itself) for i, s in enumerate(call_s)]


def chosen(*call_s: float, times: int = 1) -> list[VariantProcess]:
    variants, random = variants_of(*call_s), np.random.default_rng(1)
    for _ in range(times):
        choose_calls(variants, random)
    return variants


def test_variants_of_like_speed_take_the_same_number_of_calls():
    """The baseline, A/A and what is under four times as fast or slow share one number; faster ones share another."""
    base, control, like, fast, fast_too, slow = chosen(2e-4, 3e-4, 1e-4, 1e-5, 2e-5, 0.1, times=9)
    assert base.calls == control.calls == like.calls and len(set(base.calls)) == 1
    assert fast.calls == fast_too.calls and len(set(fast.calls)) > 1  # drawn anew where it must differ
    assert all(n * fast.call_s >= SHORTEST_BLOCK_S / LIKE_SPEED for n in fast.calls)
    assert set(slow.calls) == {1}


def test_only_short_calls_follow_on_an_untimed_one():
    """Calls under 20 ms do, longer ones and work that times itself don't, and variants of like speed do the same."""
    short, _, like, long = chosen(0.9 * UNTIMED_BELOW_S, 0.9 * UNTIMED_BELOW_S, 1.5 * UNTIMED_BELOW_S, 10.0)
    assert short.untimed_call and like.untimed_call and not long.untimed_call
    own = variants_of(1e-4, 1e-4, times_itself=True)
    choose_calls(own, np.random.default_rng(1))
    assert not own[0].untimed_call and own[0].calls == [1]


def test_the_untimed_call_is_made_and_not_timed():
    """A measurement of two blocks of three calls makes seven."""
    work, made = Work(), []
    work.setup(__import__("cloudpickle").dumps((lambda: made.append, ())))
    work.prepared = type(work.prepared)(lambda: made.append(1))
    work.measure(0, 3, 2, True)
    assert len(made) == 7
    work.measure(0, 3, 1, False)
    assert len(made) == 10


def test_processes_start_in_another_order_each_time():
    """Restarts bring the variants up in random orders, the baseline not always first."""
    orders = []
    variants = [
        VariantProcess(n, b"", worker=ColdFirst(0.01, np.random.default_rng(1)), call_s=0.01) for n in ("a", "A/A", "b")
    ]
    session = Session(variants, Rules(1e6, 1e-9, 100), 1, lambda order: orders.append([v.name for v in order]))
    session.run(lambda *_: None)
    assert len(orders) == 9 and len({order[0] for order in orders}) > 1


def test_command_lines_of_workers_have_one_length(tmp_path):
    """Each worker's command line and environment have the same length: both shift the stack, and so the speed."""
    read = "open(f'/proc/self/{name}', 'rb').read()"
    lengths = {}
    comparison = Comparison("lengths", baseline="a", time_budget_s=0.1, max_rounds=10, check=lambda a, b: True)
    for name in ("a", "a variant of a long name"):
        comparison.variant(name, lambda: lambda: [len(eval(read, {"name": n})) for n in ("cmdline", "environ")])
    comparison._quality = lambda answer, reference: lengths.setdefault(str(answer), answer) is not None
    comparison.run()
    assert len(lengths) == 1


def test_a_a_takes_part_with_a_copy_of_its_own():
    """A function of a notebook is defined once more under another name, with the same defaults and closure."""
    amount = 3

    def work(data, times=2, *, plus=1):
        return lambda: amount * data * times + plus

    work.__module__ = "__main__"
    again = _own_copy(work)
    assert again is not work and again.__code__.co_name != work.__code__.co_name
    assert again(5)() == work(5)() == 31
    assert _own_copy(statistics.effect) is statistics.effect  # an importable function goes by its name


@pytest.fixture(scope="module")
def other_python(tmp_path_factory):
    """An environment of its own, which finds the packages of this one."""
    folder = tmp_path_factory.mktemp("other") / "env"
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "here.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path))
    return folder


def test_a_variant_may_run_in_another_interpreter(other_python):
    """Its worker runs there, and the versions of its packages are in the record."""
    comparison = Comparison("python", baseline="here", time_budget_s=1, max_rounds=10, check=lambda a, _: bool(a))
    comparison.variant("here", lambda: lambda: sys.prefix)
    comparison.variant("there", lambda: lambda: __import__("sys").prefix == str(other_python), python=str(other_python))
    result = comparison.run()
    assert result["there"].variant.check.state == "passed"
    assert result["there"].variant.versions["python"] and not result["here"].variant.versions


def test_without_the_interpreter_the_variant_is_skipped(tmp_path):
    """The reason names it, and the remedy is the command that makes it."""
    comparison = Comparison("python", baseline="here", time_budget_s=0.1, max_rounds=10)
    comparison.variant("here", lambda: lambda: 1)
    comparison.variant("there", lambda: lambda: 1, python=str(tmp_path / "none"))
    there = comparison.run()["there"].variant
    assert there.verdict == "skipped" and "no interpreter" in there.reason and "-m venv" in there.remedy


def test_expensive_restarts_may_take_more_of_the_budget_where_four_sets_need_it():
    """Restarts take four tenths of the budget, up to 65 % where that gives four sets of processes, at most nine."""
    given = [most_restarts(30, restart_s) for restart_s in (7, 6.5, 4, 3, 0.1)]
    assert given == [1, 3, 3, 4, 9]


def test_restarts_that_leave_sets_without_rounds_are_not_planned():
    """Where rounds are expensive, fewer restarts are planned, so that each set of processes has its rounds."""
    rules = Rules(25.0, 0.03, 1000)
    assert fitting(rules, 1.41, 4.4) == (17, 0)
    assert fitting(rules, 0.5, 4.4) == (32, 2)
    assert fitting(Rules(60.0, 0.03, 1000), 1.41, 4.4) == (33, 3)
    assert fitting(rules, 0.01, 0.1) == (1000, 9)
    assert [rounds_of_a_set(25, 3), rounds_of_a_set(40, 3), rounds_of_a_set(60, 5)] == [5, 10, 10]
