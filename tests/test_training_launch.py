"""Whatever becomes of a rank ends the launch with its own cause in one line, and no process is left behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import cloudpickle
import psutil
import pytest
from network import two_machines

from kit.errors import UserError
from kit.measure.process import SpawnedWorker
from kit.techniques.training.ranks import board
from kit.techniques.training.ranks.board import Rendezvous
from kit.techniques.training.ranks.cause import cause, gather
from kit.techniques.training.ranks.control import Job
from kit.techniques.training.ranks.launch import Launch, RankFailed
from kit.techniques.training.task import Task

SMALL = dict(dim=16, layers=2, heads=2)
TASK = Task(data="test_training_launch:noise", steps=3, batch=16, model_options=SMALL)


def noise():
    """A little data that loads in no time."""
    import torch

    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(64, 1, 28, 28, generator=generator), torch.arange(64) % 10
    return (inputs, targets), (inputs, targets)


def ddp(task, world):
    from kit.techniques.training import strategies

    return strategies.ddp(task, world)


def spoilt(fault, task, world):
    """DDP in which the last rank comes to grief in its step."""
    training = ddp(task, world)

    def step(inputs, targets):
        if world.rank == world.size - 1:
            fault()
        return training.step(inputs, targets)

    return replace(training, step=step)


def raises():
    raise ValueError("the fifth wheel\ncame off")


def hangs():
    time.sleep(1000)


def eats_memory():
    import torch

    torch.empty(1 << 50)


def rank_process(launch, rank):
    return psutil.Process(launch.order("process")[rank])


def all_gone(processes, within_s=10.0):
    """Tell whether all processes end soon; a zombie has ended."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        alive = []
        for process in processes:
            with contextlib.suppress(psutil.Error):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
        if not alive:
            return True
        time.sleep(0.05)
    return False


def failure(fault, *, ranks=2, limit_s=300.0, **options):
    """Launch ranks, let the fault happen in training, and return the error when nothing is left of the launch."""
    launch = Launch(ranks, **options)
    launch.order("begin", strategy=partial(spoilt, fault), task=TASK)
    processes = launch.processes()
    assert len(processes) == 3 + ranks  # the launcher, the server that forks ranks, its tracker
    with pytest.raises(RankFailed) as caught:
        launch.order("train", limit_s=limit_s)
    assert all_gone(processes)
    assert launch.processes() == [] and not Path(launch.job.notes).exists()
    launch.close()
    launch.close()
    return caught.value


def test_a_rank_that_raises_is_named_with_its_error():
    """A rank's own exception comes back as one line, with its traceback beside, not the echo it has in others."""
    error = failure(raises)
    assert str(error) == "rank 1: ValueError: the fifth wheel came off"
    assert "in raises" in error.details


def test_a_rank_that_runs_out_of_memory_is_named_with_its_error():
    """A rank that can't have the memory it asks for says so."""
    reason = str(failure(eats_memory, ranks=1))
    assert reason.startswith("rank 0: RuntimeError: ") and "can't allocate memory" in reason


def test_a_rank_that_hangs_is_named_and_not_those_that_wait_for_it():
    """Where one rank hangs and the others' wait times out, the sentence names the one that hangs, and where it is."""
    reason = str(failure(hangs, timeout_s=6.0))
    assert reason.startswith("rank 1 hung at ") and "in hangs, while others waited 6 s for it" in reason


def test_an_order_that_takes_too_long_ends():
    """An order has a limit of its own, also where no rank waits in vain."""
    reason = str(failure(hangs, ranks=1, limit_s=3.0))
    assert reason.startswith("rank 0 hung at ") and "in 'train', which may take 3 s" in reason


def test_a_killed_rank_is_named_with_its_signal_and_the_launch_is_over():
    """A rank killed from outside is told apart from the ranks that lose it; what it most likely was is said."""
    launch = Launch(2)
    launch.order("begin", strategy=ddp, task=TASK)
    processes = launch.processes()
    rank_process(launch, 1).kill()
    with pytest.raises(RankFailed, match=r"^rank 1 was killed by SIGKILL: most likely the system ran out of memory$"):
        launch.order("train")
    assert all_gone(processes)
    with pytest.raises(RankFailed, match=r"^the launch is over: rank 1 was killed by SIGKILL"):
        launch.order("train")
    launch.close()
    launch.close()


def mistakes():
    raise UserError("lr=9 is too much; take less")


def test_a_mistake_of_the_user_comes_back_as_a_sentence():
    """A UserError raised on a rank is a UserError of the order, in its own words, and costs no restart; one that all
    ranks raise before they train leaves the launch as it was."""
    launch = Launch(2, restarts=3)
    with pytest.raises(UserError, match=r"^batch=15 does not divide among 2 ranks"):
        launch.order("begin", strategy=ddp, task=replace(TASK, batch=15))
    launch.order("begin", strategy=partial(spoilt, mistakes), task=TASK)
    processes = launch.processes()
    with pytest.raises(UserError, match=r"^lr=9 is too much; take less$"):
        launch.order("train")
    assert all_gone(processes) and not launch.processes()
    launch.close()


def test_a_launch_ends_at_its_limit():
    """A launch that its parent forgot ends by itself at its limit, and says so when it is asked again."""
    launch = Launch(1, limit_s=5.0)
    processes = launch.processes()
    with pytest.raises(RankFailed, match=r"^the launch passed its limit of 5 s$"):
        launch.order("end")
        processes = launch.processes()
        assert all_gone(processes, within_s=20)
        launch.order("end")
    assert all_gone(processes)


CHILD = """
import sys, time
from kit.techniques.training.ranks.launch import Launch

with Launch(1) as launch:
    launch.order("end")
    print(launch.job.notes, *(process.pid for process in launch.processes()), flush=True)
    launch.order("begin", strategy=lambda task, world: time.sleep(1000), task=sys.argv[1])
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_parent(number):
    """A parent that is killed, or gets a Ctrl-C, leaves neither ranks nor launcher nor notes."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, "?"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    notes, *pids = child.stdout.readline().split()
    processes = [psutil.Process(int(pid)) for pid in pids]
    assert len(processes) == 4
    child.send_signal(number)
    _, said = child.communicate(timeout=30)
    assert ("KeyboardInterrupt" in said) == (number == signal.SIGINT)
    assert all_gone(processes)
    end = time.monotonic() + 5
    while Path(notes).exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(notes).exists()


def test_launches_and_strangers_do_not_disturb_each_other():
    """Two launches live side by side, though strangers call at their ports and one of the two is killed."""
    with Launch(1) as one, Launch(1) as other:
        strangers = [socket.create_connection((one.job.host, one.job.port)) for _ in range(3)]
        strangers[1].sendall(b"x" * 32)
        strangers[2].sendall(cloudpickle.dumps(("end", {})))
        for launch in (one, other):
            launch.order("begin", strategy=ddp, task=TASK)
        assert one.order("train")[0]["losses"] == other.order("train")[0]["losses"]
        assert strangers[1].recv(1) == b""  # turned away
        other.kill()
        assert len(one.order("train")[0]["losses"]) == TASK.steps
        for stranger in strangers:
            stranger.close()


def note(rank, error, at=0.0, attempt=0):
    return {"rank": rank, "attempt": attempt, "error": error, "details": "", "time": at}


def found(**notes):
    return {"limit": "", "failed": [], "errors": [], "places": []} | notes


GLOO = "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer"
LATE = "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms"
STACK = 'Current thread:\n  File "{}", line 3 in {}\n  File "/x/kit/techniques/training/ranks/rank.py", line 9 in x\n'


@pytest.mark.parametrize(
    "machines, reason",
    [
        ([found(errors=[note(0, GLOO), note(1, "KeyError: 'x'", 1.0)])], "rank 1: KeyError: 'x'"),
        (
            [
                found(errors=[note(0, GLOO)], failed=[{"rank": 0, "exitcode": 1}]),
                found(failed=[{"rank": 3, "exitcode": -9}]),
            ],
            "rank 3 was killed by SIGKILL: most likely the system ran out of memory",
        ),
        (
            [
                found(
                    errors=[note(0, LATE)],
                    failed=[{"rank": 0, "exitcode": 1}, {"rank": 1, "exitcode": -15}, {"rank": 2, "exitcode": -15}],
                    places=[
                        {"rank": 1, "attempt": 0, "stack": STACK.format("/x/torch/distributed/c10d.py", "all_reduce")},
                        {"rank": 2, "attempt": 0, "stack": STACK.format("/own/model.py", "forward")},
                    ],
                )
            ],
            "rank 2 hung at /own/model.py:3 in forward, for long",
        ),
        (
            [
                found(
                    failed=[{"rank": 0, "exitcode": -6}, {"rank": 1, "exitcode": -15}],
                    places=[
                        {"rank": 0, "attempt": 0, "stack": ""},
                        {"rank": 1, "attempt": 0, "stack": STACK.format("/own/model.py", "forward")},
                    ],
                )
            ],
            "rank 1 hung at /own/model.py:3 in forward, for long",
        ),
        ([found(failed=[{"rank": 1, "exitcode": -6}], errors=[note(0, GLOO)])], "rank 1 was killed by SIGABRT"),
        ([found(failed=[{"rank": 1, "exitcode": -6}], errors=[note(0, "KeyError: 'x'")])], "rank 0: KeyError: 'x'"),
        ([found(failed=[{"rank": 1, "exitcode": 3}], errors=[note(0, GLOO)])], "rank 1 exited with status 3"),
        ([found(errors=[note(0, LATE)], failed=[{"rank": 1, "exitcode": -15}])], f"rank 0: {LATE}"),
        ([found()], "the launcher ended before its ranks were up: ImportError: no such thing"),
    ],
    ids=[
        "error",
        "killed elsewhere",
        "hung",
        "hung on GPUs",
        "aborted",
        "error before abort",
        "exit",
        "all wait",
        "start",
    ],
)
def test_the_cause_is_told_from_its_echo(machines, reason):
    """Of all that went wrong, the first cause is named, not a rank that only waited for another."""
    assert cause(machines, "Traceback\nImportError: no such thing\nbye", waited="for long").reason == reason


def test_only_the_last_attempt_counts(monkeypatch, tmp_path):
    """After a restart the notes of the attempt before are history."""
    job = Job(2, notes=str(tmp_path))
    job.note_error(0, "KeyError: 'old'", "")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    job.note_error(1, "KeyError: 'new'", "")
    assert [one["error"] for one in gather(job.notes)["errors"]] == ["KeyError: 'new'"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def joiner(rendezvous, *options, prefix=()):
    command = [*prefix, sys.executable, "-P", *rendezvous.command(1).split()[1:], *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def machines():
    """Two machines in one: the board is hosted here; the second one, which takes at most two ranks, has joined."""
    rendezvous = Rendezvous(2, 0, f"127.0.0.1:{free_port()}")
    second = joiner(rendezvous, "--nproc-per-node", "2")
    with board.host(rendezvous):
        yield rendezvous, second
    said, _ = second.communicate(timeout=20)
    assert second.returncode == 0, said


def trained_then_failed(rendezvous):
    """A variant: train on two ranks of two machines, then have the one on the other machine raise."""

    def call():
        with Launch(2, rendezvous=rendezvous, timeout_s=30) as launch:
            launch.order("begin", strategy=ddp, task=TASK)
            losses = launch.order("train")[0]["losses"]
            launch.order("begin", strategy=partial(spoilt, raises), task=TASK)
            try:
                launch.order("train")
            except RankFailed as error:
                return {"losses": losses, "error": str(error)}

    return call


def test_two_machines_train_as_one_and_fail_as_one(machines):
    """A launch spreads over the machines that joined, also from a variant's worker process, with the losses of one
    process; a rank that fails on the other machine is named, nothing is left there, and the machine stays joined."""
    rendezvous, second = machines
    worker = SpawnedWorker(threads=1, limit_s=120)
    try:
        worker.order("prepare", cloudpickle.dumps((trained_then_failed, (rendezvous,))))
        answer = worker.order("cold")["answer"]
    finally:
        worker.end()
    assert answer["error"] == "rank 1: ValueError: the fifth wheel came off"
    assert answer["losses"] == pytest.approx(alone(), abs=1e-6)
    assert all_gone(psutil.Process(second.pid).children(recursive=True)) and second.poll() is None


def alone():
    """The losses of the task in this process."""
    import torch

    from kit.techniques.training.strategies import single
    from kit.techniques.training.world import World

    training = single(TASK, World(0, 1, torch.device("cpu")))
    return [float(training.step(*batch)) for batch in TASK.batches(*TASK.dataset().train)]


def test_a_machine_that_takes_fewer_ranks_says_so(machines):
    """A launch that wants more ranks on a machine than it offers is a mistake of the user."""
    launch = Launch(6, rendezvous=machines[0])
    processes = launch.processes()
    with pytest.raises(UserError, match=r"^machine 1 takes at most 2 ranks; the launch wants 3"):
        launch.order("end")
    assert all_gone(processes)


def test_ranks_and_machines_must_fit_together(machines):
    """Ranks that don't divide, a machine that has not joined and a wrong address are told in a sentence."""
    with pytest.raises(UserError, match=r"3 ranks don't divide among 2 machines; take a multiple of 2"):
        Launch(3, rendezvous=machines[0])
    with pytest.raises(UserError, match=r"machine 2 has not joined; run there: .*--nnodes 3 --node-rank 2"):
        Launch(3, rendezvous=replace(machines[0], nnodes=3, join_limit_s=0.1))
    with pytest.raises(UserError, match=r"a notebook runs on machine 0; on machine 1 run: .*--node-rank 1"):
        board.host(replace(machines[0], node_rank=1))
    with pytest.raises(UserError, match=r'as "host:29500"'):
        Rendezvous(2, 0, "somewhere")


HOST = """
import os, signal, sys
from kit.techniques.training import strategies
from kit.techniques.training.ranks import board
from kit.techniques.training.ranks.launch import Launch
from test_training_launch import TASK

rendezvous = board.Rendezvous(2, 0, sys.argv[1])
board.host(rendezvous)
with Launch(2, rendezvous=rendezvous, timeout_s=30) as launch:
    launch.order("begin", strategy=strategies.ddp, task=TASK)
    print(*launch.order("train")[0]["losses"], flush=True)
    if sys.argv[2:]:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def machine_0(rendezvous, *options, prefix=()):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [*prefix, sys.executable, "-c", HOST, rendezvous.endpoint, *options],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_machine_ends_when_machine_0_is_gone():
    """Where machine 0's process is killed, the others kill what they started and end with a sentence."""
    rendezvous = Rendezvous(2, 0, f"127.0.0.1:{free_port()}")
    second = joiner(rendezvous)
    done = machine_0(rendezvous, "die")
    assert done.returncode == -signal.SIGKILL, done.stderr
    said, _ = second.communicate(timeout=30)
    assert second.returncode == 1 and said.endswith("kit: machine 0 is gone; what was started here was killed\n"), said


@pytest.fixture
def namespaces():
    """Two network namespaces that a pair of virtual cards joins: 10.77.0.1 and 10.77.0.2."""
    with two_machines("10.77.0") as prefixes:
        yield prefixes


def test_machines_meet_over_a_network(namespaces):
    """Two machines that see each other through one card only, and not by name, train together."""
    rendezvous = Rendezvous(2, 0, "10.77.0.1:29500")
    second = joiner(rendezvous, prefix=namespaces[1])
    done = machine_0(rendezvous, prefix=namespaces[0])
    assert len(done.stdout.split()) == TASK.steps, done.stderr
    said, _ = second.communicate(timeout=30)
    assert second.returncode == 0 and "launch 1: 1 ranks" in said
