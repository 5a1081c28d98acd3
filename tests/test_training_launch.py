"""However a rank ends, the launch ends with it, names the rank that failed first, and leaves no process behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import cloudpickle
import psutil
import pytest

from kit.errors import UserError
from kit.measure.process import SpawnedWorker, WorkerFailed
from kit.techniques.training import checkpoint, strategies
from kit.techniques.training.launch import RankFailed, Ranks, in_worker
from kit.techniques.training.workload import Task, image_classifier

cloudpickle.register_pickle_by_value(sys.modules[__name__])


def noise():
    """A little data that loads at once."""
    import torch

    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(64, 1, 28, 28, generator=generator), torch.arange(64) % 10
    return (inputs, targets), (inputs, targets)


TASK = Task(partial(image_classifier, dim=16, layers=4, heads=2), noise, batch=16, check_steps=8)


def on_rank(world, number, fault):
    """Let one rank come to grief, while the others wait for it in a collective."""
    import torch
    import torch.distributed as dist

    if world.rank == number:
        fault()
    dist.all_reduce(torch.zeros(1))


def raises():
    raise ValueError("the fifth wheel\ncame off")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def hangs():
    time.sleep(1000)


def pids_of(ranks):
    return [process.pid for process in ranks._processes]


def failed(fault, number=2, timeout_s=60.0):
    """Start three ranks, of which one fails, and return their process ids with the reason."""
    ranks = Ranks(3, timeout_s=timeout_s)
    try:
        ranks.order(on_rank, number, fault)
    except RankFailed as error:
        return pids_of(ranks), str(error), ranks.over
    return pids_of(ranks), "", ranks.over


def all_gone(pids, within_s=60.0):
    """Return whether all processes end soon; a zombie has ended."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        alive = []
        for pid in pids:
            with contextlib.suppress(psutil.Error):
                alive.append(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
        if not any(alive):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    "fault, number, reason",
    [
        (raises, 2, "rank 2: ValueError: the fifth wheel came off"),
        (killed, 1, "rank 1 was killed by SIGKILL: most likely the system ran out of memory"),
        (hangs, 1, "rank 1 hung: others waited 3 s for it"),
    ],
)
def test_the_rank_that_failed_first_is_named(fault, number, reason):
    """Not the echo that its end has in the others; and all ranks end."""
    pids, found, over = in_worker(failed, fault, number, 3.0 if fault is hangs else 60.0)
    assert found == over == reason
    assert all_gone(pids)


def hello(world, name):
    return f"{name} {world.rank}"


def refuses(world):
    raise UserError("give another task")


def test_orders():
    """Answers come by rank, also long after the ranks' timeout; a refusal ends nothing; closed ranks say so, and
    others can be started in the same process."""
    with Ranks(3, timeout_s=1.0) as ranks:
        assert ranks.order(hello, "rank") == ["rank 0", "rank 1", "rank 2"]
        assert ranks.alone(hello, "alone") == ["alone 0"]
        time.sleep(1.5)
        with pytest.raises(UserError, match="give another task"):
            ranks.order(refuses)
        assert ranks.order(hello, "again")[2] == "again 2"
        pids = pids_of(ranks)
    assert all_gone(pids)
    with pytest.raises(RankFailed, match="they were closed"):
        ranks.order(hello, "late")
    with Ranks(2) as ranks:
        assert ranks.order(hello, "new") == ["new 0", "new 1"]
    with pytest.raises(UserError, match="at least 1"):
        Ranks(0)


def waiting(folder, fault):
    """Start ranks, write down their process ids, and let a rank hang in no collective."""
    ranks = Ranks(3)
    Path(folder, "pids").write_text(" ".join(map(str, pids_of(ranks))))
    return lambda: ranks.order(on_rank, 1, fault)


def test_nothing_outlives_the_worker(tmp_path):
    """A worker that is killed takes a hanging rank with it."""
    worker = SpawnedWorker(1, 60)
    worker.order("setup", cloudpickle.dumps((waiting, (str(tmp_path), hangs))))
    pids = list(map(int, (tmp_path / "pids").read_text().split()))
    os.kill(worker._process.pid, signal.SIGKILL)
    with pytest.raises(WorkerFailed, match="killed by SIGKILL"):
        worker.order("first_call")
    worker.end()
    assert all_gone(pids)


def test_several_machines_train_as_one(tmp_path):
    """Two torchruns, as on two machines, meet: DDP on their ranks is compared with one process and passes the check."""
    options = f"--nnodes=2 --nproc-per-node=1 --rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:{free_port()}"
    program = "-m kit.techniques.training.variants ddp --batch 4 --time-budget-s 0.1"
    command = [sys.executable, "-m", "torch.distributed.run", *options.split(), *program.split()]
    environment = os.environ | {"KIT_RUN": str(tmp_path), "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            command, env=environment, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    table = "".join(output for output, _ in outputs)
    assert "single" in table and "ddp" in table and "ranks 2" in table and "rejected" not in table


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def saved(ranks, folder, strategy=strategies.fsdp, task=TASK, steps=8):
    return ranks.order(checkpoint.train_saving, strategy, replace(task, check_steps=steps), 3, str(folder), 0)[0]


def test_a_killed_rank_costs_the_steps_since_the_last_checkpoint():
    """The first launch names the killed rank; the second resumes after the last checkpoint, with the same losses."""
    chart = checkpoint.restart(TASK, strategies.fsdp)
    assert chart.title == "A rank killed in step 5: training resumes after step 3"
    assert "rank 1 was killed by SIGKILL" in chart.note
    whole, after = chart.series
    assert after.x == [4, 5, 6, 7, 8] and after.y == pytest.approx(whole.y[3:], abs=1e-6)
    with pytest.raises(UserError, match="saves nothing before step 5"):
        checkpoint.restart(TASK, strategies.fsdp, every=5)


def test_other_ranks_and_strategies_resume(tmp_path):
    """A checkpoint of two ranks of FSDP2 is read by four ranks of other strategies, momentum included."""
    with Ranks(2) as ranks:
        whole = saved(ranks, tmp_path / "whole")["losses"]
        saved(ranks, tmp_path / "cut", steps=4)
    assert checkpoint.newest(tmp_path / "cut") == 3 and len(list((tmp_path / "cut").iterdir())) == 1
    with Ranks(4) as ranks:
        for strategy in (strategies.pipeline_1f1b, strategies.fsdp_tensor):
            folder = shutil.copytree(tmp_path / "cut", tmp_path / strategy.__name__)
            found = saved(ranks, folder, strategy)
            assert found["resumed_from"] == 3
            assert found["losses"] == pytest.approx(whole[3:], abs=2e-6)


def test_a_checkpoint_is_complete_or_not_read(tmp_path):
    """What was being written when a rank died is never read, and goes with the next checkpoint; the newest is by
    number; a checkpoint of another task is refused."""
    partial_one = tmp_path / "step-12.partial"
    partial_one.mkdir()
    (tmp_path / "step-9").mkdir()
    (tmp_path / "step-10").mkdir()
    assert checkpoint.newest(tmp_path) == 10
    (tmp_path / "step-9").rmdir()
    (tmp_path / "step-10").rmdir()
    with Ranks(2) as ranks:
        assert saved(ranks, tmp_path)["resumed_from"] == 0
        assert [path.name for path in tmp_path.iterdir()] == ["step-6"]
        with pytest.raises(UserError, match="of another task"):
            saved(ranks, tmp_path, task=replace(TASK, lr=0.01))
