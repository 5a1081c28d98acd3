"""A search by several processes: a killed worker loses its own trial only; an interrupted search resumes."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from kit.errors import UserError
from kit.techniques.tuning import workers
from kit.techniques.tuning.workers import PROCESS, Processes, every_setting_once, open_storage, optimize, search

OBJECTIVE = """
import os, time

def objective(trial):
    x = trial.suggest_float("x", -1.0, 1.0)
    time.sleep(0.02)
    return x * x

def slow(trial):
    loss = objective(trial)
    time.sleep(0.5)
    return loss

def gated(trial):
    loss = objective(trial)
    while not os.path.exists(os.environ["GATE"]):
        time.sleep(0.02)
    return loss

def hangs(trial):
    time.sleep(1000 if trial.number > 3 else 0)
    return objective(trial)

def fails(trial):
    raise ValueError("no such column: amount")
"""


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """Make the objectives importable in every process."""
    (tmp_path / "quick_objective.py").write_text(OBJECTIVE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))


def wait_for(condition, within_s=120.0):
    """Wait until a condition holds; fail if it does not in time."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def ended(storage, state=TrialState.COMPLETE) -> list[optuna.trial.FrozenTrial]:
    """Return the complete trials of the search, or those of another state; none before it began."""
    if "example" not in [study.study_name for study in storage.get_all_studies()]:
        return []
    return optuna.load_study(study_name="example", storage=storage).get_trials(states=(state,))


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_killed_worker_loses_only_its_own_trial(kind, tmp_path, monkeypatch):
    """Two workers, one ended by SIGKILL within a trial: the search is completed, nothing else is lost. On a database
    whoever comes next runs the lost trial again, with the same setting."""
    address = f"sqlite:///{tmp_path}/search.db" if kind == "sqlite" else f"journal:{tmp_path}/search.log"
    storage, gate = open_storage(address), tmp_path / "gate"
    monkeypatch.setenv("GATE", str(gate))

    def under_way() -> set[str]:
        return {trial.user_attrs[PROCESS] for trial in ended(storage, TrialState.RUNNING) if trial.params}

    def heartbeats() -> int:  # a trial without any is never taken for lost
        rows = sqlite3.connect(tmp_path / "search.db").execute("SELECT count(*) FROM trial_heartbeats")
        return rows.fetchone()[0]

    with ThreadPoolExecutor(1) as pool, ExitStack() as last:
        last.callback(gate.touch)  # also where this fails, or the search would never end
        found = pool.submit(search, "quick_objective:gated", 8, storage=address, study_name="example")
        wait_for(lambda: len(under_way()) == 2 and (kind == "journal" or heartbeats() == 2))
        os.kill(int(under_way().pop().rpartition(":")[2]), signal.SIGKILL)
        gate.touch()
        study = found.result(120)
    assert len(ended(storage)) in (8, 9)
    assert len(study.trials) - len(ended(storage)) <= 1
    if kind == "sqlite":
        monkeypatch.setattr(workers, "GRACE_S", 1)

        def all_have_ended():
            optimize("quick_objective:objective", address, "example", len(ended(storage)) + 1, "random")
            return all(trial.state.is_finished() for trial in study.trials)

        wait_for(all_have_ended)
        lost = [trial.params for trial in study.trials if trial.state == TrialState.FAIL]
        assert all(setting in [trial.params for trial in ended(storage)] for setting in lost)


def test_an_interrupted_search_leaves_no_process_and_resumes(tmp_path):
    """Ctrl-C ends every worker within seconds, also within a trial that hangs; asked for again, the search keeps its
    trials and draws no setting twice."""
    address, program = f"sqlite:///{tmp_path}/search.db", tmp_path / "program.py"
    program.write_text(f"""
if __name__ == "__main__":
    import signal
    from kit.techniques.tuning.workers import search
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    search("quick_objective:hangs", 16, storage="{address}", study_name="example")
""")
    parent = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    storage = open_storage(address)
    wait_for(lambda: len(ended(storage)) == 4)
    children = psutil.Process(parent.pid).children(recursive=True)
    assert children
    parent.send_signal(signal.SIGINT)
    assert parent.wait(60) != 0
    wait_for(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))
    search("quick_objective:objective", 8, storage=address, study_name="example")
    numbers, settings = zip(*((trial.number, trial.params["x"]) for trial in ended(storage)), strict=True)
    assert {0, 1, 2, 3} <= set(numbers) and len(numbers) in (8, 9)
    assert len(set(settings)) == len(settings)


@pytest.mark.parametrize(
    "address, error",
    [
        ("search.db", "neither journal:FILE nor the URL of a database"),
        ("postgresql://me:secret@nowhere/db", "cannot be opened"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_reported_without_its_password(address, error):
    """The error names the storage, not its secret."""
    with pytest.raises(UserError, match=error) as raised:
        open_storage(address)
    assert "secret" not in str(raised.value)


def test_a_search_of_failures_ends_with_the_last_reason():
    """An objective that always raises ends the search, and its reason is in the error."""
    with pytest.raises(UserError, match=r"trials failed, the last with: ValueError: no such column: amount"):
        search("quick_objective:fails", 2, workers=1, study_name="failing")


@pytest.mark.parametrize("number", [0, 2])
def test_every_setting_is_run_once(number):
    """A round runs its settings once each by as many processes as asked for; the simulated clock is next to it."""
    made = Processes(number)("quick_objective:slow", 4)  # long enough for both to take part
    try:
        found = made.call(seed=1)
        assert every_setting_once(found.answer, found.answer).state == "passed" and len(found.answer) == 4
        wait_for(lambda: made.execution_proof().state == "verified" or not made.call(seed=2))  # one may come late
        assert made.execution_proof().facts["processes"] == (number or 1)
        assert found.seconds > 0
        if number:
            assert found.metrics[workers.SIMULATED_S] > 4 * 0.02 / number
    finally:
        made.close()


def test_a_lost_or_repeated_setting_fails_the_check():
    """Negative control: one setting lost or run twice is no pass."""
    assert every_setting_once([1, 1, 1], [1, 1, 1]).state == "passed"
    assert [every_setting_once([1, times, 1], [1, times, 1]).state for times in (0, 2)] == ["failed"] * 2


def test_two_workers_of_which_one_did_nothing_fell_back(monkeypatch):
    """Execution proof: a comparison's variant of two processes that ran in one is rejected."""
    monkeypatch.setattr(workers, "cluster", lambda stack, number: SimpleNamespace(run=lambda *_: None))
    monkeypatch.setattr(workers, "run_on", lambda client, number, *job: optimize(*job))
    made = Processes(2)("quick_objective:objective", 3)
    made.call(seed=0)
    assert made.execution_proof().state == "fell back"
    made.close()
