"""A comparison keeps its promises with real processes: each fault costs one variant, nothing is left behind."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from uuid import uuid4

import cloudpickle
import numpy as np
import psutil
import pytest

from kit import CheckResult, Comparison, Measurement, Setup, UserError, fell_back, read, verified
from kit.measure import point as point_module
from kit.measure import worker
from kit.measure.process import THREAD_VARIABLES, SpawnedWorker, WorkerFailed

pytestmark = pytest.mark.alone  # its workers are timed, and it interrupts itself

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not import this file, and pytest with it

MARK = "KIT_TEST_MARK"
"""An environment variable that every process of a test inherits, so that none can hide."""


@pytest.fixture
def mark(monkeypatch):
    monkeypatch.setenv(MARK, uuid4().hex)
    return os.environ[MARK]


def still_there(mark: str) -> list[str]:
    """Return the command lines of living processes, other than this one, that carry the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            gone = process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid()
            if not gone and process.environ().get(MARK) == mark:
                found.append(" ".join(process.cmdline())[:200])
        except psutil.Error:
            continue
    return found


def gone_soon(mark: str, seconds: float = 60.0) -> bool:
    return wait_for(lambda: not still_there(mark), seconds)


def wait_for(happened, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def pause(ms: float, answer=42):
    """A variant that takes `ms` milliseconds without taking a core from the others."""

    def prepare(*arguments):
        def call():
            time.sleep(ms / 1000)
            return answer

        return call

    return prepare


def own(seconds: float, answer=42):
    """A variant that times itself, so that what follows from its time is certain on any machine."""
    return lambda: lambda: Measurement(seconds, {"tokens_per_s": np.float32(10 / seconds)}, answer)


def compare(variants: dict, *arguments, **options):
    """Measure `variants`, the first being the baseline, and return the result."""
    settings = dict(time_budget_s=60, seed=1, threads=1, max_rounds=12) | options  # time for all rounds, on any machine
    comparison = Comparison("test", baseline=next(iter(variants)), **settings)
    for name, function in variants.items():
        comparison.variant(name, function)
    return comparison.run(*arguments)


def written(result) -> dict:
    return json.loads(result.path.read_text())


def raises_at_once():
    raise ValueError("no such\n  table")


def raises_when_called():
    def call():
        raise RuntimeError("broken pipe of thoughts")

    return call


def after_calls(number: int, then):
    """A variant whose first `number` calls are well, and the next does `then`."""

    def prepare():
        calls = []
        return lambda: calls.append(1) or (then() if len(calls) > number else 42)

    return prepare


def in_round(number: int, then):
    """A variant that is well until that round, in which it does `then`. How many calls a round makes depends on the
    machine, so rounds are counted by their seeds, of which 0 is not one."""

    def prepare():
        seen = {0}
        return Setup(lambda seed: seen.add(seed) or (then() if len(seen) > number else 42), seeded=True)

    return prepare


def raise_late():
    raise OSError("only in round 5")


def kill_itself(by):
    return lambda: os.kill(os.getpid(), by)


def hang_with_child(pids: Path):
    """A variant that starts a child and another that left the process group, and then hangs."""

    def prepare():
        sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
        children = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)]
        pids.write_text(json.dumps([os.getpid(), *(child.pid for child in children)]))
        return lambda: time.sleep(600)

    return prepare


def answers_in_turn(*answers):
    def prepare():
        left = list(answers)

        def call():
            time.sleep(0.002)
            return left.pop(0) if len(left) > 1 else left[0]

        return call

    return prepare


def proven(execution_proof):
    return lambda: Setup(pause(2)(), execution_proof=execution_proof)


class Opaque:
    """An answer that can be packed, but not unpacked."""

    def __reduce__(self):
        return (int, ("not a number",))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """One comparison in which every way to go wrong sits beside a variant that is well."""
    pids = tmp_path_factory.mktemp("zoo") / "pids"
    variants = {
        "baseline": pause(2),
        "well": pause(2),
        "raises in prepare": raises_at_once,
        "raises in call": raises_when_called,
        "raises in round 5": in_round(5, raise_late),
        "killed": in_round(3, kill_itself(signal.SIGKILL)),
        "crashes": after_calls(0, kill_itself(signal.SIGSEGV)),
        "exits": after_calls(1, lambda: sys.exit(3)),
        "ends": after_calls(1, lambda: os._exit(0)),
        "hangs": hang_with_child(pids),
        "wrong": pause(1, answer=43),
        "changes": answers_in_turn(42, 42, 41),
        "lazy": lambda: lambda: (x for x in [42]),
        "fell back": proven(lambda: fell_back("pandas on the CPU", fallbacks=3)),
        "no proof": proven(lambda: 1 / 0),
        "odd proof": proven(lambda: {"device": "GPU"}),
        "verified": proven(lambda: verified("two of two", device="H100", layers=np.int64(2), share=np.float64(1.0))),
        "not callable": lambda: 5,
        "unpackable": lambda: lambda: Opaque(),
        "not picklable": lambda: lambda: threading.Lock(),
        "odd seconds": lambda: lambda: Measurement(seconds="fast", answer=42),
        "no seconds": lambda: lambda: Measurement(seconds=float("nan"), answer=42),
        "odd metrics": lambda: lambda: Measurement(0.002, {"loss": np.float32(0.5), "text": "x", "none": None}, 42),
    }
    patch = pytest.MonkeyPatch()
    with patch.context() as patch:
        patch.setenv("KIT_RUN", str(tmp_path_factory.mktemp("zoo_run")))
        result = compare(variants, timeout_s=8)
    return result, json.loads(pids.read_text())


@pytest.mark.parametrize(
    ("name", "verdict", "reason"),
    [
        ("raises in prepare", "failed", "ValueError: no such table"),
        ("raises in call", "failed", "RuntimeError: broken pipe of thoughts"),
        ("raises in round 5", "failed", "OSError: only in round 5"),
        ("killed", "failed", "SIGKILL"),
        ("crashes", "failed", "SIGSEGV"),
        ("exits", "failed", "status 3"),
        ("ends", "failed", "status 0"),
        ("hangs", "failed", "over 8 s"),
        ("wrong", "rejected", "43 instead of 42"),
        ("changes", "rejected", "the last answer is not the first"),
        ("lazy", "failed", "not computed yet"),
        ("fell back", "rejected", "pandas on the CPU"),
        ("no proof", "failed", "ZeroDivisionError"),
        ("odd proof", "failed", "ExecutionProof"),
        ("not callable", "failed", "returns the callable"),
        ("unpackable", "failed", "not a number"),
        ("not picklable", "failed", "pickle"),
        ("odd seconds", "failed", "seconds"),
        ("no seconds", "failed", "seconds"),
        ("odd metrics", "failed", "metric"),
    ],
)
def test_a_fault_is_told_and_costs_only_its_variant(zoo, name, verdict, reason):
    """Whatever a variant does to itself, its own row says so in one line, and the comparison ends."""
    outcome = zoo[0][name]
    assert outcome.verdict == verdict
    assert reason in outcome.reason
    assert "\n" not in outcome.reason


@pytest.mark.parametrize("name", ["well", "verified"])
def test_the_others_finish(zoo, name):
    """Beside all the faults the healthy variants take every round and get a verdict from speed."""
    result, _ = zoo
    session = result.record.points[0].sessions[0]
    assert len(session.measurements[name].wall_s) == len(session.order) >= 10
    assert result[name].verdict in ("equivalent", "inconclusive", "faster", "slower")
    assert result.record.complete


def test_readings_before_a_failure_are_kept(zoo):
    """What a variant did before round 5 stays in the record."""
    session = zoo[0].record.points[0].sessions[0]
    assert len(session.measurements["raises in round 5"].wall_s) == 4
    position = session.variants.index("raises in round 5")
    assert [position in visits for visits in session.order] == [True] * 5 + [False] * (len(session.order) - 5)


def test_a_hung_worker_and_its_children_are_gone(zoo):
    """Past its limit a worker ends with the processes that it started, also those that left its group."""
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in zoo[1])


def test_the_proof_stands_in_the_record(zoo):
    """What a variant proves of itself is kept, with numbers of NumPy as plain ones."""
    variants = {variant["name"]: variant for variant in written(zoo[0])["points"][0]["variants"]}
    assert variants["verified"]["execution_proof"] == {
        "state": "verified",
        "facts": {"device": "H100", "layers": 2, "share": 1.0},
        "costs": {},
        "note": "two of two",
    }
    assert variants["well"]["execution_proof"]["state"] == "unverified"


def test_every_round_has_the_control_beside_the_baseline(zoo):
    """The baseline runs twice in every round, the second time as A/A in a process of its own."""
    session = zoo[0].record.points[0].sessions[0]
    assert session.variants[:2] == ["baseline", "A/A"]
    assert all({0, 1} <= set(visits) for visits in session.order)
    assert len(session.measurements["A/A"].wall_s) == len(session.measurements["baseline"].wall_s) == len(session.order)
    assert session.noise.rounds == len(session.order)


def test_the_order_is_random_and_recorded(zoo):
    """Each round's order of visits is in the record; it names nobody twice and differs from round to round."""
    order = zoo[0].record.points[0].sessions[0].order
    assert all(len(visits) == len(set(visits)) for visits in order)
    assert len({tuple(visits) for visits in order[6:]}) > 1
    assert len({visits[0] for visits in order}) > 1


def test_no_reading_is_dropped(zoo):
    """As many measurements as visits, for everyone: nothing is thrown away as an outlier."""
    session, died = zoo[0].record.points[0].sessions[0], ("raises in round 5", "killed", "odd metrics")
    for position, name in enumerate(session.variants):
        visits = sum(position in visited for visited in session.order)
        measurements = session.measurements[name]
        assert visits - len(measurements.wall_s) == (name in died)  # the visit that it died in
        assert len(measurements.cpu_s) == len(measurements.switches) == len(measurements.wall_s)


def test_load_and_steal_are_recorded_for_each_round(zoo):
    """What else the machine did stands beside every round."""
    session = zoo[0].record.points[0].sessions[0]
    assert len(session.load) == len(session.steal) == len(session.order) and all(load >= 0 for load in session.load)
    assert all(share is None or 0 <= share <= 1 for share in session.steal)


def test_looks_are_at_most_six(zoo):
    """The data was looked at at most six times, in order, the last time at the end."""
    session = zoo[0].record.points[0].sessions[0]
    assert 1 <= len(session.interim_analyses) <= 6
    assert session.interim_analyses == sorted(session.interim_analyses)
    assert session.interim_analyses[-1] == len(session.order)


def test_prepare_cold_and_warm_are_apart(zoo):
    """Preparation, the first call and the warm calls are three numbers."""
    well = zoo[0]["well"].variant
    assert well.setup_s >= 0
    assert well.first_call_s >= 0.002
    assert well.median_s == pytest.approx(np.median(zoo[0].record.points[0].sessions[0].measurements["well"].wall_s))


def test_a_result_with_every_fault_is_read_and_shown(zoo):
    """Its record satisfies its reader, and its table names every variant without breaking."""
    assert read(zoo[0].path) == zoo[0].record
    text = repr(zoo[0])
    assert all(name in text for name in zoo[0])
    assert "<table" in zoo[0]._repr_html_()


def test_without_a_baseline_nothing_is_called():
    """A baseline that dies leaves the others inconclusive, with its reason."""
    result = compare({"baseline": in_round(4, raise_late), "other": pause(1)}, isolate=False)
    assert result["baseline"].verdict == "failed"
    assert result["other"].verdict == "inconclusive"
    assert "baseline failed" in result["other"].reason
    assert read(result.path) == result.record


def test_a_baseline_that_cannot_be_prepared_is_told():
    """If the baseline does not come up, its row is failed and the others say why they were not measured."""
    result = compare({"baseline": raises_at_once, "other": pause(1)})
    assert result["baseline"].verdict == "failed"
    assert result["other"].verdict not in ("faster", "slower", "equivalent")
    assert "no such table" in result["other"].reason
    assert read(result.path) == result.record


def test_a_baseline_that_contradicts_itself_resolves_nothing():
    """If the baseline's own second answer differs, no variant is held against it."""
    result = compare({"baseline": answers_in_turn(42, 41), "other": pause(0.5)}, isolate=False)
    assert result["other"].verdict == "inconclusive"
    assert "own answers differ" in result["other"].reason


def answers_by_birth(first: Path):
    """A variant whose answer depends on which process it is made in."""

    def prepare():
        answer = 41 if first.exists() else 42
        first.touch()
        return pause(2, answer)()

    return prepare


def test_a_baseline_that_differs_between_processes_resolves_nothing(tmp_path):
    """If the baseline's answer in its second process is another, no variant is held against the first."""
    result = compare({"baseline": answers_by_birth(tmp_path / "first"), "other": pause(0.5)})
    assert result["other"].verdict == "inconclusive"
    assert "own answers differ" in result["other"].reason


# --- checked, not timed ---------------------------------------------------------------------------------------------

CROWDED = "oversubscribed: 4 ranks on 2 cores"


def seeds_seen(into: Path):
    def prepare():
        name = f"{into}/{os.getpid()}"

        def call(seed):
            with open(name, "a") as file:
                file.write(f"{seed}\n")
            return Measurement(0.01, {"seed": seed}, answer=seed)

        return Setup(call, seeded=True)

    return prepare


def test_work_that_draws_on_chance_gets_a_seed_a_round(tmp_path):
    """All variants of a round share its luck but A/A, no round repeats another's, and the first answers are equal."""
    result = compare({"one": seeds_seen(tmp_path), "other": seeds_seen(tmp_path)}, check=lambda a, b: a == b)
    point = result.record.points[0]
    measurements = point.sessions[0].measurements
    seeds = {name: measurements[name].metrics["seed"] for name in ("one", "other", "A/A")}
    assert seeds["one"] == seeds["other"]
    everything = seeds["one"] + seeds["A/A"]
    assert len(set(everything)) == len(everything) >= 20
    assert [variant.check.state for variant in point.variants] == ["reference", "passed"]


def crowded(*answers, execution_proof=None, close=None, why=CROWDED):
    """A variant of which no speed may be claimed, which gives its answers in turn."""
    return lambda *arguments: Setup(answers_in_turn(*answers)(), execution_proof, close, not_timed=why)


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIT_RUN", str(tmp_path_factory.mktemp("checked")))
        yield compare(
            {
                "baseline": own(2.0),
                "faster": own(1.0),
                "crowded": crowded(42, execution_proof=lambda: verified(ranks=4)),
                "wrong": crowded(43),
                "wrong at last": crowded(42, 42, 41),
                "fell back": crowded(42, execution_proof=lambda: fell_back("one rank")),
                "raises": crowded(42, execution_proof=lambda: 1 / 0),
            }
        )


def test_correctness_only_is_checked_and_not_timed(checked):
    """A variant of which no speed may be claimed has its answer, memory and proof in the record, and no speed."""
    crowded = checked["crowded"].variant
    assert (crowded.state, crowded.verdict, crowded.reason) == ("measured", "checked, not timed", CROWDED)
    assert crowded.check.state == "passed" and crowded.execution_proof.facts == {"ranks": 4} and crowded.memory
    assert crowded.effect is crowded.median_s is crowded.session is crowded.breakeven_calls is None
    assert crowded.metrics == {} and checked["crowded"].speedup is checked["crowded"].seconds is None
    session = checked.record.points[0].sessions[0]
    assert session.variants == ["baseline", "A/A", "faster"] and checked["faster"].verdict == "faster"
    assert read(checked.path) == checked.record and CROWDED in repr(checked) and CROWDED in checked._repr_html_()


@pytest.mark.parametrize(
    ("name", "verdict", "reason"),
    [
        ("wrong", "rejected", "43 instead of 42"),
        ("wrong at last", "rejected", "the last answer is not the first"),
        ("fell back", "rejected", "one rank"),
        ("raises", "failed", "ZeroDivisionError"),
    ],
)
def test_correctness_only_excuses_no_fault(checked, name, verdict, reason):
    """A wrong answer, a fallback or a failure is told as of any variant."""
    assert checked[name].verdict == verdict
    assert reason in checked[name].reason


def test_a_comparison_of_nothing_but_correctness_ends(tmp_path):
    """With nothing to time but the baseline, the comparison ends, complete, and what was opened is closed."""
    variants = {"baseline": pause(1), "crowded": crowded(42, close=(tmp_path / "closed").touch)}
    result = compare(variants, time_budget_s=30, max_rounds=1000)
    assert result["crowded"].verdict == "checked, not timed" and result.record.complete
    assert len(result.record.points[0].sessions[0].order) == 10
    assert (tmp_path / "closed").exists()


def test_a_baseline_for_correctness_only_leaves_the_others_unresolved():
    """Without a speed of the baseline nothing can be claimed of the others; their answers are still checked."""
    others = {"well": pause(1), "wrong": pause(1, answer=43), "crowded too": crowded(42, why="4 ranks")}
    result = compare({"baseline": crowded(42)} | others, isolate=False)
    assert result["baseline"].verdict == "baseline" and CROWDED in result["baseline"].reason
    assert result["well"].verdict == "inconclusive" and CROWDED in result["well"].reason
    assert result["well"].variant.check.state == "passed"
    assert result["wrong"].verdict == "rejected"
    assert result["crowded too"].verdict == "checked, not timed"
    assert result.record.points[0].sessions == [] and result.record.complete
    assert read(result.path) == result.record and CROWDED in repr(result)


def test_break_even_counts_what_was_made_before():
    """Seconds of a conversion before the comparison are part of what a variant must save."""
    fast = lambda: Setup(lambda: Measurement(0.5, answer=1), made_s=60.0)  # noqa: E731
    result = compare({"slow": lambda: lambda: Measurement(1.0, answer=1), "fast": fast}, isolate=False)
    assert result["fast"].variant.breakeven_calls == pytest.approx(120, abs=1)


def crowded_above(most: int):
    def prepare(size):
        call = lambda: Measurement(0.5 / size, answer=1)  # noqa: E731
        return Setup(call, not_timed=CROWDED if size > most else "")

    return prepare


def test_scaling_leaves_out_sizes_without_a_speed():
    """Where a variant was only checked at one size, no crossover is claimed."""
    variants = {"one": lambda size: lambda: Measurement(1.0, answer=1), "ranks": crowded_above(8)}
    sizes = [1, 2, 4, 8, 16]
    result = compare(variants, sizes=sizes, isolate=False)
    assert [result.at(size)["ranks"].verdict for size in sizes] == ["faster"] * 4 + ["checked, not timed"]
    assert result.record.scaling["ranks"].overtakes == "inconclusive"
    assert "ranks, 16: checked, not timed" in result.sentence


def check_that_breaks(answer, reference):
    raise KeyError("no column")


def check_that_says_nothing(answer, reference):
    pass


def check_with_bound(answer, reference):
    share = np.float64(answer / reference)
    return CheckResult(
        state="passed" if share > 0.99 else "failed", metric="share", value=share, threshold=np.float32(0.99)
    )


@pytest.mark.parametrize(
    ("check", "verdict", "reason"),
    [
        (check_that_breaks, "inconclusive", "KeyError"),
        (check_that_says_nothing, ("rejected", "inconclusive"), ""),
        (lambda answer, reference: np.bool_(False), "rejected", ""),
        (lambda answer, reference: True, "faster", ""),
        (check_with_bound, "faster", ""),
        (lambda answer, reference: 0.2, "inconclusive", "it returned 0.2; a check returns True, False"),
        (lambda answer, reference: "no", "inconclusive", "it returned 'no'"),
        (lambda answer, reference: np.array([True, False]), "inconclusive", "it returned array"),
        (
            lambda answer, reference: CheckResult(state="ok", metric="loss"),
            "inconclusive",
            "passed, failed or not checked",
        ),
        (lambda answer, reference: CheckResult(state="failed", metric="loss", threshold=1), "rejected", "loss"),
        (None, "faster", ""),
    ],
)
def test_only_a_check_that_ran_and_held_is_a_pass(check, verdict, reason):
    """A check that raises or says nothing never lets a verdict of speed through, though the answer comes twice as fast;
    one that says yes does. What is rejected has no speed-up."""
    result = compare({"baseline": own(2.0), "other": own(1.0)}, check=check, isolate=False)
    assert result["other"].speedup == (None if result["other"].verdict == "rejected" else 2)
    assert result["other"].verdict in ((verdict,) if isinstance(verdict, str) else verdict)
    assert reason in result["other"].reason
    assert read(result.path) == result.record


def test_the_order_follows_from_the_seed():
    """The same seed gives the same order of visits; another seed gives another."""
    variants = {"a": pause(1), "b": pause(1), "c": pause(1)}
    options = dict(max_rounds=10, equivalence_margin=1e-9, time_budget_s=5, isolate=False)
    orders = [compare(variants, seed=seed, **options).record.points[0].sessions[0].order for seed in (5, 5, 6)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_the_budget_is_kept_and_too_few_rounds_resolve_nothing():
    """With time for a few rounds only, they end within the budget, nothing is resolved, and the reason says so."""
    result = compare({"baseline": pause(100), "other": pause(20)}, time_budget_s=0.6, isolate=False)
    session = result.record.points[0].sessions[0]
    assert session.stopped == "budget"
    assert 1 <= len(session.order) < 10
    spent = [sum(round_s) for round_s in zip(*(one.wall_s for one in session.measurements.values()), strict=True)]
    assert sum(spent) <= 0.6 + max(spent)
    assert result["other"].verdict == "inconclusive"
    assert re.search(r"only \d rounds? fitted in 0\.6 s; 10 take about [\d.]+ s", result["other"].reason)


@pytest.mark.parametrize(("most", "told"), [(5, "max_rounds=5 allows too few"), (12, "raise max_rounds")])
def test_where_rounds_ran_out_the_reason_says_so(most, told):
    """Where `max_rounds` ended the rounds, more seconds would not help, and none are asked for."""
    result = compare({"baseline": own(1.0), "other": own(1.0)}, max_rounds=most, isolate=False)
    assert told in result["other"].reason


def test_a_variant_may_seed_pythons_own_generator():
    """Drawing a core leaves alone what a variant seeded."""
    before = random.getstate()
    worker._change_core()
    assert random.getstate() == before


def test_fast_calls_are_repeated():
    """A call of microseconds is repeated until a reading takes about a millisecond, and its time is that of one."""
    result = compare({"baseline": lambda: lambda: sum(range(100)), "slow": pause(3, answer=4950)})
    fast, slow = result["baseline"].variant, result["slow"].variant
    assert 0.1 <= fast.repeats * fast.median_s * 1000 < 30  # chosen when the machine may have been busier
    assert fast.repeats > 20
    assert slow.repeats == 1


def test_work_may_time_itself():
    """Who returns a Measurement is timed by its own seconds, keeps its metrics, and is checked by its answer."""
    result = compare({"baseline": own(2.0), "other": own(1.0)}, isolate=False)
    other = result["other"]
    assert other.verdict == "faster"
    assert other.speedup == pytest.approx(2)
    assert other.variant.metrics == {"tokens_per_s": 10.0}
    assert other.variant.repeats == 1
    assert other.variant.first_call_s == 1.0
    session = result.record.points[0].sessions[0]
    assert session.measurements["other"].metrics["tokens_per_s"] == [10.0] * len(session.order)
    assert read(result.path) == result.record


def environment_at_start():
    """A variant that answers with its process's thread variables as they were before Python began."""

    def call():
        lines = Path("/proc/self/environ").read_bytes().split(b"\0")
        told = dict(line.decode().split("=", 1) for line in lines if b"=" in line)
        return {name: told.get(name) for name in THREAD_VARIABLES} | {"run": told.get("KIT_RUN")}

    return call


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/<pid>/environ")
def test_threads_are_set_before_any_import_and_equal():
    """Every worker starts with the same thread counts in its environment, so that no library reads it too late."""
    seen = {}
    for _ in range(2):
        worker = SpawnedWorker(threads=3, timeout_s=30)
        try:
            worker.order("setup", cloudpickle.dumps((environment_at_start, ())))
            seen = worker.order("first_call")["answer"]
        finally:
            worker.end()
        assert {seen[name] for name in THREAD_VARIABLES} == {"3"}
        assert seen["run"] is None


def test_every_variant_lives_in_a_process_of_its_own():
    """No two variants share a process, and none runs in the parent."""
    pids = []
    variants = {name: lambda: lambda: os.getpid() for name in "abc"}
    compare(variants, check=lambda pid, _: pids.append(pid) or True, time_budget_s=0.2)
    assert len(set(pids)) == 4
    assert os.getpid() not in pids


def test_close_is_called_whatever_happened(tmp_path):
    """What a variant opened is closed at the end: after the rounds, and also after it raised in one."""

    def opens(name, call):
        return lambda: Setup(call, close=lambda: (tmp_path / name).write_text("closed"))

    raising = Setup(in_round(1, raise_late)().call, close=(tmp_path / "c").touch, seeded=True)
    variants = {"a": opens("a", pause(1)()), "b": opens("b", pause(1)()), "c": lambda: raising}
    result = compare(variants, time_budget_s=0.2)
    assert result["c"].verdict == "failed"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a", "b", "c"]


def test_a_close_that_hangs_or_raises_holds_nobody_up(mark, monkeypatch):
    """A variant that cannot close is ended all the same, and what was measured stands."""
    monkeypatch.setattr("kit.measure.process.GRACE_S", 0.3)
    hang, fail = (lambda: time.sleep(600)), (lambda: 1 / 0)
    variants = {"a": lambda: Setup(pause(1)(), close=hang), "b": lambda: Setup(pause(1)(), close=fail)}
    result = compare(variants, time_budget_s=0.2)
    assert result["b"].verdict in ("equivalent", "inconclusive", "faster", "slower")
    assert not still_there(mark)


def test_a_worker_ignores_what_lies_in_the_working_directory(tmp_path, monkeypatch):
    """A file that happens to be named like a module, where the notebook stands, does not break the worker."""
    (tmp_path / "psutil.py").write_text("raise SystemExit('the wrong psutil')")
    monkeypatch.chdir(tmp_path)
    result = compare({"a": pause(1), "b": pause(1)}, time_budget_s=0.1)
    assert result["a"].verdict == "baseline"


def test_a_worker_may_have_a_high_file_number():
    """A notebook with a thousand open files can measure."""
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert compare({"a": pause(1), "b": pause(1)}, time_budget_s=0.1)["a"].verdict == "baseline"
    finally:
        for number in opened:
            os.close(number)


def test_functions_without_a_file_travel():
    """Functions that were typed into a notebook, with the names and classes around them, reach the worker."""
    cell = (
        "import math\nFACTOR = 3\n"
        "class Answer(dict):\n    pass\n"
        "def inner(x):\n    return math.sqrt(x) * FACTOR\n"
        "def variant(x):\n    return lambda: Answer(y=inner(x))\n"
    )
    notebook = {"__name__": "__main__"}
    exec(compile(cell, "<ipython-input-1>", "exec"), notebook)
    result = compare({"a": notebook["variant"], "b": lambda x: lambda: {"y": 12.0}}, 16, time_budget_s=0.2)
    assert result["b"].variant.check.state == "passed"


def test_a_function_that_cannot_travel_costs_only_itself():
    """A variant that holds on to a lock cannot reach a worker: its row says so, the others finish."""
    lock = threading.Lock()
    result = compare({"a": pause(1), "b": pause(1), "c": lambda: lambda: lock}, isolate=False)
    assert result["c"].verdict == "failed"
    assert "pickle" in result["c"].reason
    assert result["b"].variant.effect.rounds >= 1


def test_the_code_of_a_variant_stands_in_the_record():
    """The record shows each variant's function as it was written, indentation kept."""
    result = compare({"a": pause(1), "b": raises_at_once}, isolate=False)
    assert result.record.asked.sources["b"] == 'def raises_at_once():\n    raise ValueError("no such\\n  table")'
    assert result.record.asked.sources["a"].startswith("def prepare(*arguments):\n    def call():\n        time.sleep")


def touches(mib: int):
    """A variant that touches `mib` MiB for a moment in every call."""

    def prepare():
        def call():
            np.ones(mib * 2**17).sum()
            time.sleep(0.002)
            return 42

        return call

    return prepare


def keeps(mib: int):
    def prepare():
        kept = np.ones(mib * 2**17)
        return lambda: time.sleep(0.002) or int(kept[0] * 42)

    return prepare


def touches_in_child(mib: int):
    """A variant with a process of its own, started in preparation, that touches memory on every call."""

    def prepare():
        loop = f"import sys\nfor line in sys.stdin:\n x = b'x' * ({mib} << 20); del x; print(42, flush=True)"
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        child = subprocess.Popen([sys.executable, "-c", loop], **pipes)

        def call():
            child.stdin.write("go\n")
            child.stdin.flush()
            return int(child.stdout.readline())

        return call

    return prepare


def shares(mib: int, children: int):
    """A variant whose forked children share its memory with it."""

    def prepare():
        kept = np.ones(mib * 2**17)
        for _ in range(children):
            if os.fork() == 0:
                kept.sum()
                time.sleep(120)
                os._exit(0)
        return lambda: time.sleep(0.002) or int(kept[0] * 42)

    return prepare


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc/<pid>/clear_refs")
def test_memory_is_the_growth_of_a_call():
    """A call that touches 200 MiB for a moment reads about that, also in a child; what setup keeps, or what the timed
    calls before did, does not count. Pages that processes share count once."""
    variants = {"baseline": pause(2), "touches": touches(200), "keeps": keeps(200), "child": touches_in_child(200)}
    variants["shares"] = shares(200, children=3)
    result = compare(variants, time_budget_s=0.2)
    memory = {name: result[name].variant.memory for name in result}
    assert memory["baseline"].peak_mib < 20
    assert 195 < memory["touches"].peak_mib < 230
    assert memory["keeps"].peak_mib < 20
    assert memory["keeps"].after_setup_mib > memory["baseline"].after_setup_mib + 190
    assert 195 < memory["child"].peak_mib < 230
    assert memory["touches"].method == "VmHWM"
    assert "2 processes" in memory["child"].method
    assert 190 < memory["shares"].after_setup_mib - memory["baseline"].after_setup_mib < 260


def test_where_memory_is_short_variants_are_skipped(monkeypatch):
    """Variants for which memory has no room next to the others are skipped with the remedy; the others are measured."""
    monkeypatch.setattr(point_module, "available_mib", lambda: 10.0)
    result = compare({"baseline": pause(2), "fast": pause(1), "slow": pause(6)}, time_budget_s=2)
    assert [result[name].verdict == "skipped" for name in result] == [False, False, True]
    skipped = result["slow"].variant
    assert "memory holds no more" in skipped.reason and skipped.remedy == "measure it by only=['slow']"
    assert read(result.path) == result.record


def test_without_isolation_the_record_says_so():
    """isolate=False runs here, where a debugger can see it, and both record and result say so."""
    pids = []
    variants = {"a": lambda: lambda: os.getpid(), "b": lambda: lambda: os.getpid(), "c": raises_at_once}
    result = compare(variants, isolate=False, time_budget_s=0.1, check=lambda a, b: pids.append(a) or True)
    assert set(pids) == {os.getpid()}
    assert result.record.how.isolated is False
    assert "isolate=False" in repr(result)
    assert result["c"].verdict == "failed"


def test_a_variant_whose_needs_are_not_met_is_skipped(run_folder):
    """It is not run and not downgraded: its row has the reason and the remedy."""
    comparison = Comparison("needs", baseline="a", time_budget_s=0.1, isolate=False)
    comparison.variant("a", pause(1))
    comparison.variant("b", raises_at_once, requires=["numpy", "no_such_module_anywhere"])
    result = comparison.run()
    assert result["b"].verdict == "skipped"
    assert "no_such_module_anywhere is not installed" in result["b"].reason
    assert "no_such_module_anywhere" in result["b"].variant.remedy
    assert "b" not in result.record.points[0].sessions[0].measurements
    assert result.path.parent == run_folder / "records"


def linear(size):
    return lambda: Measurement(size * 1e-3, answer=size)


def quadratic(size):
    return lambda: Measurement(size * size * 1e-5, answer=size)


def fixed(size):
    return lambda: Measurement(0.3, answer=size)


def test_several_sizes_give_a_curve():
    """Over sizes, each variant has the size from which it overtakes the baseline."""
    variants = {"linear": linear, "quadratic": quadratic, "fixed": fixed}
    result = compare(variants, sizes=[1000, 10, 100, 50], isolate=False)
    scaling = result.record.scaling
    assert [point.size for point in result.record.points] == [10, 50, 100, 1000]
    assert scaling["linear"].overtakes == "baseline"
    assert scaling["fixed"].overtakes == "between"
    assert scaling["fixed"].from_size == pytest.approx(300, rel=0.01)
    assert result.at(10)["quadratic"].verdict == "faster"
    assert result.at(10)["quadratic"].speedup == pytest.approx(10)
    assert result["quadratic"].verdict == "slower"
    assert result["quadratic"].speedup == pytest.approx(0.1)
    seeds = [point.seed for point in result.record.points]
    assert len(set(seeds)) == 4
    with pytest.raises(UserError, match="the sizes are"):
        result.at(11)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (dict(size=1, sizes=[1]), "just one"),
        (dict(sizes=[]), "numbers above 0"),
        (dict(sizes=[0, 10]), "above 0"),
        (dict(sizes=["big"]), "numbers above 0"),
        (dict(sizes=[float("nan")]), "numbers above 0"),
        (dict(size="big"), "number"),
        (dict(size=-1), "above 0"),
        (dict(time_budget_s=0), "above 0"),
        (dict(time_budget_s=float("nan")), "above 0"),
        (dict(timeout_s=-1), "above 0"),
        (dict(threads=0), "at least 1"),
        (dict(max_rounds=0), "at least 1"),
        (dict(seed=-1), "at least 0"),
        (dict(time_budget_s="5"), "time_budget_s='5'; it must be a number above 0"),
        (dict(threads=1.5), "whole number"),
        (dict(equivalence_margin=-0.1), "above 0"),
        (dict(check="equal"), "function of two answers"),
    ],
)
def test_arguments_that_make_no_sense_are_told_at_once(arguments, told):
    """A mistake is one clear sentence before anything is started."""
    with pytest.raises(UserError, match=told):
        Comparison("wrong", baseline="a", **arguments)


def test_numbers_of_numpy_are_sizes():
    """Sizes may come from NumPy; the record holds them as plain numbers."""
    comparison = Comparison("sizes", baseline="a", sizes=np.array([100, 10]), time_budget_s=0.05, isolate=False)
    comparison.variant("a", linear)
    result = comparison.run()
    assert written(result)["asked"]["sizes"] == [10, 100]
    assert read(result.path).points[0].size == 10
    assert Comparison("size", baseline="a", size=np.int64(5)).sizes == [5]


def test_declarations_that_contradict_are_told():
    """No baseline, two variants of one name, the control's name, a missing size function: one sentence each."""
    comparison = Comparison("wrong", baseline="a", sizes=[1, 2])
    comparison.variant("b", linear)
    with pytest.raises(UserError, match="not among the variants"):
        comparison.run()
    with pytest.raises(UserError, match="already"):
        comparison.variant("b", quadratic)
    with pytest.raises(UserError, match="control"):
        comparison.variant("A/A", linear)
    with pytest.raises(UserError, match="has no name"):
        comparison.variant(linear)
    comparison.variant("a", linear)
    with pytest.raises(UserError, match="function of the size"):
        comparison.run([1, 2, 3])


def test_a_cell_may_be_run_again():
    """Declaring the same variant again, as running a notebook's cell twice does, replaces it."""
    from functools import partial

    comparison = Comparison("again", baseline="a")
    for _ in range(2):
        comparison.variant("a", linear)
        comparison.variant("b", partial(linear))


def test_an_unknown_variant_is_told_with_those_there_are(zoo):
    """Asking for a variant that is not there names those that are."""
    with pytest.raises(UserError, match="the variants are baseline, well"):
        zoo[0]["weel"]


# --- interrupted, killed ----------------------------------------------------------------------------------------------

SCRIPT = """
import signal, subprocess, sys, time
from pathlib import Path
from kit import Comparison, Setup
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

def steady():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    def call():
        time.sleep(0.1)
        return 42
    def close():
        time.sleep({close_s})
        with open({closed!r}, "a") as file:
            file.write("closed ")
    return Setup(call, close=close)

def stubborn():
    # holds Python's lock for good, so that no thread of its worker can act
    import re
    state = []
    def call():
        state.append(1)
        time.sleep(0.02)
        if {stubborn} and len(state) > 5:
            Path({closed!r}).write_text("stubborn")
            re.match("(a+)+$", "a" * 80 + "b")
        return 42
    return call

comparison = Comparison("cut short", baseline="steady", time_budget_s=60, equivalence_margin=1e-9, threads=1, seed=1)
comparison.variant("steady", steady)
comparison.variant("other", stubborn)
comparison.run()
"""


class Script:
    """A real program, without any guard for its main part, in the middle of a comparison."""

    def __init__(self, folder: Path, mark: str, stubborn: bool = False, close_s: float = 0.0):
        self.run, self.closed = folder / "run", folder / "closed"
        program = folder / "script.py"
        program.write_text(SCRIPT.format(closed=str(self.closed), stubborn=stubborn, close_s=close_s))
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        environment = os.environ | {"KIT_RUN": str(self.run), MARK: mark}
        self.process = subprocess.Popen([sys.executable, program], env=environment, cwd=folder, **pipes)

    def stage(self) -> tuple:
        try:
            told = json.loads((self.run / "progress.json").read_text())
        except FileNotFoundError:
            return "", 0
        return told["stage"], told["round"] or 0

    def measuring(self, number: int) -> bool:
        stage, reached = self.stage()
        return stage == "measuring" and reached >= number

    def wait_for_round(self, number: int) -> None:
        assert wait_for(lambda: self.measuring(number) or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()[1]

    def record(self):
        (path,) = (self.run / "records").glob("*.json")
        return read(path)


@pytest.fixture
def script(tmp_path, mark):
    started = []

    def start(**options):
        started.append(Script(tmp_path, mark, **options))
        return started[-1]

    yield start
    for program in started:
        program.process.kill()
        program.process.communicate()


def test_ctrl_c_stops_the_workers_and_keeps_what_was_measured(script, mark):
    """A real SIGINT ends the program with KeyboardInterrupt, no process stays, what was opened is closed, and the
    record holds the rounds until then, marked as not complete."""
    program = script()
    program.wait_for_round(3)
    program.process.send_signal(signal.SIGINT)
    said, errors = program.process.communicate(timeout=60)
    assert program.process.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert "interrupted: what was measured is kept" in said
    assert not still_there(mark)
    record = program.record()
    assert record.complete is False
    session = record.points[0].sessions[0]
    assert session.stopped == "interrupted"
    assert len(session.order) < 10
    other = record.points[0].variants[1]
    assert other.verdict == "inconclusive"
    assert "interrupted after" in other.reason
    assert len(session.measurements["steady"].wall_s) >= 2
    assert program.closed.read_text().split() == ["closed", "closed"]
    assert program.stage()[0] == "done"


def test_an_impatient_second_ctrl_c_leaves_nothing_behind(script, mark):
    """Pressing Ctrl-C again while variants are still closing ends them at once, all of them."""
    program = script(close_s=60)
    program.wait_for_round(2)
    program.process.send_signal(signal.SIGINT)
    time.sleep(0.7)
    program.process.send_signal(signal.SIGINT)
    program.process.communicate(timeout=60)
    assert not still_there(mark)


def test_an_interruption_in_a_notebook_leaves_no_worker(mark, monkeypatch):
    """In a kernel, which lives on, two interruptions in a row leave no worker either."""
    monkeypatch.setattr("kit.measure.process.GRACE_S", 3.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    pressed = threading.Thread(target=press_twice, args=(mark,))
    closing = {n: lambda: Setup(pause(20)(), close=lambda: time.sleep(600)) for n in ("a", "b")}
    pressed.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            compare(closing, time_budget_s=60, max_rounds=10_000, equivalence_margin=1e-9)
    finally:
        pressed.join()
        signal.signal(signal.SIGINT, before)
    assert not still_there(mark)


def press_twice(mark):
    """Interrupt the main thread once all workers are up, and again while it ends them."""
    wait_for(lambda: len(still_there(mark)) >= 3)
    for pause_s in (1.0, 0.7):
        time.sleep(pause_s)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_killed_parent_takes_its_workers_along(script, mark, stubborn):
    """After SIGKILL to the program nothing of it goes on, not even a worker that is stuck in C code."""
    program = script(stubborn=stubborn)
    if stubborn:
        assert wait_for(program.closed.exists)
    else:
        program.wait_for_round(2)
    assert len(still_there(mark)) >= 4
    program.process.kill()
    program.process.wait()
    assert gone_soon(mark), still_there(mark)


def test_progress_tells_where_it_is(run_folder):
    """With KIT_RUN, progress.json is whole at any moment and ends with done."""
    seen, ended = [], threading.Event()

    def look():
        while not ended.is_set():
            if (run_folder / "progress.json").exists():
                seen.append(json.loads((run_folder / "progress.json").read_text()))
            time.sleep(0.01)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        compare({"a": pause(10), "b": pause(10)}, size=7, unit="rows", time_budget_s=1, max_rounds=40)
    finally:
        ended.set()
        watcher.join()
    stages = list(dict.fromkeys(told["stage"] for told in seen))
    last = json.loads((run_folder / "progress.json").read_text())
    assert stages[:2] == ["setup of", "measuring"]
    assert last["stage"] == "done"
    assert all(told["comparison"] == "test" and told["size"] == 7 and told["unit"] == "rows" for told in seen)
    assert max(told["round"] or 0 for told in seen) > 1
    assert not list(run_folder.glob("progress.*[!n]"))


def test_a_worker_says_what_became_of_it():
    """A worker that is gone answers every further order with the reason."""
    worker = SpawnedWorker(threads=1, timeout_s=30)
    try:
        worker.order("setup", cloudpickle.dumps((lambda: lambda: os._exit(7), ())))
        with pytest.raises(WorkerFailed, match="status 7"):
            worker.order("first_call")
        with pytest.raises(WorkerFailed):
            worker.order("first_call")
    finally:
        worker.end()
        worker.kill()


def test_secrets_of_a_failing_variant_do_not_reach_the_record(monkeypatch):
    """An exception that quotes a URL with credentials, or the home folder, is masked in the record's file."""
    home = os.path.expanduser("~")

    def variant():
        raise OSError(f"cannot read s3://AKIAKEY:hunter2@bucket/x from '{home}' or {home}/data.csv")

    result = compare({"a": pause(1), "b": variant}, time_budget_s=0.05)
    text = result.path.read_text()
    assert "hunter2" not in text
    assert f"'{home}'" not in text
    assert f"{home}/data.csv" not in text


def test_only_some_variants():
    """only= measures the baseline and what it names; what is left out is in no record, and an unknown name is told."""
    comparison = Comparison("some", baseline="a", time_budget_s=0.2, only=["c"])
    for name in "abc":
        comparison.variant(name, lambda: lambda: 1)
    assert list(comparison.variants) == ["a", "c"]
    assert [variant.name for variant in comparison.run().record.points[0].variants] == ["a", "c"]
    wrong = Comparison("wrong", baseline="a", only=["d"])
    wrong.variant("a", lambda: lambda: 1)
    with pytest.raises(UserError, match=r"no variant 'd'.*it has: a"):
        wrong.run()


def test_costs_are_kept():
    """What a technique cost beside time is in the record, and no table prints it."""

    def variant():
        return Setup(lambda: 1, lambda: verified(device="CPU", costs={"sent_mib": 1.5}))

    comparison = Comparison("costs", baseline="a", time_budget_s=0.2)
    comparison.variant("a", variant)
    result = comparison.run()
    assert result["a"].variant.execution_proof.costs == {"sent_mib": 1.5}
    assert "sent_mib" not in repr(result) and "device CPU" in repr(result)


def test_time_that_ten_rounds_take():
    """Where too few rounds fitted, the time that they would take is the wall's, also if work times itself shorter."""

    def slow():
        return lambda: (time.sleep(0.5), Measurement(0.001, answer=1))[1]

    comparison = Comparison("slow", baseline="a", time_budget_s=0.5)
    comparison.variant("a", slow)
    comparison.variant("b", slow)
    reason = comparison.run()["b"].reason
    assert float(re.search(r"10 take about ([\d.]+) s", reason)[1]) >= 15


def test_a_variant_can_be_skipped_with_a_reason():
    """A notebook that finds that a variant can't take part with this data says why, and the record keeps it."""
    comparison = Comparison("skip", baseline="one", time_budget_s=0.2, max_rounds=3, isolate=False)
    comparison.variant("one", lambda: lambda: 1)
    comparison.variant("other", lambda: lambda: 1, skip="it needs a module, and there is only a file")
    result = comparison.run()
    found, (rows, below) = result["other"], result._repr_html_().split("</table>")
    assert (found.verdict, found.reason) == ("skipped", "it needs a module, and there is only a file")
    assert "other" not in rows and f"Skipped: other ({found.reason})." in below  # a line instead of a row


def test_an_answer_that_is_dear_is_worked_out_only_to_be_checked(tmp_path):
    """A Measurement's answer may be a function: it is called for the checks, and not in the rounds."""
    noted = tmp_path / "noted"

    def dear():
        with open(noted, "a") as file:
            file.write(".")
        return 7

    def one():
        return lambda: Measurement(1e-3, answer=dear)

    comparison = Comparison("dear", baseline="one", time_budget_s=60, max_rounds=12, isolate=False)
    comparison.variant("one", one)
    comparison.variant("other", one)
    result = comparison.run()
    rounds = len(result.record.points[0].sessions[0].order)
    assert result["other"].variant.check.state == "passed"
    assert rounds == 12 and noted.read_text() == 6 * "."  # two checks of each of three: first, last
