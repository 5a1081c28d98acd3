"""Searches by many workers: whoever dies, joins or comes late, exactly as many trials count as were asked for."""

import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import cloudpickle
import numpy as np
import optuna
import psutil
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from kit.errors import UserError
from kit.techniques.tuning.problem import Problem, Step, TrialFailed
from kit.techniques.tuning.workers import crew as crews
from kit.techniques.tuning.workers import progress, rules, storages, variants
from kit.techniques.tuning.workers.crew import Crew, Others
from kit.techniques.tuning.workers.pool import Processes
from kit.techniques.tuning.workers.search import conduct, hands, join, joining, search, search_alone
from kit.techniques.tuning.workers.worker import Order, Pauses, _run, _seed

SPACE = {"x": FloatDistribution(-1, 1), "y": FloatDistribution(-1, 1)}
search_silently = partial(search, tell=progress.silent)
conduct_silently = partial(conduct, tell=progress.silent)


def bowl(trial=None, seconds=0.01, steps=1, space=SPACE):
    """Return a problem whose trials wait a little, or do what `trial` does."""

    def wait(setting, seed):
        for step in range(steps):
            time.sleep(seconds)
            yield Step(setting["x"] ** 2 + setting["y"] ** 2 + 1 / (1 + step), seconds)

    return Problem("bowl", space, trial or wait, steps)


def is_exact(found, trials):
    """Tell whether so many trials count, each place once, and nothing is left running."""
    places = {trial.number if trial.repeats is None else trial.repeats for trial in found.counted}
    return len(found.counted) == len(places) == trials and not (found.of("running") or found.of("waiting"))


def gone(pids, within_s=10.0):
    """Wait until none of these processes runs; tell whether that came true."""
    end = time.monotonic() + within_s
    while (left := [pid for pid in pids if _runs(pid)]) and time.monotonic() < end:
        time.sleep(0.02)
    return not left


def _runs(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def two():
    """Two workers that are up for one search after another."""
    with Processes(bowl, 2) as up:
        yield up


# Exactly as many --------------------------------------------------------------------------------------------------


def test_two_workers_end_with_exactly_the_trials_asked_for(two, tmp_path):
    """Two processes on one journal file count exactly as many trials as were asked for, each under its own number."""
    found = conduct_silently(two, "TPE", 16, f"journal:{tmp_path}/j.log")
    assert is_exact(found, 16)
    assert {trial.worker.split("/")[-1] for trial in found.counted} == {"0", "1"}
    assert found.best.loss == min(trial.loss for trial in found.counted)


def test_more_workers_than_trials_end_at_once(tmp_path):
    """Four workers with two trials leave two of them without one, and all end."""
    with Processes(bowl, 4) as up:
        pids = up.pids
        found = conduct_silently(up, "random", 2, f"journal:{tmp_path}/j.log")
    assert is_exact(found, 2)
    assert gone(pids)


def test_every_interleaving_of_asking_dying_and_repeating_counts_exactly():
    """Whatever the order in which workers ask, look, die, are buried twice and tell, exactly N places are used up, each
    once: by a trial that counts, or by one that killed too many workers."""
    for seed in range(60):
        draw = random.Random(seed)
        wanted = draw.randint(1, 8)
        study, crew = _study(wanted)
        held = []
        while True:
            trials = crew.trials()
            moves = ["ask"] * (len(held) < 5 and rules.has_room(trials, wanted)) + ["end"] * bool(held)
            if not moves:
                crew.name = "all have left"
                if rules.is_over(crew.trials(), wanted):
                    break
                crew.recover()
                continue
            _move(draw, draw.choice(moves), study, crew, held, wanted)
        used = [trial for trial in study.trials if rules.counts(trial) or rules.failed(trial)]
        assert len(used) == wanted
        assert len({rules.first_number(trial) for trial in used}) == wanted


def _study(wanted):
    store = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=store, sampler=optuna.samplers.RandomSampler(seed=0))
    return study, Crew(study, store, wanted)


def _move(draw, move, study, crew, held, wanted):
    """Let a worker ask without looking yet, or one that asked look, die or tell."""
    if move == "ask":
        return held.append([study.ask(SPACE), False])
    one = draw.choice(held)
    trial, looked = one
    trials = crew.trials()
    if draw.random() < 0.3:  # it dies; two notice, and the second repeats it too
        held.remove(one)
        frozen = trials[trial.number]
        crew._put_back(frozen, "killed")
        if draw.random() < 0.5 and rules.lost(crew.trials()[trial.number]):
            crew._repeat(frozen)
    elif not looked and rules.has_no_place(trials[trial.number], trials, wanted):
        held.remove(one)
        trial.set_user_attr(rules.FATE, rules.WITHDRAWN)
        study.tell(trial, state=TrialState.FAIL)
    elif not looked:
        one[1] = True
    else:
        held.remove(one)
        study.tell(trial, 1.0)


def test_a_grid_ends_where_it_ends(two, tmp_path):
    """A search over a grid of nine with ten trials asked for counts the nine, each once."""
    found = conduct_silently(two, "grid", 10, f"journal:{tmp_path}/j.log")
    assert is_exact(found, 9)
    assert len({tuple(trial.setting.values()) for trial in found.counted}) == 9


def test_pruned_trials_count(tmp_path):
    """Trials that the pruner stops count as trials, and some are stopped."""
    with Processes(partial(bowl, seconds=0.001, steps=9), 2) as up:
        found = conduct_silently(up, "random + ASHA", 20, f"journal:{tmp_path}/j.log")
    assert is_exact(found, 20)
    assert 0 < len(found.of("pruned")) < 20


# Workers that die -------------------------------------------------------------------------------------------------


def dies_once(folder):
    """Return a problem of which the first trial kills its worker."""

    def trial(setting, seed):
        try:
            os.rename(f"{folder}/kill", f"{folder}/killed")
            os.kill(os.getpid(), signal.SIGKILL)
        except FileNotFoundError:
            yield Step(abs(setting["x"]) + seed % 2, 0.0)

    return bowl(trial)


def test_a_killed_worker_loses_only_its_trial_which_is_run_again(tmp_path):
    """A worker killed by SIGKILL is replaced; its trial is marked lost with the reason and run again as it was."""
    (tmp_path / "kill").touch()
    with Processes(partial(dies_once, tmp_path), 2) as up:
        before = up.pids
        found = conduct_silently(up, "random", 6, f"journal:{tmp_path}/j.log")
        assert len(set(up.pids) - set(before)) == 1
    (lost,) = found.of("lost")
    (again,) = [trial for trial in found.trials if trial.repeats == lost.number]
    assert is_exact(found, 6) and len(found.trials) == 7
    assert lost.reason == "its worker was killed by SIGKILL"
    assert again.setting == lost.setting and again.state == "complete"


def test_workers_killed_at_any_moment_cost_nothing_but_time(tmp_path):
    """With SIGKILL at random moments, in trials, asking, telling and starting, exactly the trials asked for count."""
    pool = Processes(partial(bowl, seconds=0.03), 2)
    over, killed = threading.Event(), []

    def kill():
        draw = random.Random(7)
        while not over.wait(draw.uniform(0.1, 0.9)) and len(killed) < 6:
            killed.append(draw.choice(pool.pids))
            os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    with pool:
        killer.start()
        try:
            found = conduct_silently(pool, "TPE", 24, f"journal:{tmp_path}/j.log")
        finally:
            over.set()
            killer.join()
    assert killed and is_exact(found, 24)
    for lost in found.of("lost"):
        (again,) = [trial for trial in found.trials if trial.repeats == lost.number]
        assert lost.setting.items() <= again.setting.items()


def kills_always(folder):
    """Return a problem of which one choice kills whoever tries it."""

    def trial(setting, seed):
        if setting["z"] == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        yield Step(1.0, 0.0)

    return bowl(trial, space={"z": CategoricalDistribution(["deadly", "mild", "fine"])})


def test_a_setting_that_kills_every_worker_fails_in_the_end(tmp_path):
    """A setting that kills its worker three times has failed, uses its place up, and the search goes on."""
    found = search_silently(partial(kills_always, tmp_path), "grid", 3, 1, f"journal:{tmp_path}/j.log")
    (failed,) = found.of("failed")
    assert (len(found.counted), len(found.of("lost"))) == (2, rules.ATTEMPTS - 1)
    assert failed.setting == {"z": "deadly"} and "SIGKILL" in failed.reason


def test_a_kernels_lock_is_not_kept_by_the_dead_and_a_torn_line_is_cut(tmp_path):
    """A process killed with the journal's lock in hand and half a line written stops nobody, and nothing is lost."""
    where = f"journal:{tmp_path}/j.log"
    first = optuna.create_study(storage=storages.opened(where), study_name="s")
    first.add_trial(create_trial(value=1.0))
    code = (
        "import os, sys; from pathlib import Path; from kit.techniques.tuning.workers.storages import KernelLock\n"
        "KernelLock(Path(sys.argv[1])).acquire(); open(sys.argv[1], 'ab').write(b'{\"op_code\": 4, \"wor')\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, f"{tmp_path}/j.log"], check=False).returncode == -9
    first.add_trial(create_trial(value=2.0))
    again = optuna.load_study(storage=storages.opened(where), study_name="s")
    assert [trial.value for trial in again.trials] == [1.0, 2.0]


# Interrupted and gone on with -------------------------------------------------------------------------------------

SCRIPT = """
import sys
from test_tuning_workers import bowl
from functools import partial
from kit.techniques.tuning.workers import progress
from kit.techniques.tuning.workers.pool import Processes
from kit.techniques.tuning.workers.search import conduct
with Processes(partial(bowl, seconds=0.15), 2) as up:
    print(*up.pids, flush=True)
    conduct(up, "random", 24, sys.argv[1], "interrupted", tell=progress.silent)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_search_leaves_no_worker_and_is_gone_on_with(how, two, tmp_path):
    """After its parent was killed or interrupted, workers are gone; under the same name, what was done is kept, what
    was under way is run again with its setting, and the total is exact."""
    where = f"journal:{tmp_path}/j.log"
    command = [sys.executable, "-c", "import signal; signal.signal(2, signal.default_int_handler)" + SCRIPT, where]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": path}
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    while (done := _complete(where)) < 3:
        time.sleep(0.05)
    parent.send_signal(how)
    parent.communicate(timeout=20)
    assert gone(pids)
    left = optuna.load_study(storage=storages.opened(where), study_name="interrupted").trials
    kept = [trial for trial in left if trial.state == TrialState.COMPLETE]
    found = conduct_silently(two, "random", 24, where, "interrupted")
    assert is_exact(found, 24) and 3 <= done <= len(kept) < 24
    assert [found.trials[trial.number].loss for trial in kept] == [trial.value for trial in kept]
    running = [trial for trial in left if trial.state == TrialState.RUNNING]
    repeated = {trial.repeats: trial.setting for trial in found.counted if trial.repeats is not None}
    assert set(repeated) == {trial.number for trial in running}
    assert all(trial.params.items() <= repeated[trial.number].items() for trial in running)


def _complete(where):
    try:
        trials = optuna.load_study(storage=storages.opened(where), study_name="interrupted").trials
    except KeyError:
        return 0
    return sum(trial.state == TrialState.COMPLETE for trial in trials)


def test_a_search_interrupted_in_a_notebook_is_gone_on_with_there(tmp_path):
    """The same process can go on with a search that it interrupted: what its dead workers had is run again. The empty
    storage is found again by the search's name."""

    def interrupt(told):
        if told.done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(partial(bowl, seconds=0.1), "random", 30, 2, name="my search/1", tell=interrupt)
    found = search_silently(bowl, "random", 14, 2, name="my search/1")
    assert is_exact(found, 14)
    assert len({trial.setting["x"] for trial in found.counted}) == 14
    assert (Path(os.environ["KIT_RUN"]) / "searches" / "my-search-1" / "journal.log").is_file()


def test_more_trials_can_be_asked_for_later_and_none_is_drawn_twice(two, tmp_path):
    """A search that is over is not run again; with more trials it goes on, and its workers draw others than before."""
    where = f"journal:{tmp_path}/j.log"
    first = conduct_silently(two, "random", 6, where)
    assert [t.loss for t in conduct_silently(two, "random", 6, where).trials] == [t.loss for t in first.trials]
    more = conduct_silently(two, "random", 12, where)
    assert is_exact(more, 12)
    assert len({trial.setting["x"] for trial in more.counted}) == 12


def test_a_name_that_stands_for_another_search_is_refused(two, tmp_path):
    """A name cannot be gone on with by another sampler: the error says what it was begun with."""
    where = f"journal:{tmp_path}/j.log"
    conduct_silently(two, "random", 1, where, "mine")
    with pytest.raises(UserError, match=r"'mine'.* sampler='random'.* 'TPE'.*another name"):
        conduct_silently(two, "TPE", 2, where, "mine")


# Several crews ----------------------------------------------------------------------------------------------------


def test_another_machine_joins_by_one_command(tmp_path, monkeypatch):
    """The command with storage, name and problem joins a search under way; both take part, and the total is exact."""
    where = f"journal:{tmp_path}/j.log"
    monkeypatch.setenv("MEETING", str(tmp_path / "meeting"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    joined = []

    def once_begun(told):
        if not joined:
            command = [sys.executable, *shlex.split(joining("test_tuning_workers:meeting", where, "our search"))[1:]]
            joined.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))

    found = search(meeting, "random", 8, 1, where, "our search", tell=once_begun)
    said, _ = joined[0].communicate(timeout=30)
    assert is_exact(found, 8)
    assert len({trial.worker for trial in found.counted}) == 2
    assert joined[0].returncode == 0 and said.splitlines()[-1].startswith("our search: 8 trials")


def meeting():
    """Return a problem whose trials wait until two workers have met."""
    place = Path(os.environ["MEETING"])

    def trial(setting, seed):
        place.mkdir(exist_ok=True)
        (place / str(os.getpid())).touch()
        end = time.monotonic() + 30
        while len(list(place.iterdir())) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        yield Step(setting["x"], 0.0)

    return bowl(trial)


def test_joining_what_is_not_there_says_what_is(two, tmp_path):
    """Joining a search that nobody began names those that are there; the command ends with one line and status 2."""
    where = f"journal:{tmp_path}/j.log"
    conduct_silently(two, "random", 1, where, "mine")
    with pytest.raises(UserError, match=r"no search 'yours'.*\(there: mine\); begin it first"):
        join(bowl, where, "yours")
    command = [sys.executable, "-m", "kit.techniques.tuning.workers.worker", where, "yours", "a:b"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stderr.startswith("kit: there is no search") and not ended.stdout


def test_a_crew_elsewhere_is_there_while_it_beats(monkeypatch):
    """A crew of another machine counts as gone when its beat has stood still for the lease, or when it has left."""
    now = [0.0]
    others, crew = Others(lambda: now[0]), "elsewhere/1/2.0/0"
    attributes = {f"kit:beat:{crew}": 1}
    assert others.lives(crew, attributes)
    now[0] = crews.LEASE_S + 1
    assert not others.lives(crew, attributes)
    assert others.lives(crew, {f"kit:beat:{crew}": 2})
    assert not others.lives(crew, {f"kit:beat:{crew}": crews._GONE})


def test_what_a_living_crew_has_is_left_to_it(tmp_path):
    """Recovery takes nothing from a crew that is there, and everything from one whose process is gone."""
    study, crew = _study(2)
    with Crew(study, study._storage, 2) as other:
        trial = study.ask(SPACE)
        trial.set_user_attr(rules.WORKER, [other.name, 0])
        assert crew.recover() == 0
    assert crew.recover() == 1
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]


# Trials that fail -------------------------------------------------------------------------------------------------


def fails_often(folder):
    def trial(setting, seed):
        if setting["x"] > 0:
            raise TrialFailed("x is above 0")
        yield Step(float("inf") if setting["y"] > 0 else 1.0, 0.0)

    return bowl(trial)


def test_a_failed_trial_uses_its_place_up_and_says_why(tmp_path):
    """Trials that raise or end without a finite loss fail with their reason; with those that count they are N."""
    found = search_silently(partial(fails_often, tmp_path), "random", 16, 2, f"journal:{tmp_path}/j.log")
    assert len(found.counted) + len(found.of("failed")) == 16 and found.counted
    assert {trial.reason for trial in found.of("failed")} == {"x is above 0", "its loss was inf"}


def always_fails():
    def trial(setting, seed):
        yield Step(1 / (seed - seed), 0.0)

    return bowl(trial)


def test_a_broken_objective_ends_the_search_with_its_reason(tmp_path):
    """When the first trials all fail, the search stops long before its end, with the last reason."""
    where = f"journal:{tmp_path}/j.log"
    with pytest.raises(UserError, match="ZeroDivisionError: division by zero"):
        search_silently(always_fails, "random", 1000, 2, where)
    trials = optuna.load_study(storage=storages.opened(where), study_name="search").trials
    assert rules.GIVE_UP <= len(trials) <= rules.GIVE_UP + 1


def cannot_open():
    raise UserError("data='x' is not there; give a file")


def dies_opening():
    os._exit(3)


def test_a_problem_that_cannot_be_opened_is_the_users_to_mend(tmp_path):
    """What a problem's opening says reaches the user, also if it is no problem or kills the worker."""
    for opening, said in [
        (cannot_open, "data='x' is not there; give a file"),
        (dies_opening, "died while it opened the problem.*status 3"),
        ("no_such_module:problem", "no module no_such_module"),
    ]:
        with pytest.raises(UserError, match=said):
            search_silently(opening, "random", 1, 1, f"journal:{tmp_path}/j.log")


def test_the_steps_of_a_trial_end_it_where_the_problem_says():
    """A trial that never yields has failed; one that goes on beyond its steps is cut there."""
    study = optuna.create_study()
    never, on = (
        bowl(lambda setting, seed: iter(())),
        bowl(lambda setting, seed: iter([Step(3.0, 0, at=5)] * 9), steps=5),
    )
    assert _run(never, study.ask(), 0, "", Pauses())[2] == "it gave no loss"
    assert _run(on, study.ask(), 0, "", Pauses()) == (3.0, False, "")


# Seeds, threads, progress -----------------------------------------------------------------------------------------


def test_workers_draw_their_own_but_share_a_quasi_random_sequence():
    """Each worker's sampler has a seed of its own, reproducibly; a quasi-random sequence and a grid are one for all."""
    order = Order("s", "", "TPE", "", 9, seed=3)
    seeds = [_seed(order, worker) for worker in range(50)]
    assert len(set(seeds)) == 50 and seeds == [_seed(order, worker) for worker in range(50)]
    for shared in ("quasi-random", "grid"):
        assert {_seed(Order("s", "", shared, "", 9, seed=3), worker) for worker in range(5)} == {3}


def threads():
    def trial(setting, seed):
        yield Step(float(os.environ["OMP_NUM_THREADS"]) + float(os.environ["OPENBLAS_NUM_THREADS"]), 0.0)

    return bowl(trial)


def test_a_worker_has_one_thread_and_every_trial_its_chance(tmp_path):
    """Workers take one thread each; the chance of trial n is drawn as on the simulated clock."""
    found = search_silently(threads, "random", 1, 1, f"journal:{tmp_path}/j.log")
    assert found.best.loss == 2.0
    alone = search_alone(bowl(lambda setting, seed: iter([Step(float(seed), 0.0)])), "random", 3, seed=5)
    assert [trial.loss for trial in alone.trials] == [np.random.default_rng([5, n]).integers(2**31) for n in range(3)]


def test_progress_is_told_by_a_bar_in_lines_or_not_at_all(two, tmp_path, capsys):
    """The bar and the lines show trials done, the best loss and the rate; silent shows nothing."""
    conduct(two, "random", 8, f"journal:{tmp_path}/bar.log")
    bar = capsys.readouterr().err
    assert "8/8" in bar and "best loss" in bar and "trial/s" in bar.replace("s/trial", "trial/s")
    conduct(two, "random", 8, f"journal:{tmp_path}/plain.log", tell=progress.plain())
    assert "8 of 8 trials, best loss" in capsys.readouterr().out.splitlines()[-1]
    conduct_silently(two, "random", 2, f"journal:{tmp_path}/silent.log")
    assert capsys.readouterr() == ("", "")


# Storages ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick_folder(tmp_path, monkeypatch):
    """A folder in memory where there is such a thing: SQLite waits for the disk a dozen times a trial."""
    monkeypatch.setattr(tempfile, "tempdir", "/dev/shm" if Path("/dev/shm").is_dir() else str(tmp_path))
    with tempfile.TemporaryDirectory() as folder:
        yield folder


def test_a_database_holds_the_same_promise(two, quick_folder):
    """Two processes on one SQLite file count exactly."""
    assert is_exact(conduct_silently(two, "TPE", 12, f"sqlite:///{quick_folder}/s.db"), 12)


def test_a_grpc_proxy_holds_it_too_and_ends_when_closed(two, quick_folder, monkeypatch):
    """Two processes on a private gRPC proxy count exactly; its process ends when it is closed, and nobody answers."""
    with storages.PrivateProxy() as proxy:
        assert is_exact(conduct_silently(two, "TPE", 12, proxy.address), 12)
    assert gone([proxy.pid])
    monkeypatch.setattr(storages, "ANSWER_S", 0.5)
    with pytest.raises(UserError, match=r"does not answer; start optuna.storages.run_grpc_proxy_server"):
        storages.opened(proxy.address)


def test_a_storage_that_stops_answering_ends_the_search_in_words(quick_folder):
    """When the server dies in the middle, the search ends with what to do, and no worker stays."""
    with storages.PrivateProxy() as proxy, Processes(partial(bowl, seconds=0.1), 2) as up:
        pids = up.pids

        def kill(told):
            os.kill(proxy.pid, signal.SIGKILL)

        with pytest.raises(UserError, match=r"(stopped answering|can't go on): .*"):
            conduct(up, "random", 100, proxy.address, tell=kill)
    assert gone(pids)


def test_workers_on_dask_that_are_killed_lose_only_their_trial(tmp_path):
    """Tasks of a private Dask cluster count exactly, also when the process of one is killed; then the cluster ends."""
    (tmp_path / "kill").touch()
    with hands(partial(dies_once, tmp_path), 2, "dask") as up:
        pids = up.pids
        found = conduct_silently(up, "random", 8, "dask")
        pids += up.pids
    assert is_exact(found, 8) and (tmp_path / "killed").exists()
    (lost,) = found.of("lost")
    (again,) = [trial for trial in found.trials if trial.repeats == lost.number]
    assert again.setting == lost.setting
    assert gone(pids)


def test_a_search_on_a_cluster_that_stays_is_gone_on_with():
    """Tasks on a Dask cluster leave when their search is interrupted; its scheduler keeps what was done, and under the
    same name the search goes on to exactly the trials asked for."""
    from distributed import LocalCluster

    def interrupt(told):
        if told.done >= 2:
            raise KeyboardInterrupt

    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None, host="127.0.0.1") as cluster:
        where = cluster.scheduler_address
        with pytest.raises(KeyboardInterrupt):
            search(partial(bowl, seconds=0.2), "random", 200, 2, where, "s", tell=interrupt)
        time.sleep(1)
        found = search_silently(bowl, "random", 20, 2, where, "s")
        assert is_exact(found, 20)


@pytest.mark.parametrize(
    "storage, said",
    [
        ("here", r"storage='here' is none; give '' \(a journal file here\)"),
        ("nonsense://u:secret@h/x", "no database that is known|needs a driver"),
        ("sqlite:////no/such/folder/x.db", "can't be opened.*see that it runs"),
        ("postgresql+psycopg://u:secret@127.0.0.1:1/x", "needs a driver|can't be opened"),
        ("grpc://nowhere", "has no port; write grpc://host:13000"),
        ("tcp://127.0.0.1:1", "no Dask scheduler answers there"),
        ("journal:/proc/x/j.log", "can't be written"),
    ],
)
def test_a_storage_that_cannot_be_is_refused_without_its_password(storage, said, monkeypatch):
    """An address that is none, or where nothing answers, says so with a remedy, and never shows a password."""
    monkeypatch.setattr(storages, "ANSWER_S", 0.5)
    with pytest.raises(UserError, match=said) as refused:
        storages.opened(storage)
    assert "secret" not in str(refused.value)


def test_a_password_is_neither_shown_nor_put_on_a_command_line():
    """Addresses are shown masked, and the command to join takes one with a password from the environment."""
    address = "postgresql://me:secret@db/searches"
    assert storages.masked(address) == "postgresql://***@db/searches"
    assert joining("m:p", address, "s", 4) == "python -m kit.techniques.tuning.workers.worker - s m:p --workers 4"


# As variants ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [variants.alone, variants.OnStorage(variants.JOURNAL, 2)])
def test_a_search_as_a_variant_reads_itself_and_proves_its_processes(variant):
    """A reading has the search's seconds, its numbers, and an answer that a gate checks; its proof names processes."""
    work = variants.Work(bowl, 10, "random")
    prepared = cloudpickle.loads(cloudpickle.dumps(variant))(work)
    try:
        first, second = prepared.call(1), prepared.call(2)
        assert first.answer == second.answer == {"trials that count": 10, "of different numbers": 10}
        assert first.metrics["trials/s"] == pytest.approx(10 / first.seconds)
        assert 0 < first.metrics["utilisation"] <= 1
        assert min(first.metrics.values()) > 0
        busy = first.metrics[prepared.ceiling.amount]  # at best all of the workers' time goes into trials
        assert busy == pytest.approx(first.metrics["utilisation"] * first.seconds)
        proof = prepared.engagement()
        workers = 1 if variant is variants.alone else 2
        assert (proof.state, proof.facts["processes"]) == ("engaged", workers)
    finally:
        children = psutil.Process().children(recursive=True)
        if prepared.close:
            prepared.close()
    if prepared.close:
        assert sum(not child.is_running() for child in children) == workers
